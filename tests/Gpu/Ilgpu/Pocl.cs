using Native.Kernels;
using Native.Kernels.Ilgpu;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>The processors as an OpenCL device (PoCL), where its driver is installed; in a process of
/// Oclgrind that one.</summary>
internal static class Pocl
{
    /// <summary>Names another device: a part of what the list says.</summary>
    public const string Variable = "NATIVE_TEST_OPENCL";

    private static readonly Lazy<string?> s_name = new(() =>
        IlgpuDevice.All().Where(found => found.ToString().Contains(
                Environment.GetEnvironmentVariable(Variable) ?? "PoCL", StringComparison.Ordinal))
            .Select(found => $"{found.Index}").FirstOrDefault());

    /// <summary>What <c>--device</c> says for it; skips the test where it is not there.</summary>
    public static string Device
    {
        get
        {
            Assert.SkipWhen(s_name.Value is null, "no OpenCL device of PoCL (Debian: pocl-opencl-icd)");
            return s_name.Value!;
        }
    }

    /// <summary>A backend on it.</summary>
    public static IBackend Open() => new IlgpuBackend(Device);
}
