using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Tests.Kernels;
using Native.Tools;

namespace Native.Tests.Tools;

public sealed class PerplexityReferenceTests
{
    private const string F32 = "models/stories260K/stories260K-F32.gguf", Q4_0 = "models/stories260K/stories260K-Q4_0.gguf";

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(16)]
    [InlineData(33)]
    [InlineData(2500)]
    public void ADivergence_IsItsDefinition_AtEveryLength(int length)
    {
        Random random = new(length);
        float[] a = [.. Enumerable.Range(0, length).Select(_ => (float)(20 * random.NextDouble() - 50))], b = [.. a.Select(x => x + (float)random.NextDouble() - 3)];
        if (length > 20) (a[3], a[17], b[17]) = (float.NegativeInfinity, float.NegativeInfinity, float.NegativeInfinity);
        int next = length / 2;
        PositionDivergence found = PositionDivergence.Of(a, b, next);
        double[] p = Logprobs(a), q = Logprobs(b);
        Assert.Equal(p[next], found.Reference, 1e-5);
        Assert.Equal(q[next], found.Measured, 1e-5);
        Assert.Equal(p.Select((x, i) => double.IsFinite(x) ? Math.Exp(x) * (x - q[i]) : 0).Sum(), found.Kl, 1e-6);
        Assert.Equal(Array.IndexOf(p, p.Max()) == Array.IndexOf(q, q.Max()), found.SameTop);
        Assert.Equal(0, PositionDivergence.Of(a, a, next).Kl);

        static double[] Logprobs(float[] logits)
        {
            double sum = Math.Log(logits.Sum(x => Math.Exp(x - (double)logits.Max()))) + logits.Max();
            return [.. logits.Select(x => x - sum)];
        }
    }

    [Fact]
    public void SmallDivergences_SurviveLargeLogits()
    {
        // What one part in a thousand of a probability weighs, where the logits are a hundred.
        float[] a = [.. Enumerable.Range(0, 3000).Select(i => 100 + i % 7 * 0.5f)], b = [.. a];
        b[5] += 0.125f;
        double p = Math.Exp(a[5]) / a.Sum(x => Math.Exp(x));
        Assert.Equal(Math.Log(1 + p * (Math.Exp(0.125) - 1)) - p * 0.125, PositionDivergence.Of(a, b, 0).Kl, 1e-8);
    }

    [Fact]
    public void WhatTheReferenceHoldsForPossible_AndTheModelForImpossible_IsInfinitelyFar()
        => Assert.Equal(double.PositiveInfinity, PositionDivergence.Of([0, 1, 2], [0, float.NegativeInfinity, 2], 0).Kl);

    [Fact]
    public void Errors_AreThoseOfPairedDifferences()
    {
        Divergence d = new();
        d.Add([new(-1, -1.5, 0.1, true), new(-3, -2.5, 0.3, false)]);
        d.Add([new(-2, -3, 0.2, true), new(-4, -4, 0.6, true)]);
        Assert.Equal((4, 0.25), (d.Count, d.LogRatio));
        Assert.Equal(Math.Sqrt(1.25 / 4 / 3), d.LogRatioError, 1e-12); // differences 0.5, -0.5, 1 and 0 of mean 0.25
        Assert.Equal(0.3, d.Kl, 1e-12);
        Assert.Equal(Math.Sqrt(0.14 / 4 / 3), d.KlError, 1e-12);
        Assert.Equal([0.1, 0.25, 0.6], new[] { 0, 0.5, 1 }.Select(d.KlQuantile), (x, y) => Math.Abs(x - y) < 1e-12);
        Assert.Equal(0.75, d.SameTop);
        Assert.Equal(Math.Exp(2.5), d.Reference.Value, 1e-9);
        Assert.Equal(Math.Exp(2.75), d.Measured.Value, 1e-9);
        double[] apart = [Math.Exp(-1.5) - Math.Exp(-1), Math.Exp(-2.5) - Math.Exp(-3), Math.Exp(-3) - Math.Exp(-2), 0];
        Assert.Equal(Math.Sqrt(apart.Sum(x => x * x) / 4), d.RmsProbability, 1e-12);
    }

    [Fact]
    public async Task AModel_IsNoDistanceFromItself_AndSomeFromWhatItWasRoundedTo()
    {
        string f32 = TestData.Path(F32), q4 = TestData.Path(Q4_0), text = TestData.Path("text/tinyshakespeare.txt");
        // Windows that are no whole number of steps, whose second half begins inside one.
        string[] common = ["--file", text, "--ctx", "301", "--chunks", "2", "--json"];
        JsonElement same = await Json(["perplexity", "-m", f32, "--reference", f32, "--kv-cache-dtype", "f32", .. common]);
        Assert.Equal((0, 0, 0, 1), (Number(same, "ln_ratio"), Number(same, "ln_ratio_error"), Number(same.GetProperty("kl"), "max"), Number(same, "same_top")));

        JsonElement rounded = await Json(["perplexity", "-m", q4, "--reference", f32, .. common]);
        Assert.Equal(300, rounded.GetProperty("scored").GetInt32());
        // Both as the commands find them that load one model and go through the engine, to the last bit.
        Assert.Equal(Number(await Json(["perplexity", "-m", q4, .. common]), "perplexity"), Number(rounded, "perplexity"), 1e-5);
        Assert.Equal(Number(same, "perplexity"), Number(rounded.GetProperty("reference"), "perplexity"));
        Assert.Equal(Math.Log(Number(rounded, "perplexity") / Number(same, "perplexity")), Number(rounded, "ln_ratio"), 1e-6);
        Assert.True(Number(rounded, "ln_ratio_error") < Number(rounded, "error") / Number(rounded, "perplexity"), "pairing gains nothing");
        JsonElement kl = rounded.GetProperty("kl");
        double[] rising = [0, Number(kl, "median"), Number(kl, "mean"), Number(kl, "p99"), Number(kl, "max")];
        Assert.Equal(rising.Order(), rising);
        Assert.True(rising.Distinct().Count() == rising.Length, "some are equal");
        Assert.InRange(Number(rounded, "same_top"), 0.5, 0.999);
        Assert.InRange(Number(rounded, "rms_probability"), 1e-4, 0.5);

        (int exit, string output, string error) = await Run(["perplexity", "-m", q4, "--reference", f32, .. common[..^1]]);
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[] lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(8, lines.Length);
        Assert.StartsWith("[1/2] ", lines[0], StringComparison.Ordinal);
        Assert.StartsWith(string.Create(CultureInfo.InvariantCulture, $"KL divergence {Number(kl, "mean"):0.000000} +/- "), lines[5], StringComparison.Ordinal);
    }

    [Fact]
    public async Task AVariant_IsForced_OrRefusedByName()
    {
        string q4 = TestData.Path(Q4_0), text = TestData.Path("text/tinyshakespeare.txt");
        string[] command = ["perplexity", "-m", q4, "--reference", q4, "--file", text, "--ctx", "128", "--chunks", "1", "--json"];
        double fastest = Number((await Json(command)).GetProperty("kl"), "mean"), scalar = Number((await Json([.. command, "--variant", "scalar"])).GetProperty("kl"), "mean");
        Assert.InRange(scalar / fastest, 0.5, 2); // both round activations: nearer to each other than to none
        Assert.InRange(Number((await Json([.. command, "--variant", "scalar", "--float-activations"])).GetProperty("kl"), "mean"), 0, scalar / 4);

        string foreign = RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "Avx2" : "AdvSimd";
        (int exit, _, string error) = await Run([.. command, "--variant", foreign]);
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains($"Variant is {foreign}, which this processor can't run; it can run Scalar", error, StringComparison.Ordinal);
        (exit, _, error) = await Run([.. command, "--variant", "mmx"]);
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("mmx", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ModelsOfOtherTokens_AreNotCompared()
    {
        string f32 = TestData.Path(F32), demo = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf"), text = TestData.Path("text/tinyshakespeare.txt");
        (int exit, string output, string error) = await Run("perplexity", "-m", f32, "--reference", demo, "--file", text);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("the vocabularies differ: the reference has", error, StringComparison.Ordinal);

        // As many tokens, but two letters have changed places.
        using TemporaryFolder folder = new();
        string other = folder.File("other.gguf");
        using (GgufFile file = GgufFile.Open(f32), header = GgufFile.OpenToInspect(f32))
        {
            string[] tokens = [.. file.GetStrings("tokenizer.ggml.tokens")];
            (int e, int t) = (Array.IndexOf(tokens, "e"), Array.IndexOf(tokens, "t"));
            (tokens[e], tokens[t]) = (tokens[t], tokens[e]);
            GgufTensorPlan[] plan = [.. header.TensorInfos.Select(info => new GgufTensorPlan(info.Name, info.Type, info.Shape))];
            using Native.Kernels.Files.GgufWriter writer = new(other, [.. file.Metadata.Select(pair => pair.Key == "tokenizer.ggml.tokens" ? new(pair.Key, tokens) : pair)], plan);
            foreach (GgufTensorPlan tensor in plan)
            {
                TensorView view = file.Tensors[tensor.Name];
                byte[] bytes = new byte[view.ByteLength];
                view.ReadRows(0, bytes);
                writer.Write(bytes);
            }
            writer.Complete();
        }
        (exit, _, error) = await Run("perplexity", "-m", other, "--reference", f32, "--file", text);
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("the tokenizers differ: the reference cuts the text into", error, StringComparison.Ordinal);
        (exit, _, error) = await Run("perplexity", "-m", f32, "--reference", "/no/such/model", "--file", text);
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("/no/such/model", error, StringComparison.Ordinal);
        (exit, _, error) = await Run("perplexity", "-m", f32, "--reference", f32, "--file", text, "--ctx", "5000");
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("--ctx is 5000", error, StringComparison.Ordinal);
        (exit, _, error) = await Run("perplexity", "-m", f32, "--reference", "", "--file", text);
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("--reference is empty", error, StringComparison.Ordinal);
    }

    private static double Number(JsonElement value, string name) => value.GetProperty(name).GetDouble();

    private static async Task<JsonElement> Json(params string[] command)
    {
        (int exit, string output, string error) = await Run(command);
        Assert.Equal((Cli.Success, ""), (exit, error));
        return JsonDocument.Parse(output).RootElement;
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        return (await Cli.RunAsync(command, terminal), output.ToString(), error.ToString());
    }
}
