using System.Runtime.InteropServices;
using Native.Kernels.Cuda;
using Native.Kernels.Sampling;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>A step's header and what it names, in the machine's memory, for a kernel alone.</summary>
internal sealed unsafe class TestStep(DeviceMemory memory)
{
    private StepHeader _header;

    public int[] Ids { init => (_header.Ids, _header.Tokens) = (In("ids", value), (uint)value.Length); }

    public int[] Places { init => _header.Places = In("places", value); }

    public int[] Last { init => _header.Last = In("last", value); }

    public int[] Positions
    {
        init => (_header.Positions, _header.Tokens) = (In("positions", value), (uint)value.Length);
    }

    public int[] Slots { init => _header.Slots = In("slots", value); }

    public int[] Sequences { init => _header.Sequences = In("sequences", value); }

    /// <summary>Of one sequence.</summary>
    public int[] Table
    {
        init => (_header.Tables, _header.TableStarts) =
            (In("tables", value), In("starts of tables", [0, value.Length]));
    }

    public float[] Rotations { init => _header.Rotations[0] = In("rotations", value); }

    public int[] SampledRows
    {
        init => (_header.SampledRows, _header.SampleRows) = (In("sampled rows", value), (uint)value.Length);
    }

    public int[] SampledPlaces { init => _header.SampledPlaces = In("sampled places", value); }

    public int[] Counters { init => _header.Counters = In("counters", value); }

    public RowSampling[] Sampling
    {
        init => (_header.Sampling, _header.SampleRows) = (In("sampling", value), (uint)value.Length);
    }

    public int[] History { init => _header.History = In("history", value); }

    public TokenBias[] Biases { init => _header.Biases = In("biases", value); }

    public uint[] Masks { init => _header.Masks = In("masks", value); }

    public MemoryRange Results { init => _header.Results = (ulong)value.Data; }

    /// <summary>Its address on the device.</summary>
    public ulong Address => In("step", new[] { _header });

    /// <summary>What was put at an address of the header.</summary>
    public int[] LastNow(int count) => new Span<int>((void*)_header.Last, count).ToArray();

    /// <summary>A kernel's argument as bytes.</summary>
    public static byte[] Bytes<T>(T argument) where T : unmanaged =>
        MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in argument)).ToArray();

    private ulong In<T>(string name, T[] values) where T : unmanaged =>
        (ulong)memory.Allocate<T>(name, values).Data;
}
