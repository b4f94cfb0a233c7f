using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Native.Bench.Kernels;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Formats;
using Native.Kernels.Sampling;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>kernels</c>: that each benchmark computes what it says, and the table. How fast is not
/// asserted.</summary>
public sealed class KernelsTests
{
    [Theory]
    [InlineData(TensorType.F32, 1)]
    [InlineData(TensorType.F16, 4)]
    [InlineData(TensorType.BF16, 1)]
    [InlineData(TensorType.Q8_0, 4)]
    [InlineData(TensorType.Q4_0, 1)]
    [InlineData(TensorType.Q4_K, 7)]
    [InlineData(TensorType.Q6_K, 1)]
    public void MatrixProducts_AgreeWithTheirDefinition(TensorType format, int rows)
    {
        MatMulBenchmarks definition = new() { Case = new MatMulWorkload(format, 256, rows) }, fastest = new() { Case = definition.Case };
        definition.SetUpDefinition();
        fastest.SetUpFastest();
        definition.Definition();
        fastest.Fastest();
        Agree(definition.Output, fastest.Output, rounded: format == TensorType.BF16);
        definition.CleanUp();
        fastest.CleanUp();
    }

    [Fact]
    public void Attention_AgreesWithItsDefinition()
    {
        foreach (AttentionWorkload workload in new AttentionWorkload[] { new(8, 2, 64, 1, 100), new(6, 2, 64, 40, 300), new(8, 2, 64, 1, 100, DType.Q8_0), new(6, 2, 64, 40, 300, DType.Q8_0) })
        {
            AttentionBenchmarks definition = new() { Case = workload }, fastest = new() { Case = workload };
            definition.SetUp();
            fastest.SetUp();
            definition.Definition();
            fastest.Fastest();
            Agree(definition.Output, fastest.Output);
            definition.CleanUp();
            fastest.CleanUp();
        }
    }

    [Fact]
    public void Elementwise_AgreesWithItsDefinition()
    {
        foreach (ElementwiseWorkload workload in ElementwiseBenchmarks.Cases)
        {
            ElementwiseBenchmarks definition = new() { Case = workload }, fastest = new() { Case = workload };
            definition.SetUp();
            fastest.SetUp();
            float[] before = fastest.Output.ToArray();
            definition.Definition();
            fastest.Fastest();
            Agree(definition.Output, fastest.Output);
            Assert.NotEqual(before, fastest.Output.ToArray()); // the two are not equal for want of an operation
            definition.CleanUp();
            fastest.CleanUp();
        }
    }

    [Fact]
    public void TheSampler_ChoosesWhatItsDefinitionDoes()
    {
        foreach (SamplerWorkload workload in SamplerBenchmarks.Cases)
        {
            SamplerBenchmarks benchmark = new() { Case = workload };
            benchmark.SetUp();
            SampledToken expected = benchmark.Definition(), chosen = benchmark.Fastest();
            Assert.Equal(expected.Token, chosen.Token);
            Assert.Equal(expected.Logprob, chosen.Logprob, 1e-3);
        }
    }

    [Fact]
    public void Workloads_CountBytesAndOperations()
    {
        MatMulWorkload product = new(TensorType.Q4_0, 4096, 4);
        Assert.Equal(4096.0 * 4096 / 32 * 18, product.Bytes); // the weights once, whatever the rows
        Assert.Equal(2.0 * 4096 * 4096 * 4, product.Operations);
        AttentionWorkload attention = new(32, 8, 128, 1, 512), prompt = new(32, 8, 128, 3, 5);
        Assert.Equal(2.0 * 8 * 128 * 512 * 2, attention.Bytes); // keys and values of two bytes
        Assert.Equal(2.0 * 8 * (128 + (4 * 2)) * 512, (attention with { Cache = DType.Q8_0 }).Bytes); // bytes and their scales
        Assert.Equal(4.0 * 32 * 128 * 512, attention.Operations);
        Assert.Equal(4.0 * 32 * 128 * (3 + 4 + 5), prompt.Operations);
    }

    [Fact]
    public async Task TheList_HasEveryFormatAndShape()
    {
        (int exit, string output, string error) = await Run("kernels", "--list");
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[] names = Lines(output);
        Assert.Equal(2 * (MatMulBenchmarks.Cases.Count() + AttentionBenchmarks.Cases.Count() + ElementwiseBenchmarks.Cases.Count() + SamplerBenchmarks.Cases.Count()), names.Length);
        foreach (string shape in new[] { "1 row)", "4 rows)", "512 rows)" }) Assert.Equal(2, names.Count(name => name.Contains("Q4_K", StringComparison.Ordinal) && name.EndsWith(shape, StringComparison.Ordinal)));

        (_, output, _) = await Run("kernels", "--list", "--filter", "*Fastest*Q6_K*", "--filter", "greedy");
        Assert.Equal(3 + 2, Lines(output).Length);
    }

