using System.Diagnostics;
using Native.Kernels.Sampling;
using Native.Scheduling.Slo;

namespace Native.Scheduling;

/// <summary>What a request is for, as far as it decides who goes first.</summary>
public enum RequestClass
{
    /// <summary>Somebody waits for it.</summary>
    Online,

    /// <summary>Work that nobody waits for: it comes after online requests, and gives up its place and blocks to
    /// them.</summary>
    Batch,
}

/// <summary>What classes are called in objectives.</summary>
internal static class RequestClassNames
{
    private static readonly string[] Names =
        [.. Enum.GetNames<RequestClass>().Select(name => name.ToLowerInvariant())];

    public static string Name(this RequestClass requestClass) => Names[(int)requestClass];
}

/// <summary>One prompt to continue. Knows ids alone; text is the server's.</summary>
public sealed record GenerationRequest
{
    /// <summary>The prompt, at least one id. The engine copies it.</summary>
    public required ReadOnlyMemory<int> Ids { get; init; }

    /// <summary>How its tokens are chosen and when it ends.</summary>
    public SamplingParams Sampling { get; init; } = new();

    /// <summary>When it ends at the latest, as a <see cref="Stopwatch"/> timestamp; null
    /// never.</summary>
    public long? Deadline { get; init; }

    /// <summary>When the caller's request arrived, as a <see cref="Stopwatch"/> timestamp, so that
    /// the time to the first token counts parsing and tokenizing; null means when it is submitted.</summary>
    public long? ArrivalTimestamp { get; init; }

    /// <summary>What it is for.</summary>
    public RequestClass Class { get; init; }

    /// <summary>Who sends it: tenants share the machine by their weights, and never each other's keys and values. Empty
    /// where nobody is told apart. At most <see cref="TenantSpec.MaxName"/> characters.</summary>
    public string Tenant { get; init; } = "";

    /// <summary>Within its class and tenant: smaller is served first, as in vLLM. Default 0.</summary>
    public int Priority { get; init; }

    /// <summary>When the first token is due, from <see cref="ArrivalTimestamp"/>; null for the engine's own objective,
    /// if it has one.</summary>
    public TimeSpan? TtftObjective { get; init; }

    /// <summary>How much later each further token is due; null likewise.</summary>
    public TimeSpan? TpotObjective { get; init; }

    /// <summary>Takes the request also where its first token will probably be late.</summary>
    public bool BestEffort { get; init; }

    /// <summary>Requests share the keys and values of a common beginning only with the same salt; null or empty with
    /// all of the same tenant that have none.</summary>
    public string? CacheSalt { get; init; }

    /// <summary>What the output may be, e.g. by a grammar; null for anything. Belongs to the engine from
    /// <see cref="Engine.Submit(GenerationRequest, out TokenStream?)"/> on.</summary>
    public ITokenConstraint? Constraint { get; init; }
}

/// <summary>What became of a submission. All but <see cref="Accepted"/> leave no trace in the engine.</summary>
public enum SubmitOutcome
{
    /// <summary>It is queued, and there is a stream.</summary>
    Accepted,

    /// <summary>As many requests wait as may, or as many prompt tokens; <see cref="Engine.RetryAfter"/> says when to
    /// try again.</summary>
    QueueFull,

    /// <summary>Its first token would come after its objective or its deadline; the <see cref="Refusal"/> says when to
    /// try again. <see cref="GenerationRequest.BestEffort"/> takes it in spite of its objective.</summary>
    WouldBeLate,

    /// <summary>Its tenant has had as much as it may for now; the <see cref="Refusal"/> says when to try
    /// again.</summary>
    OverQuota,

    /// <summary>An error budget of online requests burns too fast, so work that nobody waits for is not taken; the
    /// <see cref="Refusal"/> says when to try again.</summary>
    Shed,

    /// <summary>The engine takes nothing new: it is draining or disposed.</summary>
    Draining,

    /// <summary>The engine takes nothing any more: what computes is broken, as <see cref="Engine.Fault"/> tells.
    /// </summary>
    Broken,

    /// <summary>The prompt leaves no room for a token within the model's length.</summary>
    TooLong,

    /// <summary>It would need more KV blocks than there are, even alone.</summary>
    NeverFits,

    /// <summary>A parameter or id is out of range; <see cref="Engine.Validate"/> says which.</summary>
    Invalid,
}

/// <summary>Why a choice ended.</summary>
public enum FinishReason : byte
{
    /// <summary>It has not.</summary>
    None,

    /// <summary>An end id or stop id was chosen, or the reader stopped this choice
    /// (<see cref="TokenStream.Stop"/>).</summary>
    Stop,

    /// <summary>It has as many tokens as it may.</summary>
    Length,

    /// <summary>The reader cancelled.</summary>
    Cancelled,

    /// <summary>The engine was drained or disposed.</summary>
    Aborted,

    /// <summary>The request's deadline passed, in the queue or later.</summary>
    Deadline,

    /// <summary>The step failed, or the logits held a NaN.</summary>
    Error,
}

