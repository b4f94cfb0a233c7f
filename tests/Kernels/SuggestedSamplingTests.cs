using Native.Kernels.Files;
using Native.Kernels.Models;
using Native.Scheduling;

namespace Native.Tests.Kernels;

public sealed class SuggestedSamplingTests
{
    private static SuggestedSampling OfGguf(Action<GgufBytes> add)
    {
        var writer = new GgufBytes();
        writer.Add("general.architecture", "llama");
        add(writer);
        using TemporaryFile file = writer.ToFile();
        using GgufFile gguf = GgufFile.Open(file.Path);
        return SuggestedSampling.Read(gguf);
    }

    private static SuggestedSampling OfFolder(string? json)
    {
        using TemporaryFolder folder = new();
        if (json is not null) File.WriteAllText(folder.File("generation_config.json"), json);
        return SuggestedSampling.ReadFolder(folder.Path);
    }

    [Fact]
    public void AGgufFile_SuggestsWhatItsKeysSay_AndNothingElse()
    {
        Assert.Equal(SuggestedSampling.None, OfGguf(_ => { }));
        Assert.Equal(new SuggestedSampling(0.6f, 20, 0.95f, 0.05f, 1.1f), OfGguf(w =>
        {
            w.Add("general.sampling.temp", 0.6f);
            w.Add("general.sampling.top_k", 20);
            w.Add("general.sampling.top_p", 0.95f);
            w.Add("general.sampling.min_p", 0.05f);
            w.Add("general.sampling.penalty_repeat", 1.1f);
            w.Add("general.sampling.mirostat", 0);
        }));
    }

    [Fact]
    public void AFolder_SuggestsWhatItsGenerationConfigSays_AndNothingWithoutOne()
    {
        Assert.Equal(SuggestedSampling.None, OfFolder(null));
        Assert.Equal(new SuggestedSampling(0.7f, 0, 0.8f, null, 1.05f), OfFolder("""{"do_sample": true, "temperature": 0.7, "top_k": -1, "top_p": 0.8, "min_p": null, "repetition_penalty": 1.05, "eos_token_id": [1, 2]}"""));
    }

    [Theory]
    [InlineData("""{"temperature": -1}""", "temperature is -1")]
    [InlineData("""{"temperature": 1e999}""", "temperature is Infinity")]
    [InlineData("""{"top_p": 0}""", "top_p is 0")]
    [InlineData("""{"min_p": 1.5}""", "min_p is 1.5")]
    [InlineData("""{"repetition_penalty": 0}""", "repetition penalty is 0")]
    [InlineData("""{"top_k": "many"}""", ".top_k: expected a number, found string")]
    [InlineData("""{"top_k": 1.5}""", ".top_k: expected a whole number")]
    [InlineData("""{"top_k": 50.0}""", ".top_k: expected a whole number")]
    [InlineData("""{"temperature": NaN}""", ".temperature: expected a number, found string")]
    public void AValueThatCannotBe_IsLeftOut_WithAWarningOfFileAndField(string json, string expected)
    {
        SuggestedSampling suggested = OfFolder(json.Replace("}", ", \"other\": -Infinity}"));
        Assert.Contains(expected, Assert.Single(suggested.Warnings));
        Assert.Contains("generation_config.json", suggested.Warnings[0]);
        Assert.Equal(SuggestedSampling.None, suggested with { Warnings = SuggestedSampling.None.Warnings });
    }

    [Fact]
    public void AGgufFilesValueThatCannotBe_IsLeftOutLikewise()
    {
        SuggestedSampling suggested = OfGguf(w =>
        {
            w.Add("general.sampling.top_p", 0f);
            w.Add("general.sampling.min_p", 0.125f);
        });
        Assert.Contains("general.sampling.top_p is 0", Assert.Single(suggested.Warnings));
        Assert.Equal(0.125f, suggested.MinP);
    }

    [Fact]
    public void AFileThatIsNoJson_IsRefused() => Assert.Contains("expected JSON", Assert.Throws<InvalidDataException>(() => OfFolder("nothing")).Message);

    [Fact]
    public void Defaults_KeepWhatIsNotSuggested()
    {
        SamplingParams defaults = new SamplingParams { TopP = 0.5f, Seed = 7 }.With(new SuggestedSampling(0.6f, null, null, 0.1f, null));
        Assert.Equal((0.6f, 0.5f, 0.1f, 1f, 7UL), (defaults.Temperature, defaults.TopP, defaults.MinP, defaults.RepetitionPenalty, defaults.Seed!.Value));
    }
}
