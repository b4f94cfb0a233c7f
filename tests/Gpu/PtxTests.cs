using System.Runtime.CompilerServices;
using System.Text;
using System.Text.RegularExpressions;
using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>The PTX that is shipped is what clang 19 makes of the sources, byte for byte. <c>PTX_REWRITE=1</c> writes
/// it anew.</summary>
public sealed partial class PtxTests
{
    public static TheoryData<string, string> Files()
    {
        TheoryData<string, string> files = [];
        foreach (string file in CudaKernels.Files)
            foreach ((string target, int _, int _) in CudaKernels.Targets) files.Add(file, target);
        return files;
    }

    [Theory, MemberData(nameof(Files))]
    public void TheCommittedPtx_IsWhatItsSourceMakes(string file, string target)
    {
        Assert.SkipUnless(Clang.IsHere, $"{Clang.Name} is not installed");
        string folder = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(ThisFile())!, "../../kernels/Cuda"));
        Assert.SkipUnless(Directory.Exists(folder), "the sources are not where they were built");
        int version = CudaKernels.Targets.First(made => made.Target == target).Version;
        string made = Bare(Clang.ToPtx(Path.Combine(folder, $"{file}.cu"), target, $"ptx{version}"));
        string path = Path.Combine(folder, "ptx", $"{file}.{target}.ptx");
        if (Environment.GetEnvironmentVariable("PTX_REWRITE") == "1") File.WriteAllText(path, made);
        else
            Assert.True(made == File.ReadAllText(path), $"{path} is not what {file}.cu makes: PTX_REWRITE=1 tests/bin/"
                + "Release/net10.0/Native.Tests -class '*PtxTests' writes it anew; then build again, which embeds it");
    }

    [Fact]
    public void EverySource_IsShipped()
    {
        string folder = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(ThisFile())!, "../../kernels/Cuda"));
        Assert.SkipUnless(Directory.Exists(folder), "the sources are not where they were built");
        string?[] sources = [.. Directory.GetFiles(folder, "*.cu").Select(Path.GetFileNameWithoutExtension)];
        Assert.Equal(CudaKernels.Files.Order(), sources.Order());
    }

    [Theory, MemberData(nameof(Files))]
    public void TheMachineTakesIt_AndItNeitherSpillsNorCallsNorDividesLongs(string file, string target)
    {
        string ptx = Encoding.ASCII.GetString(CudaKernels.Ptx(file, target));
        using DeviceMemory memory = new();
        using GpuModule module = new(ptx, memory);
        Assert.NotEmpty(module.Kernels);
        Assert.Equal(target, module.Target);
        Assert.DoesNotMatch(Unwanted(), ptx);
        Assert.All(module.Kernels.Values, kernel => Assert.InRange(kernel.LiveRegisters, 1, 128));
    }

    /// <summary>A device gets the newest PTX that it and its driver take.</summary>
    [Theory]
    [InlineData(80, 12_000, "sm_80")]
    [InlineData(86, 13_000, "sm_80")]
    [InlineData(89, 12_010, "sm_89")]
    [InlineData(89, 12_000, "sm_80")]
    [InlineData(90, 12_080, "sm_90a")]
    [InlineData(90, 12_000, "sm_80")]
    [InlineData(100, 12_080, "sm_89")]
    [InlineData(120, 13_000, "sm_89")]
    public void ADevice_GetsTheNewestItTakes(int capability, int driver, string target) =>
        Assert.Equal(target, CudaKernels.TargetFor(capability, driver));

    /// <summary>Without comments, which repeat what .loc says, and labels that nothing jumps to.</summary>
    private static string Bare(string ptx)
    {
        StringBuilder bare = new("// Made by clang 19 from the .cu of this name; PtxTests holds it to that.\n");
        foreach (string line in ptx.Split('\n').Select(line => Comment().Replace(line, "")))
            if (line.Length > 0 && !Unused().IsMatch(line)) bare.Append(line).Append('\n');
        return bare.ToString();
    }

    [GeneratedRegex(@"\s*//.*$")]
    private static partial Regex Comment();

    [GeneratedRegex(@"^\$L__(tmp|func)\w*:$")]
    private static partial Regex Unused();

    [GeneratedRegex(@"\.local\b|\bcall\b|\b(div|rem)\.[su]64\b")]
    private static partial Regex Unwanted();

    private static string ThisFile([CallerFilePath] string path = "") => path;
}
