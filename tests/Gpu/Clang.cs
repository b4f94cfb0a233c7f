using System.Diagnostics;

namespace Native.Tests.Gpu;

/// <summary>The clang 19 that kernels are compiled with, where it is.</summary>
internal static class Clang
{
    public const string Name = "clang-19";

    public static bool IsHere { get; } = Find() is not null;

    private static string? Find() => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator)
        .Select(folder => Path.Combine(folder, Name)).FirstOrDefault(File.Exists);

    /// <summary>CUDA source to PTX for sm_80, or another. The folder's own path is nowhere in it.</summary>
    public static string ToPtx(string path, string architecture = "sm_80", string version = "ptx74") =>
        Run(Path.GetDirectoryName(path)!, "-x", "cuda", Path.GetFileName(path), "--cuda-device-only",
            $"--cuda-gpu-arch={architecture}", "-nocudainc", "-nocudalib", "-S", "-O3", "-ffp-contract=off",
            "-gline-tables-only", "-fdebug-compilation-dir=.", "-Xclang", "-target-feature", "-Xclang", $"+{version}",
            "-o", "-");

    /// <summary>C++ source to a library of this machine.</summary>
    public static void ToLibrary(string path, string library, string optimization) =>
        Run(Path.GetDirectoryName(path)!, "-x", "c++", path, "-shared", "-fPIC", optimization, "-ffp-contract=off",
            "-o", library);

    private static string Run(string folder, params string[] arguments)
    {
        ProcessStartInfo start = new(Name, arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0 ? output : throw new InvalidOperationException(error.Result);
    }
}
