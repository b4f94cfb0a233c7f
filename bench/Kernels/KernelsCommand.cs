using System.CommandLine;
using System.Globalization;
using System.Text;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.EventProcessors;
using BenchmarkDotNet.Exporters;
using BenchmarkDotNet.Filters;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Native.Bench.Common;
using Native.Kernels.Cpu;
using Native.Server;
using Native.Server.OpenAi;
using Native.Tools;
using Perfolizer.Horology;

namespace Native.Bench.Kernels;

/// <summary><c>kernels</c>: the inner loops, by BenchmarkDotNet.</summary>
internal sealed class KernelsCommand : ToolCommand
{
    private static readonly Type[] Benchmarks =
        [typeof(MatMulBenchmarks), typeof(AttentionBenchmarks), typeof(ElementwiseBenchmarks),
            typeof(SamplerBenchmarks)];

    private readonly Option<string[]> _filter = new("--filter", "-f")
    {
        HelpName = "TEXT",
        Description =
            "Only those whose name has this text, or is like this pattern with *; may be given several times. Names "
                + "are as --list writes them.",
    };
    private readonly Option<string[]> _variants = new("--variant")
    {
        HelpName = "NAME|all",
        Description =
            $"Instead, measure matrix products with this variant of the inner loops, one "
                + $"of {string.Join(", ", MicroKernels.Supported)} here; may be given several times.",
    };
    private readonly Option<bool> _list = new("--list") { Description = "Print the names and measure nothing." };
    private readonly Option<string> _job = new("--job")
    {
        HelpName = "short|medium|long",
        Description = "How often to measure: short ends in minutes.",
        DefaultValueFactory = _ => "short",
    };

    public KernelsCommand(Terminal terminal)
        : base(terminal, "kernels",
            "Measures the inner loops on one thread with BenchmarkDotNet: matrix products of each format for one row, "
                + "four rows and a prompt, paged attention at depth, operations on elements, the sampler. Tells GB/s "
                + "(of weights, of keys and values, of operands), GOP/s, which part that is of what one thread reads "
                + "and computes at most here, and how many times faster than its plain definition each is.",
            "kernels",
            "kernels --filter Q4_0",
            "kernels --filter Attention --job medium",
            "kernels --variant all --filter \"Q4_0 4096x4096, 1 row\"",
            "kernels --list")
    {
        _job.AcceptOnlyFromAmong("short", "medium", "long");
        Add(_filter);
        Add(_variants);
        Add(_list);
        Add(_job);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string[] patterns =
            [.. (arguments.GetValue(_filter) ?? []).Select(text => text.Contains('*') ? text : $"*{text}*")];
        CpuVariant[] variants = Variants(arguments.GetValue(_variants) ?? []);
        Job job = arguments.GetRequiredValue(_job) switch
        {
            "long" => Job.LongRun,
            "medium" => Job.MediumRun,
            _ => Job.ShortRun.WithIterationTime(TimeInterval.FromMilliseconds(100)),
        };
        LogCapture log = new();
        Progress progress = new();
        ManualConfig config = Config(job, log, progress);
        if (patterns.Length > 0) config.AddFilter(new GlobFilter(patterns));

        if (variants.Length > 0)
            config.AddFilter(
                new SimpleFilter(benchmark => Variant(benchmark) is { } variant && variants.Contains(variant)));

        BenchmarkRunInfo[] benchmarks =
            [.. (variants.Length > 0 ? [typeof(MatMulVariantBenchmarks)] : Benchmarks).Select(
                type => BenchmarkConverter.TypeToBenchmarks(type, config))
                .Where(info => info.BenchmarksCases.Length > 0)];
        progress.Total = benchmarks.Sum(info => info.BenchmarksCases.Length);
        if (progress.Total == 0)
            throw new UsageException($"--filter {string.Join(", ", patterns)} fits no benchmark; --list names them.");
        if (arguments.GetValue(_list))
        {
            foreach (BenchmarkCase benchmark in benchmarks.SelectMany(info => info.BenchmarksCases))
                Terminal.Out.WriteLine(FullNameProvider.GetBenchmarkName(benchmark));
            return Cli.Success;
        }

        using KernelLimits limits = new();
        progress.Limits = limits;
        Summary[] summaries = await Terminal.ProgressAsync("Measuring", report =>
        {
            progress.Report = report;
            return Task.Run(() => BenchmarkRunner.Run(benchmarks));
        });
        if (summaries.Length == 0
            || summaries.Any(
                summary => summary.HasCriticalValidationErrors || summary.Reports.IsEmpty
                    || summary.Reports.Any(report => !report.Success)))
            throw new CommandException(
                $"BenchmarkDotNet did not measure everything: {log.FirstError ?? "it does not tell why"}");

        Terminal.Out.Write(Tables(limits, summaries));
        return Cli.Success;
    }

