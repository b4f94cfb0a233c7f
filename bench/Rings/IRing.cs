using System.Collections.Concurrent;
using System.Threading.Channels;
using Native.Scheduling;

namespace Native.Bench.Rings;

/// <summary>A queue from many producers to one consumer. Implementations are structs, so that the measuring loop calls
/// them directly.</summary>
internal interface IRing
{
    /// <summary>Makes an empty one.</summary>
    /// <param name="capacity">Items it must have room for.</param>
    static abstract IRing Create(int capacity);

    /// <summary>Any thread. False where it is full.</summary>
    bool TryPut(object item);

    /// <summary>One thread. False where it is empty.</summary>
    bool TryTake();
}

/// <summary>The scheduler's.</summary>
internal readonly struct InboxRing(int capacity) : IRing
{
    private readonly Inbox<object> _inbox = new(capacity);

    public static IRing Create(int capacity) => new InboxRing(capacity);

    public bool TryPut(object item) => _inbox.TryEnqueue(item);

    public bool TryTake() => _inbox.TryDequeue(out _);
}

/// <summary>A bounded channel with one reader.</summary>
internal readonly struct ChannelRing(int capacity) : IRing
{
    private readonly Channel<object> _channel =
        Channel.CreateBounded<object>(new BoundedChannelOptions(capacity) { SingleReader = true });

    public static IRing Create(int capacity) => new ChannelRing(capacity);

    public bool TryPut(object item) => _channel.Writer.TryWrite(item);

    public bool TryTake() => _channel.Reader.TryRead(out _);
}

/// <summary>.NET's unbounded queue: never full.</summary>
internal readonly struct ConcurrentQueueRing() : IRing
{
    private readonly ConcurrentQueue<object> _queue = new();

    public static IRing Create(int capacity) => new ConcurrentQueueRing();

    public bool TryPut(object item)
    {
        _queue.Enqueue(item);
        return true;
    }

    public bool TryTake() => _queue.TryDequeue(out _);
}
