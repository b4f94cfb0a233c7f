using Grpc.Core;

namespace Native.Server.Serving;

/// <summary>What can go wrong with a request, by meaning. How each protocol says it is <see cref="FailureStatus"/>'s
/// table.</summary>
internal enum Failure
{
    /// <summary>No retry can mend it: a parameter, a prompt past the context, a body that is no JSON.</summary>
    InvalidArgument,

    /// <summary>The body is larger than the server reads.</summary>
    TooLarge,

    /// <summary>The body began and did not go on.</summary>
    BodyTimeout,

    /// <summary>The body is of another type than JSON.</summary>
    NotJson,

    /// <summary>A feature of the protocol that this server does not have.</summary>
    Unsupported,

    /// <summary>No such model or address.</summary>
    NotFound,

    /// <summary>The address exists, for another HTTP method.</summary>
    WrongMethod,

    /// <summary>The request id is in use.</summary>
    Duplicate,

    /// <summary>The key is missing or wrong.</summary>
    Unauthenticated,

    /// <summary>As many requests wait as may.</summary>
    QueueFull,

    /// <summary>Loading, draining, the model could not be loaded, or what computes is broken.</summary>
    Unavailable,

    /// <summary>The caller's deadline passed, in the queue or later.</summary>
    DeadlineExceeded,

    /// <summary>The caller went away.</summary>
    Cancelled,

    /// <summary>NaN logits, a kernel's fault, or our own.</summary>
    Internal,
}

/// <summary>Ends one request with a status. The message is for the caller.</summary>
internal sealed class RequestException(Failure failure, string message, string? param = null, string? code = null)
    : Exception(Bounded(message, MaxMessage))
{
    /// <summary>Longest message, in characters: it may quote the caller, must fit in a header of gRPC's and is no way
    /// to be sent megabytes.</summary>
    private const int MaxMessage = 500;

    private const int MaxQuote = 100;

    /// <summary>The code where what computes is broken.</summary>
    public const string DeviceLostCode = "device_lost";

    public Failure Failure { get; } = failure;

    /// <summary>The field at fault, in the caller's own spelling.</summary>
    public string? Param { get; } = param;

    /// <summary>A word for programs.</summary>
    public string? Code { get; } = code;

    /// <summary>When a retry may do better.</summary>
    public TimeSpan? RetryAfter { get; init; }

    /// <summary>Why the request was dropped, where it was, for <see cref="DroppedReason.Header"/>.</summary>
    public string? Dropped { get => field ?? DroppedReason.Of(Failure); init; }

    public static RequestException Invalid(string message, string? param = null, string? code = null) =>
        new(Failure.InvalidArgument, message, param, code);

    public static RequestException Unsupported(string message, string? param = null) =>
        new(Failure.Unsupported, message, param, "unsupported");

    /// <summary>What computes is broken. A retry may find something else in its place, or another server.</summary>
    /// <param name="fault">What broke it.</param>
    /// <param name="hasBegun">Whether a step had the request.</param>
    public static RequestException DeviceLost(Exception fault, bool hasBegun = false) =>
        new(Failure.Unavailable, $"What computes is broken: {fault.Message}", code: DeviceLostCode)
        {
            RetryAfter = TimeSpan.FromSeconds(1),
            Dropped = hasBegun ? DroppedReason.Evicted : DroppedReason.NoEndpoints,
        };

    /// <summary>The caller's own words, for a message: their beginning where they are long.</summary>
    public static string Quoted(string words) => Bounded(words, MaxQuote);

    private static string Bounded(string text, int length)
    {
        if (text.Length <= length) return text;
        return text[..(char.IsHighSurrogate(text[length - 1]) ? length - 1 : length)] + "..."; // whole characters
    }
}

/// <summary>The words that llm-d's router has for dropped requests, so that whoever reads its answers can read
/// ours.</summary>
internal static class DroppedReason
{
    /// <summary>The response header, and gRPC's trailer, that tells one of them.</summary>
    public const string Header = "x-llm-d-request-dropped-reason";

    /// <summary>There is no room for it, or no time.</summary>
    public const string Saturated = "rejected-saturated";

    /// <summary>There is no model to compute it.</summary>
    public const string NoEndpoints = "rejected-no-endpoints";

    /// <summary>Its deadline passed before it was begun.</summary>
    public const string Expired = "rejected-ttl-expired";

    /// <summary>The server ends, and it was not begun.</summary>
    public const string ShuttingDown = "rejected-shutting-down";

    /// <summary>It was begun, and ended from outside.</summary>
    public const string Evicted = "evicted";

    /// <summary>The word where whoever throws knows no better; null where nothing was dropped.</summary>
    public static string? Of(Failure failure) => failure switch
    {
        Failure.QueueFull => Saturated,
        Failure.Unavailable => NoEndpoints,
        Failure.DeadlineExceeded => Expired,
        _ => null,
    };
}

/// <summary>The one place where failures become statuses.</summary>
internal static class FailureStatus
{
    /// <summary>The gRPC status, the HTTP status and OpenAI's error type.</summary>
    public static (StatusCode Grpc, int Http, string Type) Of(Failure failure) => failure switch
    {
        Failure.InvalidArgument => (StatusCode.InvalidArgument, 400, "invalid_request_error"),
        Failure.TooLarge => (StatusCode.ResourceExhausted, 413, "invalid_request_error"),
        Failure.BodyTimeout => (StatusCode.DeadlineExceeded, 408, "timeout_error"),
        Failure.NotJson => (StatusCode.InvalidArgument, 415, "invalid_request_error"),
        Failure.Unsupported => (StatusCode.Unimplemented, 501, "not_implemented_error"),
        Failure.NotFound => (StatusCode.NotFound, 404, "invalid_request_error"),
        Failure.WrongMethod => (StatusCode.Unimplemented, 405, "invalid_request_error"),
        Failure.Duplicate => (StatusCode.AlreadyExists, 409, "invalid_request_error"),
        Failure.Unauthenticated => (StatusCode.Unauthenticated, 401, "invalid_request_error"),
        Failure.QueueFull => (StatusCode.ResourceExhausted, 429, "rate_limit_error"),
        Failure.Unavailable => (StatusCode.Unavailable, 503, "unavailable_error"),
        Failure.DeadlineExceeded => (StatusCode.DeadlineExceeded, 504, "timeout_error"),
        Failure.Cancelled => (StatusCode.Cancelled, 499, "cancelled_error"),
        _ => (StatusCode.Internal, 500, "server_error"),
    };
}
