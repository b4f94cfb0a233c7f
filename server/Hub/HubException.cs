namespace Native.Server.Hub;

/// <summary>A model could not be had from the hub; the message says why and what to do.</summary>
public class HubException(string message, Exception? inner = null) : IOException(message, inner);

/// <summary>A repository has several models and none was named; the message lists them, one a line.</summary>
public sealed class HubChoiceException(string message) : HubException(message);

/// <summary>What a later attempt may do better: a lost connection, a server that is busy.</summary>
internal sealed class TransientException(string message, TimeSpan? retryAfter = null, Exception? inner = null)
    : Exception(message, inner)
{
    /// <summary>When the server wants to be asked again.</summary>
    public TimeSpan? RetryAfter { get; } = retryAfter;
}
