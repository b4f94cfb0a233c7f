using System.Globalization;
using Native.Bench.Common;
using Native.Bench.Throughput;
using Native.Kernels.Cpu.Machine;

namespace Native.Bench.Kernels;

/// <summary>What one thread of this machine reads and computes at most, probed again and again while kernels are
/// measured.</summary>
internal sealed class KernelLimits : IDisposable
{
    private readonly MemoryBandwidth _memory = new(threads: 1);
    private readonly WorkerPool _pool = new(1);
    private readonly ArithmeticLoop _floatLoop = ArithmeticPeak.Fastest(ArithmeticPeak.FloatLoops)!, _integerLoop;
    private readonly List<double> _read = [], _integers = [], _floats = [];

    // without instructions for them, integers are multiplied as floats
    public KernelLimits() => _integerLoop = ArithmeticPeak.Fastest(ArithmeticPeak.Int8Loops) ?? _floatLoop;

    /// <summary>Bytes a nanosecond: the median of the probes.</summary>
    public double Read => Statistics.Median(_read) / 1e9;

    /// <summary>Operations a nanosecond on integers of 8 bits.</summary>
    public double Integers => Statistics.Median(_integers) / 1e9;

    /// <summary>Operations a nanosecond in float32.</summary>
    public double Floats => Statistics.Median(_floats) / 1e9;

    /// <summary>All of them in a sentence.</summary>
    public string Text => string.Create(CultureInfo.InvariantCulture,
        $"One thread reads {Read:0.0} GB/s here and does {Integers:0} GOP/s on int8 "
            + $"({_integerLoop.Instructions}), {Floats:0} GOP/s in float32 ({_floatLoop.Instructions}): medians "
            + $"of {_read.Count} probes between the benchmarks.");

    /// <summary>Probes once.</summary>
    public void Sample()
    {
        _read.Add(_memory.Measure());
        _integers.Add(ArithmeticPeak.OperationsPerSecond(_integerLoop, _pool));
        _floats.Add(ArithmeticPeak.OperationsPerSecond(_floatLoop, _pool));
    }

    public void Dispose()
    {
        _memory.Dispose();
        _pool.Dispose();
    }
}
