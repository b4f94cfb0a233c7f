using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;

namespace Native.Server.Http;

/// <summary>The bound on how long an answer waits for a client that does not read.</summary>
/// <param name="patience">How long.</param>
/// <remarks>
/// Kestrel's own bound, a least rate, counts what the system's buffers took as time in hand: hours after 4 MiB.
/// </remarks>
internal sealed class SlowReader(TimeSpan patience)
{
    /// <summary>
    /// Waits until the client has made room for what is being sent, and hangs up on one that takes too long.
    /// </summary>
    /// <exception cref="OperationCanceledException">It was hung up on, or it is gone.</exception>
    public static Task WaitAsync(HttpContext http, Task sending) =>
        sending.IsCompleted ? sending
            : http.RequestServices.GetRequiredService<SlowReader>().WaitForReaderAsync(http, sending);

    private async Task WaitForReaderAsync(HttpContext http, Task sending)
    {
        try
        {
            await sending.WaitAsync(patience);
        }
        catch (TimeoutException) when (!sending.IsCompleted)
        {
            http.Abort();
            // It ends now, in whatever way; left alone it would reach for a context that is gone when the abort is
            // told.
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            throw new OperationCanceledException("The client does not read.");
        }
    }
}