/// <summary>One token of one choice, or its end.</summary>
/// <remarks>The last event of a choice, and only that, has a <see cref="Finish"/>. Where a token brought the end (an
/// end id, the last token allowed) it is in the same event; where nothing was left to read, <see cref="Token"/> is
/// -1.</remarks>
public readonly record struct TokenEvent
{
    /// <summary>Which of the n choices.</summary>
    public required int Index { get; init; }

    /// <summary>The id, or -1 where this event only ends the choice.</summary>
    public required int Token { get; init; }

    /// <summary>Natural log-probability of <see cref="Token"/> under the raw logits; 0 where there is no
    /// token.</summary>
    public float Logprob { get; init; }

    /// <summary>The best tokens at this place, best first; empty unless <see cref="SamplingParams.Logprobs"/> asked for
    /// some. Stays valid.</summary>
    public ReadOnlyMemory<TokenLogprob> Alternatives { get; init; }

    /// <summary>Why the choice ends with this event; None where it goes on.</summary>
    public FinishReason Finish { get; init; }

    /// <summary>True where <see cref="Token"/> is the end or stop id that ended the choice: counted as output, but no
    /// text.</summary>
    public bool IsStopToken { get; init; }
}

/// <summary>When things happened to a request, as <see cref="Stopwatch"/> timestamps; 0 where they
/// did not.</summary>
public record struct RequestTimings
{
    /// <summary>It arrived at the front end.</summary>
    public long Arrival { get; internal set; }

    /// <summary>It entered its first step; the time before is queueing.</summary>
    public long FirstScheduled { get; internal set; }

    /// <summary>Its first token, of any choice, was there; the time since <see cref="FirstScheduled"/> is
    /// prefill.</summary>
    public long FirstToken { get; internal set; }

    /// <summary>Its last token was there; the time since <see cref="FirstToken"/> is decode.</summary>
    public long LastToken { get; internal set; }

    /// <summary>Its last choice ended.</summary>
    public long Finished { get; internal set; }

    /// <summary>When it was to end at the latest; 0 for never.</summary>
    public long Deadline { get; internal set; }

    /// <summary>Longest time between two tokens of one choice; 0 where none had a second.</summary>
    public long LongestGap { get; internal set; }

    /// <summary>Prompt tokens.</summary>
    public int PromptTokens { get; internal set; }

    /// <summary>Tokens of all choices, stop ids among them.</summary>
    public int OutputTokens { get; internal set; }

    /// <summary>Prompt tokens that were not computed because their blocks were cached.</summary>
    public int CachedTokens { get; internal set; }

    /// <summary>How often its sequences lost their blocks and were computed again.</summary>
    public int Preemptions { get; internal set; }
}

/// <summary>A request that ended, for monitoring.</summary>
/// <param name="Timings">When, and how many tokens.</param>
/// <param name="Reason">Why; for several choices the gravest.</param>
/// <param name="N">Choices it asked for.</param>
/// <param name="MaxTokens">Tokens a choice could have at most.</param>
public readonly record struct FinishedRequest(RequestTimings Timings, FinishReason Reason, int N, int MaxTokens)
{
    /// <summary>What it was for.</summary>
    public RequestClass Class { get; init; }

    /// <summary>Who sent it; empty where nobody is told apart.</summary>
    public string Tenant { get; init; } = "";

    /// <summary>A client whose deadline passes cancels too, and its word may arrive this much before.</summary>
    private static readonly TimeSpan CancelledEarly = TimeSpan.FromMilliseconds(20);

    /// <summary>Decode time per token after the first; null where there was no second. Choices decode side by side, so
    /// that a request's time is that of each of them.</summary>
    public TimeSpan? TimePerOutputToken
    {
        get
        {
            int afterFirst = (Timings.OutputTokens / N) - 1;
            return afterFirst > 0 ? Stopwatch.GetElapsedTime(Timings.FirstToken, Timings.LastToken) / afterFirst : null;
        }
    }

    internal SloEvent ToSloEvent() => new()
    {
        Outcome = Ended switch
        {
            FinishReason.Stop or FinishReason.Length => SloOutcome.Served,
            FinishReason.Cancelled => SloOutcome.Withdrawn,
            _ => SloOutcome.Broken,
        },
        Class = Class.Name(),
        Tenant = Tenant,
        Ttft = Timings.FirstToken == 0 ? null : Stopwatch.GetElapsedTime(Timings.Arrival, Timings.FirstToken),
        Tpot = TimePerOutputToken,
        Itl = Timings.LongestGap == 0 ? null : Stopwatch.GetElapsedTime(0, Timings.LongestGap),
        E2e = Stopwatch.GetElapsedTime(Timings.Arrival, Timings.Finished),
    };

    /// <summary>Why, as it is counted: a client whose deadline passes cancels too, and either word may come
    /// first.</summary>
    public FinishReason Ended =>
        Reason == FinishReason.Cancelled && IsLate ? FinishReason.Deadline : Reason;

    /// <summary>Whether its deadline had passed, or all but passed, when it ended.</summary>
    private bool IsLate =>
        Timings.Deadline != 0 && Stopwatch.GetElapsedTime(Timings.Finished, Timings.Deadline) <= CancelledEarly;
}
