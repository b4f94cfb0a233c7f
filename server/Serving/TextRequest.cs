using System.Diagnostics;
using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>
/// A prompt for the engine, and what the text that continues it is held to. Every protocol reads its requests into
/// these.
/// </summary>
internal sealed record TextRequest
{
    /// <summary>The prompt's ids, and how they are continued.</summary>
    public required GenerationRequest Tokens { get; init; }

    /// <summary>The field the prompt came in, for what is told about it.</summary>
    public string PromptField { get; init; } = "prompt";

    /// <summary>Texts that end a choice, looked for after <see cref="SamplingParams.MinTokens"/>. None of them is
    /// sent.</summary>
    public IReadOnlyList<string> Stop { get; init; } = [];

    /// <summary>Leaves control tokens out of the text; otherwise they are written out, but for the one that ends a
    /// choice.</summary>
    public bool SkipSpecialTokens { get; init; } = true;

    /// <summary>What its fields ask of the service.</summary>
    public ServiceLevel Level { get; init; } = ServiceLevel.Default;

    /// <summary>The same request with its times, as <see cref="Stopwatch"/> timestamps.</summary>
    /// <param name="arrival">When it arrived.</param>
    /// <param name="deadline">When it ends at the latest; null never.</param>
    /// <param name="tenant">Who sends it.</param>
    /// <param name="headers">What its headers or metadata ask for; its fields come first.</param>
    public TextRequest At(long arrival, string tenant, ServiceLevel headers, long? deadline)
    {
        GenerationRequest tokens = headers.Under(Level).ApplyTo(Tokens);
        return this with { Tokens = tokens with { ArrivalTimestamp = arrival, Deadline = deadline, Tenant = tenant } };
    }
}