    [Fact]
    public async Task TheTable_TellsBandwidthArithmeticAndTheRatio()
    {
        Assert.SkipWhen(typeof(KernelsCommand).Assembly.GetCustomAttributes(typeof(DebuggableAttribute), false).OfType<DebuggableAttribute>().Any(attribute => attribute.IsJITOptimizerDisabled), "BenchmarkDotNet measures optimized code alone");
        (int exit, string output, string error) = await Run("kernels", "--filter", "RmsNorm");
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[][] cells = Cells(output.Replace("**", "", StringComparison.Ordinal)); // a case's first row is bold
        string[] header = cells[0];
        foreach (string column in new[] { "Method", "Case", "Mean", "GB/s", "GOP/s", "% of read", "% of peak", "x definition" }) Assert.Contains(column, header);
        string[][] rows = cells[2..];
        Assert.Equal(["Definition", "Fastest"], rows.Select(row => row[0]));
        double Number(string[] row, string column) => double.Parse(row[Array.IndexOf(header, column)], CultureInfo.InvariantCulture);
        Assert.Equal(1, Number(rows[0], "x definition"));
        Match limits = Regex.Match(Lines(output)[0], @"^One thread reads ([0-9.]+) GB/s here and does [0-9]+ GOP/s on int8 \(.+\), ([0-9]+) GOP/s in float32");
        Assert.True(limits.Success, output);
        double Limit(int group) => double.Parse(limits.Groups[group].Value, CultureInfo.InvariantCulture);
        Assert.Equal(100 * Number(rows[1], "GB/s") / Limit(1), Number(rows[1], "% of read"), 0.02 * Number(rows[1], "% of read") + 1); // both are rounded
        Assert.Equal(100 * Number(rows[1], "GOP/s") / Limit(2), Number(rows[1], "% of peak"), 0.02 * Number(rows[1], "% of peak") + 1);
        // Both columns come from one time: three operands of four bytes and four operations an element.
        Assert.All(rows, row => Assert.Equal(3, Number(row, "GB/s") / Number(row, "GOP/s"), 0.3));
        Assert.Equal(Number(rows[1], "GB/s") / Number(rows[0], "GB/s"), Number(rows[1], "x definition"), 0.1 * Number(rows[1], "x definition"));
    }

    [Fact]
    public async Task EachVariant_CanBeMeasuredByItsName()
    {
        (int exit, string output, string error) = await Run("kernels", "--list", "--variant", "scalar", "--filter", "Q6_K");
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal(3, Lines(output).Length);
        Assert.All(Lines(output), name => Assert.Contains("Variant: Scalar", name, StringComparison.Ordinal));
        (_, output, _) = await Run("kernels", "--list", "--variant", "all");
        Assert.Equal(MicroKernels.Supported.Count * MatMulBenchmarks.Cases.Count(), Lines(output).Length);

        (exit, output, error) = await Run("kernels", "--variant", "Avx1024");
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains($"--variant is 'Avx1024'; this processor runs {MicroKernels.Supported[0]}", error, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryVariant_AgreesWithTheDefinition()
    {
        MatMulBenchmarks definition = new() { Case = new MatMulWorkload(TensorType.Q4_K, 256, 4) };
        definition.SetUpDefinition();
        definition.Definition();
        foreach (CpuVariant variant in MatMulVariantBenchmarks.Variants)
        {
            MatMulVariantBenchmarks named = new() { Case = definition.Case, Variant = variant };
            named.SetUp();
            named.Product();
            Agree(definition.Output, named.Output);
            named.CleanUp();
        }
        definition.CleanUp();
    }

    [Fact]
    public async Task AFilterThatFitsNothing_IsExplained_WithExitCode2()
    {
        (int exit, string output, string error) = await Run("kernels", "--filter", "nothing-like-this");
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains("nothing-like-this", error, StringComparison.Ordinal);
    }

    /// <summary>To a thousandth of the largest value: sums of floats in another order. To a hundredth where a variant
    /// rounds activations to bfloat16.</summary>
    private static void Agree(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, bool rounded = false)
    {
        float largest = 0;
        foreach (float value in expected) largest = Math.Max(largest, MathF.Abs(value));
        Assert.True(largest > 0);
        for (int i = 0; i < expected.Length; i++) Assert.Equal(expected[i], actual[i], (rounded ? 1e-2f : 1e-3f) * largest);
    }
}
