using Native.Kernels;
using Native.Kernels.Sampling;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Tests.Server;

/// <summary>A model whose next token follows from the last one alone, so that every test knows what must be written:
/// letters go on with the alphabet.</summary>
/// <remarks>
/// a to y go on with the next letter, z with a full stop, a full stop with the end. A to Z go round for ever. '#' goes
/// on with the two bytes of é and then w. '!' gives NaN logits. '?' goes on with the user's mark. The assistant's mark
/// goes on with v.
/// </remarks>
internal sealed class ScriptedRunner : IModelRunner
{
    public const int Bos = 256;
    public const int End = 257;
    public const int User = 258;
    public const int Assistant = 259;
    public const int System = 260;

    public const string Template =
        "{{ bos_token }}{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + m.role) }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

    private int _steps;

    public ScriptedRunner(int blocks = 64, int maxModelLength = 256, int maxSequences = 128)
    {
        Info = new ModelInfo
        {
            Name = "scripted",
            Architecture = "scripted",
            Backend = "none",
            ParameterCount = 0,
            WeightBytes = 0,
            KvCacheBytes = 0,
            KvCacheType = DType.F32,
            VocabularySize = 261,
            MaxModelLength = maxModelLength,
            BlockSize = 4,
            BlockCount = blocks,
            MaxBatchedTokens = 2048,
            MaxSequences = maxSequences,
        };
    }

    private SampledToken[] _sampled = [];
    private TokenLogprob[] _alternatives = [];

    public ModelInfo Info { get; }

    /// <summary>Steps wait here while it is reset.</summary>
    public ManualResetEventSlim Gate { get; } = new(true);

    /// <summary>Collecting waits here while it is reset.</summary>
    public ManualResetEventSlim CollectGate { get; } = new(true);

    /// <summary>How long each step sleeps, for requests that must not end by themselves.</summary>
    public TimeSpan StepTime { get; init; }

    /// <summary>How the row sampled last was to be sampled.</summary>
    public RowSampling LastSampling { get; private set; }

    /// <summary>What broke it for good, if anything did.</summary>
    public Exception? Fault { get; set; }

    /// <summary>Steps begun.</summary>
    public int Steps => Volatile.Read(ref _steps);

    /// <summary>Byte-level, one token a byte, with a begin token, an end token and three roles.</summary>
    public static Tokenizer Tokenizer(bool template = true)
    {
        string[] special = ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"];
        return new Tokenizer(new TokenizerDefinition
        {
            Source = "test",
            Pieces = [.. Enumerable.Range(0, 256).Select(b => ByteAlphabet.Character((byte)b).ToString()), .. special],
            Types = [.. Enumerable.Repeat(TokenType.Normal, 256), .. Enumerable.Repeat(TokenType.Control, special.Length)],
            ByteLevel = true,
            BosId = Bos,
            EosId = End,
            Prefix = [Bos],
            ChatTemplate = template ? Template : null,
            ToolUseTemplate = template ? "{{ bos_token }}<|system|>{{ tools[0].function.name }}<|end|>" : null,
        });
    }

    public void Launch(in Batch batch)
    {
        Interlocked.Increment(ref _steps);
        Gate.Wait();
        if (Fault is not null) throw Fault;
        if (StepTime > TimeSpan.Zero) Thread.Sleep(StepTime);
        _sampled = new SampledToken[batch.SampleRows.Length];
        _alternatives = new TokenLogprob[batch.AlternativeCount];
        Compute(batch, _sampled, _alternatives);
    }

    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        CollectGate.Wait();
        _sampled.CopyTo(sampled);
        _alternatives.CopyTo(alternatives);
    }

    private void Compute(in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives)
    {
        for (int r = 0; r < sampled.Length; r++)
        {
            ref readonly RowSampling sampling = ref batch.Sampling[r];
            LastSampling = sampling;
            int next = sampling.Scores ? sampling.Target : Next(batch.TokenIds[batch.SampleRows[r]]);
            sampled[r] = new SampledToken(next, sampling.Scores ? -0.25f : -0.5f);
            for (int a = 0; a < sampling.Alternatives; a++) alternatives[sampling.AlternativesStart + a] = new TokenLogprob((next + a) % 128, -0.5f - a);
        }
    }

    public void Dispose()
    {
        Gate.Set();
        CollectGate.Set();
    }

    private static int Next(int token) => token switch
    {
        >= 'a' and < 'z' => token + 1,
        'z' => '.',
        '.' => End,
        >= 'A' and < 'Z' => token + 1,
        'Z' => 'A',
        '#' => 0xC3,
        0xC3 => 0xA9,
        0xA9 => 'w',
        '!' => -1,
        '?' => User,
        Assistant => 'v',
        _ => 'A',
    };
}
