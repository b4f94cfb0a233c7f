using System.Reflection;

namespace Native.Kernels.Cuda;

/// <summary>The PTX that is shipped, made by clang from the sources beside it, for the device it suits.</summary>
internal static class CudaKernels
{
    /// <summary>Files of kernels, without their endings.</summary>
    public static IReadOnlyList<string> Files { get; } = ["elementwise", "matmul", "attention", "sampler", "repack"];

    /// <summary>What PTX is made for, from the newest on: a target, the compute capability times ten that it needs, or
    /// is alone for if its name ends with an a, and the PTX version, times ten.</summary>
    public static IReadOnlyList<(string Target, int Capability, int Version)> Targets { get; } =
        [("sm_90a", 90, 81), ("sm_89", 89, 81), ("sm_80", 80, 74)];

    /// <summary>The target for a device and the CUDA version of its driver, times a thousand.</summary>
    /// <remarks>PTX 8.1 needs CUDA 12.1; every driver that is taken at all has 7.4 (PTX ISA, release notes).</remarks>
    public static string TargetFor(int capability, int driver) => Targets.First(made =>
        (made.Target.EndsWith('a') ? capability == made.Capability : capability >= made.Capability)
        && (made.Version <= 80 || driver >= 12_010)).Target;

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
