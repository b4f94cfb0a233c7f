using System.Reflection;
using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Runtime.Cuda;
using ILGPU.Runtime.OpenCL;

namespace Native.Kernels.Ilgpu;

/// <summary>The drivers that ILGPU calls, and its context.</summary>
internal static class IlgpuLibraries
{
    private static readonly (string Asked, string Found)[] s_libraries =
        [("OpenCL", "libOpenCL.so.1"), ("cuda", "libcuda.so.1")];

    private static readonly Lazy<Context?> s_context = new(Create);

    /// <summary>The process's context; null where no driver is there.</summary>
    /// <exception cref="IlgpuException">The library can't start.</exception>
    public static Context? Context => s_context.Value;

    /// <summary>False where the system has no GPU's device file: drivers of processors, which take a quarter of a
    /// second and 70 MB to look at, have none.</summary>
    public static bool MayFindGpu => !OperatingSystem.IsLinux()
        || Directory.EnumerateFileSystemEntries("/dev").Any(path => Path.GetFileName(path) is "dri" or "kfd" or "dxg"
            || Path.GetFileName(path).StartsWith("nvidia", StringComparison.Ordinal));

    private static Context? Create()
    {
        // ILGPU asks for libOpenCL.so and libcuda.so, which only packages for developers have.
        if (OperatingSystem.IsLinux())
        {
            NativeLibrary.SetDllImportResolver(typeof(Context).Assembly, Resolve);
            // PoCL would take over SIGFPE for the whole process, by which .NET tells that a division can't be done. The
            // variable has to be the C library's, which knows nothing of those that .NET sets.
            _ = SetVariable("POCL_SIGFPE_HANDLER", "0", overwrite: 1);
        }
        string[] drivers = OperatingSystem.IsLinux() ? [.. s_libraries.Select(library => library.Found)]
            : ["OpenCL", "nvcuda"];
        if (!drivers.Any(Exists)) return null;
        try
        {
            // O2 finds out in which memory a pointer points; without, OpenCL devices would need generic pointers.
            return Context.Create(builder => builder.Cuda().OpenCL(_ => true).Optimize(OptimizationLevel.O2)
                .EnableAlgorithms());
        }
        catch (Exception e) when (IlgpuException.IsOf(e) || e is DllNotFoundException or EntryPointNotFoundException)
        {
            throw IlgpuException.Of("ILGPU can't start", e);
        }
    }

    [DllImport("libc", EntryPoint = "setenv")]
    private static extern int SetVariable(
        [MarshalAs(UnmanagedType.LPUTF8Str)] string name, [MarshalAs(UnmanagedType.LPUTF8Str)] string value,
        int overwrite);

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? path) =>
        Array.Find(s_libraries, library => name.Contains(library.Asked, StringComparison.OrdinalIgnoreCase)) is
        { Found: { } found } && NativeLibrary.TryLoad(found, out nint library) ? library : 0;

    private static bool Exists(string library)
    {
        if (!NativeLibrary.TryLoad(library, out nint handle)) return false;
        NativeLibrary.Free(handle);
        return true;
    }

    /// <summary>Lets ILGPU take an OpenCL device without pointers of any memory: no kernel here has them.</summary>
    public static void AllowWithoutGenericPointers(CLDevice device)
    {
        const string name = nameof(CLCapabilityContext.GenericAddressSpace);
        PropertyInfo property = typeof(CLCapabilityContext).GetProperty(name)!;
        property.GetSetMethod(nonPublic: true)!.Invoke(device.Capabilities, [true]);
    }
}
