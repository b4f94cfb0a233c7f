namespace Native.Scheduling;

/// <summary>Streams that have news for the engine thread: cancelled, or a choice stopped. Any thread pushes, one takes
/// all; no lock.</summary>
/// <remarks>
/// A stack of Treiber (1986) whose links are the streams' own, so it can't be full and allocates nothing. A stream is
/// in it at most once; taking all at once leaves no place for the ABA problem. The taker clears a stream's mark before
/// it reads the stream's news, and whoever has news writes it before it looks at the mark: news is seen now or the
/// stream is pushed again.
/// <para>Progress. <see cref="Push"/> is lock-free: its compare-and-swap fails only where another push or a taking
/// succeeded. The rest is wait-free. A thread suspended anywhere holds up nobody; suspended between mark and link it
/// delays its own stream alone.</para>
/// </remarks>
internal sealed class SignalStack
{
    private TokenStream? _top;

    /// <summary>True where nothing was pushed since the last <see cref="TakeAll"/>.</summary>
    public bool IsEmpty => Volatile.Read(ref _top) is null;

    /// <summary>Any thread. Lock-free.</summary>
    public void Push(TokenStream stream)
    {
        if (Interlocked.Exchange(ref stream.Signalled, 1) != 0) return;
        TokenStream? top = Volatile.Read(ref _top);
        while (true)
        {
            stream.NextSignalled = top;
            TokenStream? seen = Interlocked.CompareExchange(ref _top, stream, top);
            if (seen == top) return;
            top = seen;
        }
    }

    /// <summary>The engine thread: the streams pushed, linked by <see cref="TokenStream.NextSignalled"/>; null for
    /// none.</summary>
    public TokenStream? TakeAll() => IsEmpty ? null : Interlocked.Exchange(ref _top, null);

    /// <summary>The engine thread: unlinks a stream that was taken, and lets it be pushed again.</summary>
    /// <returns>The next of those taken.</returns>
    public static TokenStream? Unlink(TokenStream stream)
    {
        TokenStream? next = stream.NextSignalled;
        stream.NextSignalled = null;
        Interlocked.Exchange(ref stream.Signalled, 0); // a full fence before the news is read
        return next;
    }
}
