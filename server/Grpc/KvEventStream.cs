using Grpc.Core;
using Microsoft.Extensions.Hosting;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;
using Native.V1;

namespace Native.Server.Grpc;

/// <summary>Tells routers what the prefix cache holds. Each call reads the engine's ring at its own pace; one that
/// falls out of it begins anew with what is cached.</summary>
internal sealed class KvEventStream(IHostApplicationLifetime lifetime)
{
    /// <summary>How often a call that has told everything looks again. The engine's thread wakes nobody for it, and a
    /// router needs no better.</summary>
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(20);

    /// <summary>Calls at a time; a server has one router, or a few.</summary>
    private const int MostCalls = 16;

    /// <summary>Events of a message: some tens of kilobytes.</summary>
    private const int MostEvents = 256;

    private int _calls;

    /// <summary>Tells events until the call or the server ends.</summary>
    /// <exception cref="RequestException">The engine keeps no events, or too many listen.</exception>
    public async Task SendAsync(
        Engine engine, SubscribeKvEventsRequest request, IServerStreamWriter<KvEventBatch> responses,
        ServerCallContext context)
    {
        if (engine.CacheEvents is not { } events)
            throw RequestException.Unsupported("The server was started without --enable-kv-cache-events.");
        using CancellationTokenSource end =
            CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, lifetime.ApplicationStopping);
        if (Interlocked.Increment(ref _calls) > MostCalls)
        {
            Interlocked.Decrement(ref _calls);
            throw new RequestException(Failure.QueueFull, $"{MostCalls} calls follow the cache already.");
        }
        try
        {
            await Follow(events, request.HasStartSequenceNumber ? request.StartSequenceNumber : null, Send, end.Token);
            throw RequestException.DeviceLost(engine.Fault!); // whoever calls again is told of the next engine's cache
        }
        catch (OperationCanceledException) when (!context.CancellationToken.IsCancellationRequested
            && lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw new RequestException(Failure.Unavailable, "The server is shutting down.", code: "draining")
            { Dropped = DroppedReason.ShuttingDown };
        }
        finally
        {
            Interlocked.Decrement(ref _calls);
        }

        Task Send(KvEventBatch batch) =>
            SlowReader.WaitAsync(context.GetHttpContext(), responses.WriteAsync(batch, end.Token));
    }

    /// <summary>Tells the events from a number on, until no more will come.</summary>
    /// <param name="events">The engine's.</param>
    /// <param name="start">The first; null to begin with what is cached.</param>
    /// <param name="send">Sends a batch.</param>
    /// <param name="ct">Ends it.</param>
    internal static async Task Follow(
        CacheEvents events, ulong? start, Func<KvEventBatch, Task> send, CancellationToken ct)
    {
        bool isKnown = start >= (ulong)events.First && start <= (ulong)events.Next;
        long next = isKnown ? (long)start! : await SendContent(events, Lost(events, start), send, ct);
        while (true)
        {
            KvEventBatch batch = new() { SequenceNumber = (ulong)next };
            bool kept = true, isOver = events.IsOver; // before the last event is looked for
            while (next < events.Next && batch.Events.Count < MostEvents && (kept = events.TryRead(next, out var read)))
            {
                batch.Events.Add(EventOf(read, events.BlockSize));
                next++;
            }
            if (batch.Events.Count > 0) await Send(batch, send);
            if (!kept) next = await SendContent(events, events.Next - next, send, ct);
            else if (next == events.Next && isOver) return;
            else if (next == events.Next) await Task.Delay(LookEvery, ct);
        }
    }

    /// <summary>How many events lie between what a reader asks for and what comes, where it asks for any.</summary>
    private static long Lost(CacheEvents events, ulong? start) =>
        // A number below the first is another engine's: what that one lost nobody knows.
        start is { } first && first >= (ulong)events.First && first < (ulong)events.Next
            ? events.Next - (long)first : 0;

    /// <summary>Tells what is cached.</summary>
    /// <returns>The event to go on with.</returns>
    private static async Task<long> SendContent(
        CacheEvents events, long lost, Func<KvEventBatch, Task> send, CancellationToken ct)
    {
        long next = events.Next; // before the content: what changes while it is read is told again
        KvEventBatch batch = new() { SequenceNumber = (ulong)next, IsSnapshot = true, Lost = (ulong)lost };
        batch.Events.Add(new KvEvent { AllBlocksCleared = new() });
        for (int block = 0; block < events.BlockCount; block++)
        {
            if (!events.TryReadBlock(block, out CacheEvent read)) continue;
            batch.Events.Add(EventOf(read, events.BlockSize));
            if (batch.Events.Count < MostEvents) continue;
            ct.ThrowIfCancellationRequested();
            await Send(batch, send);
            batch = new() { SequenceNumber = (ulong)next, IsSnapshot = true };
        }
        if (batch.Events.Count > 0) await Send(batch, send);
        await Send(new KvEventBatch { SequenceNumber = (ulong)next }, send);
        return next;
    }

    private static Task Send(KvEventBatch batch, Func<KvEventBatch, Task> send)
    {
        batch.Timestamp = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1000.0;
        return send(batch);
    }

    private static KvEvent EventOf(in CacheEvent read, int blockSize)
    {
        if (read.Kind == CacheEventKind.Cleared) return new KvEvent { AllBlocksCleared = new() };
        if (read.Kind == CacheEventKind.Removed)
            return new KvEvent { BlockRemoved = new() { BlockHashes = { read.Hash } } };
        BlockStored stored = new() { BlockHashes = { read.Hash }, TokenIds = { read.Tokens } };
        stored.BlockSize = (uint)blockSize;
        if (read.Parent is { } parent) stored.ParentBlockHash = parent;
        return new KvEvent { BlockStored = stored };
    }
}
