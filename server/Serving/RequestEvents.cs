using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>
/// What a request tells whoever counts, where the engine does not know it. Called on the requests' threads.
/// </summary>
/// <param name="FirstToken">The first token is on its way to the client, this long after the request arrived.</param>
/// <param name="Refused">The engine did not take a request.</param>
internal sealed record RequestEvents(Action<TimeSpan> FirstToken, Action<SubmitOutcome> Refused);
