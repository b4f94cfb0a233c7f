using System.Reflection;

namespace Native.Kernels.Cuda;

/// <summary>The PTX that is shipped, made by clang from the sources beside it, for the device it suits.</summary>
internal static class CudaKernels
{
    /// <summary>Files of kernels, without their endings.</summary>
    public static IReadOnlyList<string> Files { get; } = ["elementwise", "matmul", "attention", "sampler", "repack"];

    /// <summary>What PTX is made for: the least compute capability, times ten, and the PTX version, times ten, which
    /// says how new a driver must be.</summary>
    public static IReadOnlyList<(string Target, int Capability, int Version)> Targets { get; } = [("sm_80", 80, 74)];

    /// <summary>The text of a file for a target, as the driver takes it.</summary>
    public static byte[] Ptx(string file, string target)
    {
        string name = $"Native.Kernels.Cuda.{file}.{target}.ptx";
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"{name} is not in the program");
        byte[] bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }
}
