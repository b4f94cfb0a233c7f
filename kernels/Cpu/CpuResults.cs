using System.Runtime.InteropServices;
using Native.Kernels.Sampling;

namespace Native.Kernels.Cpu;

/// <summary>A launched step's results until they are collected. Memory grows to the largest step seen, so later steps
/// allocate nothing.</summary>
internal sealed unsafe class CpuResults : IDisposable
{
    private SampledToken[] _sampled = [];
    private TokenLogprob[] _alternatives = [];
    private int[] _hiddenRows = [];
    private float* _hidden; // [hidden rows, width]
    private nuint _hiddenFloats;
    private int _alternativeCount, _hiddenCount, _hiddenWidth;

    /// <summary>Rows that are sampled or scored.</summary>
    public int Rows { get; private set; }

    /// <summary>The best tokens of all rows.</summary>
    public Span<TokenLogprob> Alternatives => _alternatives.AsSpan(0, _alternativeCount);

    /// <summary>Makes room for a step's results.</summary>
    public void Begin(in Batch batch)
    {
        Rows = batch.SampleRows.Length;
        if (_sampled.Length < Rows) _sampled = new SampledToken[Rows];
        _alternativeCount = batch.AlternativeCount;
        if (_alternatives.Length < _alternativeCount)
            _alternatives = new TokenLogprob[Math.Max(64, 2 * _alternativeCount)];
        _hiddenCount = batch.HiddenRows.Length;
        if (_hiddenRows.Length < _hiddenCount) _hiddenRows = new int[_hiddenCount];
        batch.HiddenRows.CopyTo(_hiddenRows);
        _hiddenWidth = 0;
    }

    /// <summary>Row <paramref name="row"/>'s token.</summary>
    public ref SampledToken Sampled(int row) => ref _sampled[row];

    /// <summary>The batch's row whose hidden state is number <paramref name="index"/>.</summary>
    public int HiddenRow(int index) => _hiddenRows[index];

    /// <summary>Where the hidden states go, shape [E, <paramref name="width"/>].</summary>
    public Tensor Hidden(int width)
    {
        _hiddenWidth = width;
        nuint floats = checked((nuint)_hiddenCount * (nuint)width);
        if (floats > _hiddenFloats)
        {
            _hidden = (float*)NativeMemory.Realloc(_hidden, floats * sizeof(float));
            _hiddenFloats = floats;
        }
        return new Tensor((nint)_hidden, _hiddenCount, width, DType.F32);
    }

    /// <summary>Gives the results.</summary>
    /// <exception cref="ArgumentException">A span is too short.</exception>
    public void CopyTo(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden)
    {
        int floats = _hiddenCount * _hiddenWidth;
        if (sampled.Length < Rows || alternatives.Length < _alternativeCount || hidden.Length < floats)
            throw new ArgumentException(
                $"the step has {Rows} tokens, {_alternativeCount} alternatives and {floats} hidden values; "
                + $"there is room for {sampled.Length}, {alternatives.Length} and {hidden.Length}");
        _sampled.AsSpan(0, Rows).CopyTo(sampled);
        Alternatives.CopyTo(alternatives);
        new ReadOnlySpan<float>(_hidden, floats).CopyTo(hidden);
    }

    public void Dispose()
    {
        NativeMemory.Free(_hidden);
        _hidden = null;
        _hiddenFloats = 0;
    }
}
