namespace Native.Tests.Gpu.Machine;

/// <summary>What threads tell each other by strong accesses and fences (PTX ISA 8.10.5): a release is known to whoever
/// acquires it, if the scopes of both contain the other thread.</summary>
/// <remarks>What is told to the device is kept by address, what is told to a block by address and block. Two ways lead
/// from a write to a read: a release pattern and an acquire pattern, each of one thread; or two sequentially
/// consistent fences, before and behind which barriers may lie, as where each thread executes __threadfence, the block
/// a barrier, and one thread then counts the block as done.</remarks>
internal sealed class Fences
{
    private const int Device = -1;

    private readonly Dictionary<(long Address, int Block), Told> _told = [];
    private readonly Dictionary<uint, State> _states = [];
    private bool _isShared;

    /// <summary>What the last writes of an address tell: by a release, and by a fence of whoever was before.</summary>
    private sealed class Told
    {
        public Knowledge? Released, Fenced;
    }

    /// <summary>What a thread's next strong write tells, and what its next fence lets it know.</summary>
    private sealed class State
    {
        public Knowledge? Told, ToldBlock, Seen, SeenBlock;

        /// <summary>The same by sequentially consistent fences: these go past barriers too.</summary>
        public Knowledge? Passed, Coming;

        /// <summary>When it last read what others told.</summary>
        public Dictionary<long, uint> Observed { get; } = [];
    }

    private State StateOf(uint who)
    {
        if (!_states.TryGetValue(who, out State? state)) _states[who] = state = new State();
        return state;
    }

    /// <summary>A strong read of an address: with acquire what was told there is known at once, otherwise after the
    /// next fence. A wide one reaches other blocks.</summary>
    public void Observe(Warp warp, int lane, long address, bool acquire, bool isWide)
    {
        if (_told.Count == 0) return;
        if (_told.TryGetValue((address, warp.Block.Index), out Told? near))
        {
            if (acquire) warp.Acquire(lane, near.Released);
            else StateOf(warp.WhoOf(lane)).SeenBlock = Join(StateOf(warp.WhoOf(lane)).SeenBlock, near.Released);
        }
        if (!isWide || !_told.TryGetValue((address, Device), out Told? told)) return;
        State state = StateOf(warp.WhoOf(lane));
        state.Observed[address] = warp.Block.Launch.Time;
        if (acquire) warp.Acquire(lane, told.Released);
        else state.Seen = Join(state.Seen, told.Released);
        state.Coming = Join(state.Coming, told.Fenced);
    }

    /// <summary>A strong write to an address: with release it tells all that is ordered before, otherwise what was at
    /// the last fence. What was told by the value before goes on through an atomic operation, and ends with a store.
    /// </summary>
    public void Publish(Warp warp, int lane, long address, bool release, bool isAtomic, bool isWide)
    {
        State? state = _states.GetValueOrDefault(warp.WhoOf(lane));
        Knowledge? all = release ? warp.Everything(lane) : null;
        Tell((address, warp.Block.Index), all ?? state?.ToldBlock, null, isAtomic);
        Tell((address, Device), isWide ? all ?? state?.Told : null, isWide ? state?.Passed : null, isAtomic);
        if (all is not null || state is not null) warp.Block.Launch.Advance();
    }

    private void Tell((long Address, int Block) where, Knowledge? released, Knowledge? fenced, bool isAtomic)
    {
        if (released is null && fenced is null)
        {
            if (!isAtomic && _told.Count > 0) _told.Remove(where);
            return;
        }
        if (!_told.TryGetValue(where, out Told? told) || !isAtomic) _told[where] = told = new Told();
        told.Released = Join(told.Released, released);
        told.Fenced = Join(told.Fenced, fenced);
    }

    /// <summary>What a lane saw by strong reads is known now, and its next strong write tells all before. Those that
    /// are sequential have one order on the device.</summary>
    public void Fence(Warp warp, int lane, bool isWide, bool isSequential)
    {
        State state = StateOf(warp.WhoOf(lane));
        warp.Acquire(lane, state.SeenBlock);
        state.SeenBlock = null;
        if (isWide)
        {
            warp.Acquire(lane, state.Seen);
            if (isSequential) warp.Acquire(lane, state.Coming);
            state.Seen = null;
        }
        Knowledge all = warp.Everything(lane);
        state.ToldBlock = all;
        if (isWide) state.Told = all;
        if (isWide && isSequential)
        {
            (state.Passed, state.Coming) = (all, null);
            _isShared = true;
        }
        warp.Block.Launch.Advance();
    }

    /// <summary>Threads of a block meet at a barrier: what one of them has fenced or seen, all have. Bits say
    /// which they are of those from the first on.</summary>
    public void Meet(uint first, ReadOnlySpan<uint> lanes)
    {
        if (!_isShared) return;
        Knowledge? passed = null, coming = null;
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < 32 * lanes.Length; i++)
            {
                if ((lanes[i >> 5] >> i & 1) == 0) continue;
                uint who = first + (uint)i;
                if (pass == 0 && _states.TryGetValue(who, out State? state))
                    (passed, coming) = (Join(passed, state.Passed), Join(coming, state.Coming));
                if (pass == 1) (StateOf(who).Passed, StateOf(who).Coming) = (passed, coming);
            }
    }

    /// <summary>Whether a thread has read by a strong read what others wrote to an address at a time.</summary>
    public bool HasObserved(uint who, long address, uint time) => _states.TryGetValue(who, out State? state)
        && state.Observed.TryGetValue(address, out uint observed) && observed >= time;

    /// <summary>Never changes what it is given: others hold it too.</summary>
    private static Knowledge? Join(Knowledge? a, Knowledge? b)
    {
        if (a is null || b is null || ReferenceEquals(a, b)) return a ?? b;
        Knowledge all = a.Copy();
        all.Add(b);
        return all;
    }
}
