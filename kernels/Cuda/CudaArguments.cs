using System.Runtime.InteropServices;
using Native.Kernels.Formats;
using Native.Kernels.Gpu;

namespace Native.Kernels.Cuda;

/// <summary>As <c>Product</c> lies in <c>matmul.cu</c>. Addresses are of the device.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Product
{
    public ulong X, Scales, Norm, Weights, Groups, Bias, Y;
    public uint Tokens, Rows, Columns, Stride, Ending;
}

/// <summary>As <c>Attention</c> lies in <c>attention.cu</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Attention
{
    public ulong Step, Qkv, QueryNorm, KeyNorm, Keys, Values, Partials, Y;
    public uint Heads, KvHeads, Size, Rope, Pairs, Interleaved, BlockSize, Parts, Window, First;
    public float Scale, SoftCap, NormEpsilon;
}

/// <summary>As <c>Sampling</c> lies in <c>sampler.cu</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SamplingArguments
{
    public ulong Step, Logits, Scores, Counts;
    public uint First, Vocabulary;
}

/// <summary>Memory of the device that grows to the largest step.</summary>
internal sealed class CudaBuffer(CudaDevice device, string what) : IDisposable
{
    /// <summary>Where it is.</summary>
    public ulong Address { get; private set; }

    /// <summary>Bytes that it has.</summary>
    public long Capacity { get; private set; }

    /// <summary>Makes room. True where the memory is another than before: what was there is lost. Where there is none
    /// all stays as it was, so that steps that need no more, and those that are recorded, go on.</summary>
    public bool Reserve(long bytes)
    {
        if (bytes <= Capacity) return false;
        long capacity = bytes + bytes / 2;
        ulong address = device.Allocate(capacity, what);
        Dispose();
        (Address, Capacity) = (address, capacity);
        return true;
    }

    public void Dispose()
    {
        if (Capacity == 0) return;
        Capacity = 0;
        device.Free(Address);
    }
}

/// <summary>Pinned memory of the host that grows to the largest step.</summary>
internal sealed class CudaPinned(CudaDevice device) : IDisposable
{
    private long _capacity;

    /// <summary>Where it is.</summary>
    public nint Address { get; private set; }

    /// <summary>Makes room; what was there is lost. Nothing may be on its way from or to it.</summary>
    public void Reserve(long bytes)
    {
        if (bytes <= _capacity) return;
        long capacity = bytes + bytes / 2;
        nint address = device.AllocatePinned(capacity);
        Dispose();
        (Address, _capacity) = (address, capacity);
    }

    public void Dispose()
    {
        if (_capacity == 0) return;
        _capacity = 0;
        device.FreePinned(Address);
    }
}

/// <summary>The kernels of a device, by their names in the sources.</summary>
internal sealed class CudaFunctions : IDisposable
{
    private readonly List<CudaModule> _modules = [];

    public CudaFunctions(CudaDevice device)
    {
        Target = CudaKernels.TargetFor(device.Capability, device.DriverVersion);
        Dictionary<string, CudaModule> modules = [];
        foreach (string file in CudaKernels.Files)
        {
            modules[file] = new CudaModule(device, CudaKernels.Ptx(file, Target), file);
            _modules.Add(modules[file]);
        }
        CudaFunction Of(string file, string name) => modules[file].Function(name);
        CudaFunction[] OfLayouts(string name) =>
            [.. Enum.GetNames<WeightLayout>().Select(layout => Of("matmul", name + layout))];
        CacheTypes = [.. Enum.GetValues<DType>().Where(type => type != DType.FP8 || Target != "sm_80")];
        CudaFunction[] OfTypes(string name) => [.. CacheTypes.Select(type => Of("attention", name + type))];
        (RmsNorm, RmsScale) = (Of("elementwise", nameof(RmsNorm)), Of("elementwise", nameof(RmsScale)));
        (Add, SoftCap) = (Of("elementwise", nameof(Add)), Of("elementwise", nameof(SoftCap)));
        (Gather, Gate) = (Of("elementwise", nameof(Gather)), Of("elementwise", nameof(Gate)));
        (MatMul, MatMulGate) = (OfLayouts(nameof(MatMul)), OfLayouts(nameof(MatMulGate)));
        Embed = OfLayouts(nameof(Embed));
        (Store, Attend) = (OfTypes(nameof(Store)), OfTypes(nameof(Attend)));
        (Combine, CopyBlocks) = (Of("attention", nameof(Combine)), Of("attention", nameof(CopyBlocks)));
        Sample = Of("sampler", nameof(Sample));
        Repack = WeightLayouts.Formats.ToDictionary(format => format.Type, format => Of("repack", format.Kernel));
    }

    /// <summary>What their PTX was made for.</summary>
    public string Target { get; }

    /// <summary>Types of KV caches that they keep.</summary>
    public IReadOnlyList<DType> CacheTypes { get; }

    public CudaFunction RmsNorm { get; }

    public CudaFunction RmsScale { get; }

    public CudaFunction Add { get; }

    public CudaFunction SoftCap { get; }

    public CudaFunction Gather { get; }

    public CudaFunction Gate { get; }

    /// <summary>By <see cref="WeightLayout"/>.</summary>
    public CudaFunction[] MatMul { get; }

    public CudaFunction[] MatMulGate { get; }

    public CudaFunction[] Embed { get; }

    /// <summary>By <see cref="DType"/>.</summary>
    public CudaFunction[] Store { get; }

    public CudaFunction[] Attend { get; }

    public CudaFunction Combine { get; }

    public CudaFunction CopyBlocks { get; }

    public CudaFunction Sample { get; }

    /// <summary>By the format of the file.</summary>
    public IReadOnlyDictionary<TensorType, CudaFunction> Repack { get; }

    public void Dispose()
    {
        foreach (CudaModule module in _modules) module.Dispose();
    }
}
