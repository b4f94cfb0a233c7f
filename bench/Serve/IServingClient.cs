namespace Native.Bench.Serve;

/// <summary>What a server counted.</summary>
/// <param name="InputTokens">Of the prompt; null where it did not tell.</param>
/// <param name="OutputTokens">Of the output; null where it did not tell.</param>
internal readonly record struct TokenCounts(int? InputTokens, int? OutputTokens);

/// <summary>One way to ask a server.</summary>
internal interface IServingClient : IDisposable
{
    /// <summary>Sends a prompt and reads the answer to its end.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <param name="onPiece">Called when a piece of output has come, before the next is waited for.</param>
    /// <param name="ct">Gives the request up.</param>
    /// <exception cref="RequestFailedException">The server refused, or ended the answer before its end.</exception>
    Task<TokenCounts> SendAsync(Prompt prompt, Action onPiece, CancellationToken ct);
}

/// <summary>One request came to nothing; the message says how.</summary>
internal sealed class RequestFailedException(string message) : Exception(message);
