using System.Diagnostics;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

public sealed class OptionsTests
{
    public static TheoryData<SamplingParams, string> Wrong => new()
    {
        { new() { Temperature = float.NaN }, "temperature" },
        { new() { Temperature = -0.1f }, "temperature" },
        { new() { Temperature = float.PositiveInfinity }, "temperature" },
        { new() { TopK = -2 }, "top_k" },
        { new() { TopP = 0 }, "top_p" },
        { new() { TopP = 1.1f }, "top_p" },
        { new() { TopP = float.NaN }, "top_p" },
        { new() { MinP = -0.1f }, "min_p" },
        { new() { MinP = float.NaN }, "min_p" },
        { new() { RepetitionPenalty = 0 }, "repetition_penalty" },
        { new() { RepetitionPenalty = float.NaN }, "repetition_penalty" },
        { new() { PresencePenalty = 2.1f }, "presence_penalty" },
        { new() { FrequencyPenalty = float.NegativeInfinity }, "frequency_penalty" },
        { new() { N = 0 }, "n is" },
        { new() { N = 65 }, "n is" },
        { new() { MaxTokens = -1 }, "max_tokens" },
        { new() { MinTokens = -1 }, "min_tokens" },
        { new() { MinTokens = 5, MaxTokens = 4 }, "min_tokens" },
        { new() { Logprobs = 21 }, "logprobs" },
        { new() { Logprobs = -1 }, "logprobs" },
        { new() { PromptLogprobs = 21 }, "prompt_logprobs" },
        { new() { StopTokenIds = [100] }, "stop_token_ids" },
        { new() { StopTokenIds = new int[257] }, "stop_token_ids" },
        { new() { LogitBias = [new(-1, 0)] }, "logit_bias" },
        { new() { LogitBias = [new(1, float.NaN)] }, "logit_bias" },
        { new() { LogitBias = [new(1, 101)] }, "logit_bias" },
    };

    [Theory, MemberData(nameof(Wrong), DisableDiscoveryEnumeration = true)]
    public void AWrongParameter_IsNamed(SamplingParams p, string name)
    {
        List<string> errors = [];
        p.Validate(100, errors);
        Assert.Contains(name, Assert.Single(errors));
    }

    [Fact]
    public void EveryMistake_IsReportedAtOnce()
    {
        List<string> errors = [];
        new SamplingParams { Temperature = float.NaN, TopP = 2, N = 0, MaxTokens = -3 }.Validate(100, errors);
        Assert.Equal(4, errors.Count);
        errors.Clear();
        new EngineOptions { MaxRunning = 0, MaxBatchedTokens = 0, MaxQueued = 0, MaxPreemptions = 0 }.Validate(errors);
        Assert.Equal(4, errors.Count);
        errors.Clear();
        new EngineOptions { MaxRunning = 65, MaxBatchedTokens = 64 }.Validate(errors);
        Assert.Contains("MaxBatchedTokens is 64, below MaxRunning (65)", Assert.Single(errors));
        ArgumentException thrown = Assert.Throws<ArgumentException>(() => new Engine(new FakeModelRunner(), [], new EngineOptions { MaxRunning = 0, MaxQueued = 0 }));
        Assert.Contains("MaxRunning", thrown.Message);
        Assert.Contains("MaxQueued", thrown.Message);
    }

    [Fact]
    public void Defaults_AreValid()
    {
        List<string> errors = [];
        new SamplingParams().Validate(100, errors);
        new SamplingParams { Temperature = 0, TopK = -1, MaxTokens = 0, Logprobs = 20, PromptLogprobs = 0 }.Validate(100, errors);
        new EngineOptions().Validate(errors);
        Assert.Empty(errors);
    }

    [Fact]
    public void Histogram_CountsIntoTheBucketWhoseBoundIsNotBelow()
    {
        Histogram tokens = Histogram.OfCount([1, 8, 16]);
        foreach (long value in new long[] { 0, 1, 2, 8, 9, 16, 17, 1000 }) tokens.Observe(value);
        long[] counts = new long[4];
        Assert.Equal(8, tokens.Read(counts, out double sum));
        Assert.Equal([2, 2, 2, 2], counts);
        Assert.Equal(1053, sum);

        Histogram time = Histogram.OfTime([0.5, 1]);
        time.Observe(Stopwatch.Frequency / 2);
        time.Observe(Stopwatch.Frequency);
        time.Observe(Stopwatch.Frequency * 2);
        Assert.Equal(3, time.Read(counts, out sum));
        Assert.Equal([1, 1, 1], counts[..3]);
        Assert.Equal(3.5, sum);
    }
}
