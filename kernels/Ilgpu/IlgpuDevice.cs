using System.Globalization;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using ILGPU.Runtime.OpenCL;

namespace Native.Kernels.Ilgpu;

/// <summary>A device that ILGPU found.</summary>
/// <param name="Index">Its number.</param>
/// <param name="Device">The library's.</param>
internal readonly record struct IlgpuFound(int Index, Device Device)
{
    /// <summary>False for what OpenCL makes of processors.</summary>
    public bool IsGpu => Device is not CLDevice { DeviceType: CLDeviceType.CL_DEVICE_TYPE_CPU };

    private string Driver => Device is not CLDevice { PlatformName: { } platform } ? "CUDA"
        : platform == "Portable Computing Language" ? "OpenCL by PoCL" : $"OpenCL by {platform}";

    /// <summary>Its name, its driver, and whether it is a GPU.</summary>
    public override string ToString() => $"{Device.Name} ({Driver}{(IsGpu ? "" : ", processors")})";
}

/// <summary>An opened device with its kernels. One that is closed is kept, and taken by who opens it next: compiling
/// the kernels takes seconds.</summary>
/// <remarks>One backend at a time has it: the arguments of an OpenCL kernel are the kernel's, so two threads may not
/// launch the same one.</remarks>
internal sealed class IlgpuDevice : IDisposable
{
    private static IlgpuDevice? s_idle;

    private IlgpuDevice(IlgpuFound found)
    {
        Found = found;
        if (found.Device is CLDevice device) IlgpuLibraries.AllowWithoutGenericPointers(device);
        try
        {
            Accelerator = found.Device.CreateAccelerator(IlgpuLibraries.Context!);
            if (Accelerator.MaxNumThreadsPerGroup < RowKernels.Threads)
                throw new IlgpuException($"{found} has groups of {Accelerator.MaxNumThreadsPerGroup} threads; the "
                    + $"kernels need {RowKernels.Threads}");
            Kernels = new IlgpuKernels(Accelerator);
        }
        catch (Exception e) when (IlgpuException.IsOf(e))
        {
            throw IlgpuException.Of($"{found} can't be opened", e);
        }
    }

    /// <summary>What was opened.</summary>
    public IlgpuFound Found { get; }

    /// <summary>The library's device.</summary>
    public Accelerator Accelerator { get; }

    /// <summary>Everything is queued here.</summary>
    public AcceleratorStream Stream => Accelerator.DefaultStream;

    /// <summary>Its kernels, each compiled when it is first asked for.</summary>
    public IlgpuKernels Kernels { get; }

    /// <summary>Whether it failed, so that nobody is to have it again.</summary>
    public bool IsBroken { get; set; }

    /// <summary>All devices, NVIDIA's by CUDA first, then GPUs by OpenCL.</summary>
    public static IReadOnlyList<IlgpuFound> All()
    {
        if (IlgpuLibraries.Context is not { } context) return [];
        Device[] found = [.. context.Devices.Where(device => device is CudaDevice),
            .. context.Devices.OfType<CLDevice>().OrderBy(device => !new IlgpuFound(0, device).IsGpu)];
        return [.. found.Select((device, i) => new IlgpuFound(i, device))];
    }

    /// <summary>Opens the device that is asked for.</summary>
    /// <param name="choice">Its number, or a part of its name that no other has, in any case; null for the first
    /// GPU.</param>
    /// <exception cref="IlgpuException">No device, or the one that was chosen can't be opened.</exception>
    /// <exception cref="NotSupportedException">No device answers to the choice, or several do: the message lists all.
    /// </exception>
    public static IlgpuDevice Open(string? choice)
    {
        IReadOnlyList<IlgpuFound> all = All();
        string list = string.Join("; ", all.Select(found => $"{found.Index}: {found}"));
        if (all.Count == 0)
            throw new IlgpuException("no device was found: neither libcuda.so.1 nor an OpenCL driver with a device is "
                + "there. Install the GPU's driver (on Debian pocl-opencl-icd makes a device of the processors).",
                meansNoGpu: true);
        if (choice is null && !all.Any(found => found.IsGpu))
            throw new IlgpuException($"no GPU was found. What --device may name: {list}.", true);
        return Take(choice is null ? all.First(found => found.IsGpu) : Find(all, choice, list));
    }

    private static IlgpuFound Find(IReadOnlyList<IlgpuFound> all, string choice, string list)
    {
        // A number that no device has may be a part of a name: 4090.
        if (int.TryParse(choice, NumberStyles.None, CultureInfo.InvariantCulture, out int index) && index < all.Count)
            return all[index];
        IlgpuFound[] named = [.. all.Where(found => choice.Length > 0
            && found.ToString().Contains(choice, StringComparison.OrdinalIgnoreCase))];
        if (named.Length == 1) return named[0];
        string wrong = named.Length == 0 ? "which is no device's number or part of its name"
            : "which is a part of several names: take a number, or more of the name";
        throw new NotSupportedException($"--device is '{choice}', {wrong}. There are: {list}.");
    }

    private static IlgpuDevice Take(IlgpuFound found)
    {
        IlgpuDevice? idle = Interlocked.Exchange(ref s_idle, null);
        if (idle?.Found.Device == found.Device) return idle;
        idle?.Close();
        return new IlgpuDevice(found);
    }

    /// <summary>Memory of its own, as bytes.</summary>
    /// <exception cref="IlgpuException">There is not that much.</exception>
    public MemoryBuffer1D<byte, Stride1D.Dense> Allocate(long bytes, string what)
    {
        try
        {
            return Accelerator.Allocate1D<byte>(Math.Max(16, (bytes + 15) / 16 * 16));
        }
        catch (Exception e) when (IlgpuException.IsOf(e))
        {
            throw IlgpuException.Of($"{bytes >> 20} MiB for {what} can't be had on {Found}. Lower "
                + "--gpu-memory-utilization, --kv-cache-memory, --max-model-len or --max-num-seqs, or load a smaller "
                + "quantization", e);
        }
    }

    /// <summary>Gives it back. What was allocated was freed before.</summary>
    public void Dispose()
    {
        IlgpuDevice? other = IsBroken ? this : Interlocked.Exchange(ref s_idle, this);
        other?.Close();
    }

    private void Close() => Accelerator.Dispose();
}
