using System.Numerics;
using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;

namespace Native.Kernels.Ilgpu;

/// <summary>Memory of the host and as much of the device, between which words are copied. It grows to the largest
/// step.</summary>
/// <remarks>ILGPU copies whole buffers of the host, so there is one for each power of two over the same memory: a copy
/// moves at most twice the words asked for, and allocates nothing.</remarks>
internal sealed unsafe class IlgpuTransfer(IlgpuDevice device, string what) : IDisposable
{
    private const int LeastBits = 8;

    private readonly List<CPUMemoryBuffer> _parts = []; // of 2^8 words, 2^9 ...
    private MemoryBuffer1D<byte, Stride1D.Dense>? _device;

    /// <summary>The host's words.</summary>
    public int* Host { get; private set; }

    /// <summary>The device's words.</summary>
    public ArrayView<int> Device => _device!.View.BaseView.Cast<int>();

    /// <summary>Makes room; what was there is lost. Nothing may be on its way.</summary>
    public void Reserve(long words)
    {
        int bits = BitsOf(words);
        if (_parts.Count > bits - LeastBits) return;
        long bytes = 4L << bits;
        MemoryBuffer1D<byte, Stride1D.Dense> larger = device.Allocate(bytes, what);
        Dispose();
        _device = larger;
        Host = (int*)NativeMemory.AlignedAlloc((nuint)bytes, 64);
        for (int i = LeastBits; i <= bits; i++)
            _parts.Add(CPUMemoryBuffer.Create(device.Accelerator, (nint)Host, 1L << i, sizeof(int)));
    }

    /// <summary>Queues the copy of the first words to the device.</summary>
    public void Up(long words)
    {
        CPUMemoryBuffer part = _parts[BitsOf(words) - LeastBits];
        Device.SubView(0, part.Length).CopyFrom(device.Stream, part.AsArrayView<int>(0, part.Length));
    }

    /// <summary>Queues the copy of the first words from the device.</summary>
    public void Down(long words)
    {
        CPUMemoryBuffer part = _parts[BitsOf(words) - LeastBits];
        Device.SubView(0, part.Length).CopyTo(device.Stream, part.AsArrayView<int>(0, part.Length));
    }

    private static int BitsOf(long words) =>
        Math.Max(LeastBits, 64 - BitOperations.LeadingZeroCount((ulong)Math.Max(words, 1) - 1));

    public void Dispose()
    {
        foreach (CPUMemoryBuffer part in _parts) part.Dispose();
        _parts.Clear();
        _device?.Dispose();
        _device = null;
        NativeMemory.AlignedFree(Host);
        Host = null;
    }
}

/// <summary>Memory of the device that grows to the largest step.</summary>
internal sealed class IlgpuBuffer(IlgpuDevice device, string what) : IDisposable
{
    private MemoryBuffer1D<byte, Stride1D.Dense>? _buffer;

    /// <summary>All of it.</summary>
    public ArrayView<float> Floats => _buffer!.View.BaseView.Cast<float>();

    /// <summary>All of it.</summary>
    public ArrayView<uint> Words => _buffer!.View.BaseView.Cast<uint>();

    /// <summary>Makes room. True where the memory is another than before: what was there is lost.</summary>
    public bool Reserve(long bytes)
    {
        if (bytes <= (_buffer?.LengthInBytes ?? 0)) return false;
        MemoryBuffer1D<byte, Stride1D.Dense> larger = device.Allocate(bytes + bytes / 2, what);
        _buffer?.Dispose();
        _buffer = larger;
        return true;
    }

    public void Dispose()
    {
        _buffer?.Dispose();
        _buffer = null;
    }
}
