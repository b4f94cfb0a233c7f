using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Machine;

namespace Native.Bench.Common;

/// <summary>What is said of the machine that measured.</summary>
internal static partial class Machine
{
    /// <summary>The processor as it names itself, where the system tells.</summary>
    public static string Processor { get; } = ProcessorName(Cpuinfo());

    /// <summary>A folder's name for results of machines like this one, e.g. <c>amd-epyc-f25m17-2c-avx512</c>: model
    /// (its family and number where the name has none), cores, the instructions that Native takes.</summary>
    public static string Slug { get; } = SlugOf(Processor, Processors.PhysicalCores(), MicroKernels.Best);

    /// <summary>The same of any machine.</summary>
    internal static string SlugOf(string processor, int cores, CpuVariant variant)
    {
        // AMD EPYC 9755 128-Core Processor; Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz: what isn't the model's name
        // goes.
        string model = Slugged(Ornaments().Replace(processor, " "));
        return string.Create(CultureInfo.InvariantCulture, $"{model}-{cores}c-{variant.ToString().ToLowerInvariant()}");
    }

    /// <summary>Small letters and digits, with one hyphen for whatever stands between.</summary>
    internal static string Slugged(string name) =>
        Others().Replace(name.ToLowerInvariant(), "-").Trim('-') is { Length: > 0 } slug ? slug : "unnamed";

    /// <summary>The name in lines of Linux's <c>/proc/cpuinfo</c>, e.g. <c>AMD EPYC 9755 128-Core Processor</c>;
    /// virtual machines often hide the number, which family and model stand for then: <c>AMD EPYC f25m17</c>.</summary>
    internal static string ProcessorName(IEnumerable<string> cpuinfo)
    {
        List<string> lines = [.. cpuinfo];
        if (Field("model name") is not { } name)
            return Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? $"{RuntimeInformation.OSArchitecture}";
        return name.Any(char.IsAsciiDigit) || Field("cpu family") is not { } family || Field("model") is not { } model
            ? name : $"{name} f{family}m{model}";

        string? Field(string key) =>
            lines.Where(line =>
                line.Contains(':', StringComparison.Ordinal)
                    && line.AsSpan(0, line.IndexOf(':')).Trim().SequenceEqual(key))
                .Select(line => line[(line.IndexOf(':') + 1)..].Trim()).FirstOrDefault();
    }

    private static string[] Cpuinfo()
    {
        const string Cpus = "/proc/cpuinfo";
        return File.Exists(Cpus) ? File.ReadAllLines(Cpus) : [];
    }

    [GeneratedRegex(@"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", RegexOptions.IgnoreCase)]
    private static partial Regex Ornaments();

    [GeneratedRegex("[^a-z0-9_.]+")]
    private static partial Regex Others();
}