    private static ManualConfig Config(Job job, LogCapture log, Progress progress)
    {
        return ManualConfig.CreateEmpty()
            // a new process for each would build a project for each
            .AddJob(job.WithToolchain(new InProcessEmitToolchain(TimeSpan.FromHours(1), logOutput: false)))
            .AddColumnProvider(DefaultColumnProviders.Descriptor, DefaultColumnProviders.Params,
                DefaultColumnProviders.Statistics)
            .AddColumn(new WorkColumn("GB/s", "Bytes of the workload a second", (mean, work, _) => work.Bytes / mean))
            .AddColumn(new WorkColumn("GOP/s", "Operations of the workload a second",
                (mean, work, _) => work.Operations / mean))
            .AddColumn(new WorkColumn("% of read", "Of the bytes a second that one thread reads from memory",
                (mean, work, _) => 100 * work.Bytes / mean / progress.Limits!.Read))
            .AddColumn(new WorkColumn("% of peak", "Of the operations a second that one thread does at most",
                (mean, work, _) =>
                    100 * work.Operations / mean
                        / (work.IsInteger ? progress.Limits!.Integers : progress.Limits!.Floats)))
            .AddColumn(new WorkColumn("x definition", "Times as fast as the plain definition",
                (mean, _, definition) => definition / mean))
            .AddLogger(log)
            .AddEventProcessor(progress)
            .WithOptions(ConfigOptions.DisableLogFile)
            .WithSummaryStyle(SummaryStyle.Default.WithMaxParameterColumnWidth(60));
    }

    private static StringBuilder Tables(KernelLimits limits, Summary[] summaries)
    {
        StringBuilder tables = new(limits.Text);
        tables.AppendLine().AppendLine();
        foreach (Summary summary in summaries)
        {
            AccumulationLogger table = new();
            MarkdownExporter.GitHub.ExportToLog(summary, table);
            tables.AppendLine(table.GetLog().Trim()).AppendLine();
        }
        return tables;
    }

    private static CpuVariant[] Variants(string[] names)
    {
        if (names.Contains("all", StringComparer.OrdinalIgnoreCase)) return [.. MicroKernels.Supported];
        return [.. names.Select(
            name => Enum.TryParse(name, ignoreCase: true, out CpuVariant variant)
                && MicroKernels.Supported.Contains(variant)
            ? variant
            : throw new UsageException($"--variant is '{name}'; this processor "
                + $"runs {string.Join(", ", MicroKernels.Supported)}, or all of them."))];
    }

    /// <summary>The variant that a benchmark names; null where it names none.</summary>
    private static CpuVariant? Variant(BenchmarkCase benchmark) =>
        benchmark.Parameters.Items.Select(item => item.Value).OfType<CpuVariant?>().FirstOrDefault();

    /// <summary>What BenchmarkDotNet says while it runs is of use only where it fails.</summary>
    private sealed class LogCapture : ILogger
    {
        public string Id => nameof(LogCapture);

        public int Priority => 0;

        /// <summary>The first line that was written as an error.</summary>
        public string? FirstError { get; private set; }

        public void Write(LogKind logKind, string text)
        {
            if (logKind == LogKind.Error && FirstError is null && !string.IsNullOrWhiteSpace(text))
                FirstError = text.Trim();
        }

        public void WriteLine()
        {
        }

        public void WriteLine(LogKind logKind, string text) => Write(logKind, text);

        public void Flush()
        {
        }
    }

    private sealed class Progress : EventProcessor
    {
        private int _done;

        public int Total { get; set; }

        public Action<double, string>? Report { get; set; }

        public KernelLimits? Limits { get; set; }

        public override void OnStartRunBenchmark(BenchmarkCase benchmarkCase)
        {
            Report?.Invoke((double)_done++ / Total, benchmarkCase.DisplayInfo);
            Limits?.Sample();
        }
    }

    /// <summary>A number from a benchmark's mean time (nanoseconds), its workload, and its definition's mean
    /// time.</summary>
    private sealed class WorkColumn(string name, string legend, Func<double, Workload, double, double> value) : IColumn
    {
        public string Id => name;

        public string ColumnName => name;

        public string Legend => legend;

        public bool AlwaysShow => true;

        public ColumnCategory Category => ColumnCategory.Custom;

        public int PriorityInCategory => 0;

        public bool IsNumeric => true;

        public UnitType UnitType => UnitType.Dimensionless;

        public bool IsAvailable(Summary summary) => true;

        public bool IsDefault(Summary summary, BenchmarkCase benchmarkCase) => false;

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase, SummaryStyle style) =>
            GetValue(summary, benchmarkCase);

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase)
        {
            Workload work = Work(benchmarkCase);
            BenchmarkCase? definition =
                summary.BenchmarksCases.FirstOrDefault(
                    other => (other.Descriptor.WorkloadMethod.Name == nameof(MatMulBenchmarks.Definition)
                        || Variant(other) == CpuVariant.Scalar) && Work(other) == work);
            double number = value(Mean(summary, benchmarkCase), work, Mean(summary, definition));
            return double.IsFinite(number) ? number.ToString(number < 100 ? "0.00" : "0", CultureInfo.InvariantCulture)
                : "-";
        }

        private static Workload Work(BenchmarkCase benchmarkCase) =>
            benchmarkCase.Parameters.Items.Select(item => item.Value).OfType<Workload>().Single();

        private static double Mean(Summary summary, BenchmarkCase? benchmarkCase) =>
            benchmarkCase is null ? double.NaN : summary[benchmarkCase]?.ResultStatistics?.Mean ?? double.NaN;
    }
}
