using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Native.Kernels.Cpu;

namespace Native.Bench;

/// <summary>What is said of the machine that measured.</summary>
internal static partial class Machine
{
    /// <summary>The processor as it names itself, where the system tells.</summary>
    public static string Processor { get; } = ProcessorName();

    /// <summary>A folder's name for results of machines like this one, e.g. <c>amd-epyc-2c-avx512</c>: model, cores, the instructions that Native takes.</summary>
    public static string Slug { get; } = SlugOf(Processor, Processors.PhysicalCores(), MicroKernels.Best);

    /// <summary>The same of any machine.</summary>
    internal static string SlugOf(string processor, int cores, CpuVariant variant)
    {
        // AMD EPYC 9755 128-Core Processor; Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz: what isn't the model's name goes.
        string model = Slugged(Ornaments().Replace(processor, " "));
        return string.Create(CultureInfo.InvariantCulture, $"{model}-{cores}c-{variant.ToString().ToLowerInvariant()}");
    }

    /// <summary>Small letters and digits, with one hyphen for whatever stands between.</summary>
    internal static string Slugged(string name) => Others().Replace(name.ToLowerInvariant(), "-").Trim('-') is { Length: > 0 } slug ? slug : "unnamed";

    private static string ProcessorName()
    {
        const string Cpus = "/proc/cpuinfo";
        string? name = File.Exists(Cpus) ? File.ReadLines(Cpus).FirstOrDefault(line => line.StartsWith("model name", StringComparison.Ordinal)) : null;
        return name is not null ? name[(name.IndexOf(':') + 1)..].Trim() : Environment.GetEnvironmentVariable("PROCESSOR_IDENTIFIER") ?? $"{RuntimeInformation.OSArchitecture}";
    }

    [GeneratedRegex(@"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", RegexOptions.IgnoreCase)]
    private static partial Regex Ornaments();

    [GeneratedRegex("[^a-z0-9_.]+")]
    private static partial Regex Others();
}
