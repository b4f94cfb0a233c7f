using Native.Kernels.Text;
using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>
/// What a request tells whoever counts, where the engine does not know it. Called on the requests' threads.
/// </summary>
/// <param name="FirstToken">The first token is on its way to the client, this long after the request arrived.</param>
/// <param name="Refused">The engine did not take a request, or it was wrong and never came there.</param>
internal sealed record RequestEvents(Action<TimeSpan> FirstToken, Action<SubmitOutcome> Refused)
{
    /// <summary>Reads a request for tokens. One that is wrong is counted as invalid, one that comes
    /// while the server drains as that, and its error passes.</summary>
    public async ValueTask<T> ReadAsync<T>(Func<ValueTask<T>> read)
    {
        try
        {
            return await read();
        }
        catch (Exception e) when (e is TextEncodingException or RequestException
        {
            Failure: Failure.InvalidArgument or Failure.TooLarge or Failure.NotJson or Failure.Unsupported
                or Failure.NotFound,
        })
        {
            Refused(SubmitOutcome.Invalid);
            throw;
        }
        catch (RequestException e) when (e.Code is "draining" or RequestException.DeviceLostCode)
        {
            Refused(e.Code == "draining" ? SubmitOutcome.Draining : SubmitOutcome.Broken);
            throw;
        }
    }
}
