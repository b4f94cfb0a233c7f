using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>Some memory of the device: an allocation, a block's shared memory or a thread's local one. Knows of each
/// byte whether it was written, whether an asynchronous copy is on its way to it, and who touched it last.</summary>
/// <remarks>A stamp has the time in its upper half, whether the access was strong (atomic, volatile, relaxed) in bit
/// 31, and <see cref="Who"/> below. Stamps are kept for each four bytes until something smaller is touched.</remarks>
internal sealed unsafe class MemoryRange : IDisposable
{
    /// <summary>Flags of a byte.</summary>
    public const byte Initialised = 1, InFlight = 2, Gap = 4;

    public const ulong Strong = 1UL << 31;

    private const byte Poison = 0xcd;

    private int _shift = 2;
    private ulong _begin;
    private ulong* _writes, _reads;
    private Dictionary<long, Dictionary<uint, uint>>? _polled; // by granule, when who read last by a strong read
    private long _firstPolled = long.MaxValue, _lastPolled = -1;
    private ulong* _readers; // [granules][warps]: the stamp of who of a warp read last
    private readonly int _warps;

    /// <summary>New memory, poisoned. <c>warps</c> is more than 0 to tell apart when each warp of a block read, where
    /// there are barriers of parts of it, and <c>gap</c> bytes behind it are nobody's.</summary>
    public MemoryRange(string name, long bytes, bool stamped, int warps = 0, int gap = 0)
    {
        Name = name;
        Bytes = bytes;
        IsStamped = stamped;
        _warps = warps;
        Data = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(bytes + gap, 1), 1024);
        new Span<byte>(Data, (int)Math.Min(bytes, int.MaxValue)).Fill(Poison);
        Flags = (byte*)NativeMemory.AllocZeroed((nuint)bytes + 16);
    }

    public string Name { get; }

    public long Bytes { get; }

    public byte* Data { get; }

    public byte* Flags { get; }

    public bool IsStamped { get; }

    public bool IsReadOnly { get; init; }

    /// <summary>Whether a block's barriers order all that is done with it.</summary>
    public bool IsOfBlock { get; init; }

    /// <summary>What lies in it, in ascending order, for messages; nothing where it has no parts.</summary>
    public IReadOnlyList<PtxVariable> Variables { get; init; } = [];

    private ulong LimitOf(Warp warp) =>
        IsOfBlock && _warps == 0 ? Math.Max(Begin(warp), warp.Block.BarrierLimit) : Begin(warp);

    /// <summary>Stamps below are of earlier launches, or of the block that had this memory before.</summary>
    private ulong Begin(Warp warp) => Math.Max(_begin, warp.LaunchLimit);

    /// <summary>Another block has it now: nobody has written it, and what was done before is of no account.</summary>
    /// <param name="begin">Stamps below are of before.</param>
    public void Forget(ulong begin)
    {
        _begin = begin;
        new Span<byte>(Flags, (int)Bytes).Clear();
        _polled = null;
        (_firstPolled, _lastPolled) = (long.MaxValue, -1);
    }

    /// <summary>Marks as written from outside, by a copy of the host's.</summary>
    public void Fill(long offset, long bytes) => new Span<byte>(Flags + offset, checked((int)bytes)).Fill(Initialised);

    /// <summary>Null if the bytes may be read by a lane, else why not. It is not recorded where the write behind it
    /// stands for it, as in an atomic operation.</summary>
    public GpuFaultCause? Read(Warp warp, int lane, long offset, int bytes, bool strong, bool records = true)
    {
        if (!All(offset, bytes, Initialised)) return WhyNotReadable(offset, bytes);
        if (!IsStamped) return null;
        Prepare(offset, bytes, write: false);
        ulong stamp = warp.StampOf(lane);
        long end = (offset + bytes - 1) >> _shift;
        for (long i = offset >> _shift; i <= end; i++)
        {
            if (_writes != null && _writes[i] >= Begin(warp)
                && !(strong && (_writes[i] & Strong) != 0) && !IsKnown(warp, lane, _writes[i], i))
                return Race("reads", "wrote", _writes[i], i);
            if (!records) continue;
            if (strong)
            {
                Poll(warp, lane, i);
                continue;
            }
            ulong read = _reads[i];
            if (read != stamp) _reads[i] = read < Begin(warp) || warp.IsOrdered(read, lane)
                ? stamp : Join(read, stamp);
            if (_readers == null) continue;
            ref ulong last = ref _readers[i * _warps + warp.Index];
            last = last < Begin(warp) || warp.IsOrdered(last, lane) ? stamp : Join(last, stamp);
        }
        return null;
    }

    /// <summary>Null if the bytes may be written by a lane, else why not. Two may write the same value.</summary>
    public GpuFaultCause? Write(Warp warp, int lane, long offset, int bytes, bool strong, byte* value)
    {
        if (IsReadOnly) return new(FaultKind.OutOfBounds, $"writes to {Name}, which is constant");
        if (WhyNotWritable("writes", "an asynchronous copy", offset, bytes) is { } why) return why;
        GpuFaultCause? cause = IsStamped ? Stamp(warp, lane, offset, bytes, strong, value) : null;
        Unsafe.InitBlockUnaligned(Flags + offset, Initialised, (uint)bytes);
        return cause;
    }

    /// <summary>Null if nothing keeps a copy or a thread from writing there, else why not.</summary>
    public GpuFaultCause? WhyNotWritable(string does, string copy, long offset, int bytes)
    {
        if (!Any(offset, bytes, InFlight | Gap)) return null;
        return Any(offset, bytes, Gap) ? InGap(does, offset)
            : new(FaultKind.AsyncCopy, $"{does} {At(offset)} while {copy} to it is in flight");
    }

    private GpuFaultCause InGap(string does, long offset) =>
        new(FaultKind.OutOfBounds, $"{does} {At(offset)}, which lies between two variables");

    /// <summary>Makes some bytes belong to nobody.</summary>
    public void Leave(long offset, int bytes) => new Span<byte>(Flags + offset, bytes).Fill(Gap);

    /// <summary>Whether another lane of the warp wrote there, unordered, and this is the first that a lane reads of it:
    /// no waiting for it.</summary>
    public bool IsFirstLookAtOwnWarp(Warp warp, int lane, long offset)
    {
        ulong write = LastWrite(offset);
        return (uint)write is var who && Who.BlockOf(who & 0x7fff_ffff) == warp.Block.Index && write > warp.LaunchLimit
            && Who.CodeOf(who) / 32 == warp.Index && !warp.IsOrdered(write, lane)
            && !(_polled?.GetValueOrDefault(offset >> _shift)?.ContainsKey(warp.WhoOf(lane)) ?? false);
    }

    private void Poll(Warp warp, int lane, long granule)
    {
        _polled ??= [];
        if (!_polled.TryGetValue(granule, out Dictionary<uint, uint>? readers)) _polled[granule] = readers = [];
        readers[warp.WhoOf(lane)] = warp.Block.Launch.Time;
        (_firstPolled, _lastPolled) = (Math.Min(_firstPolled, granule), Math.Max(_lastPolled, granule));
    }

    /// <summary>The stamp of a strong read that is not ordered before a lane, or null.</summary>
    private ulong? PolledBy(Warp warp, int lane, long granule)
    {
        if (!_polled!.TryGetValue(granule, out Dictionary<uint, uint>? readers)) return null;
        foreach ((uint who, uint time) in readers)
        {
            ulong stamp = (ulong)time << 32 | who;
            if (stamp >= Begin(warp) && !warp.IsOrdered(stamp, lane)) return stamp;
        }
        return null;
    }

    /// <summary>Whether all lanes of a warp may read neighbouring elements, where that is plain.</summary>
    public bool TryReadSpan(Warp warp, long offset, int bytes)
    {
        if (new ReadOnlySpan<byte>(Flags + offset, 32 * bytes).ContainsAnyExcept(Initialised)) return false;
        if (!IsStamped) return true;
        if (_readers != null || _shift > 0 && bytes < 4) return false;
        Prepare(offset, bytes, write: false);
        if (_readers != null) return false;
        long first = offset >> _shift;
        int each = bytes >> _shift;
        ulong limit = LimitOf(warp), stamp = warp.StampOf(0);
        if (_writes != null)
            for (long i = first; i < first + 32 * each; i++)
                if (_writes[i] >= limit) return false;
        ulong* reads = _reads + first;
        for (int lane = 0; lane < 32; lane++, stamp++)
            for (int i = 0; i < each; i++)
                if (reads[lane * each + i] >= limit && reads[lane * each + i] != stamp) return false;
        stamp = warp.StampOf(0);
        for (int lane = 0; lane < 32; lane++, stamp++)
            for (int i = 0; i < each; i++) reads[lane * each + i] = stamp;
        return true;
    }

    /// <summary>Whether a lane may read, where that is plain.</summary>
    public bool TryRead(Warp warp, int lane, long offset, int bytes)
    {
        if (!All(offset, bytes, Initialised)) return false;
        if (!IsStamped) return true;
        if (_reads == null || _readers != null || (_shift > 0 && ((offset | (long)bytes) & 3) != 0)) return false;
        ulong limit = LimitOf(warp), stamp = warp.StampOf(lane);
        long end = (offset + bytes - 1) >> _shift;
        for (long i = offset >> _shift; i <= end; i++)
        {
            if (_writes != null && _writes[i] >= limit) return false;
            ulong read = _reads[i];
            if (read < limit || read == stamp) _reads[i] = stamp;
            else if (((uint)read & 0x7fff_ffff) == Who.Everybody && warp.Known[lane] is null)
                _reads[i] = Math.Max(read, stamp) & 0xffff_ffff_0000_0000 | Who.Everybody;
            else return false;
        }
        return true;
    }

    /// <summary>Whether all lanes may read one element.</summary>
    public bool TryReadOne(Warp warp, long offset, int bytes)
    {
        if (!All(offset, bytes, Initialised)) return false;
        if (!IsStamped) return true;
        if (_shift > 0 && bytes < 4) return false;
        Prepare(offset, bytes, write: false);
        if (_readers != null) return false;
        ulong limit = LimitOf(warp);
        ulong stamp = warp.StampOf(0) - warp.FirstWho + Who.Of(warp.Block.Index, Who.Warp + (uint)warp.Index);
        long first = offset >> _shift, end = (offset + bytes - 1) >> _shift;
        for (long i = first; i <= end; i++)
            if ((_writes != null && _writes[i] >= limit) || (_reads[i] >= limit && _reads[i] != stamp)) return false;
        for (long i = first; i <= end; i++) _reads[i] = stamp;
        return true;
    }

    /// <summary>Whether all lanes may write neighbouring elements, where that is plain.</summary>
    public bool TryWriteSpan(Warp warp, long offset, int bytes)
    {
        if (IsReadOnly || !IsStamped || _shift > 0 && bytes < 4) return false;
        Span<byte> flags = new(Flags + offset, 32 * bytes);
        if (flags.ContainsAnyExcept(Initialised, (byte)0)) return false;
        Prepare(offset, bytes, write: true);
        long first = offset >> _shift;
        int each = bytes >> _shift;
        if (first <= _lastPolled && first + 32 * each > _firstPolled) return false;
        ulong limit = LimitOf(warp), stamp = warp.StampOf(0);
        ulong* writes = _writes + first, reads = _reads == null ? null : _reads + first;
        for (int lane = 0; lane < 32; lane++, stamp++)
            for (int i = 0; i < each; i++)
            {
                ulong old = writes[lane * each + i], read = reads == null ? 0 : reads[lane * each + i];
                if ((old >= limit && old != stamp) || (read >= limit && read != stamp)) return false;
            }
        stamp = warp.StampOf(0);
        for (int lane = 0; lane < 32; lane++, stamp++)
            for (int i = 0; i < each; i++) writes[lane * each + i] = stamp;
        flags.Fill(Initialised);
        return true;
    }

    /// <summary>The part of <see cref="Write"/> that is about order: also for a copy that will write later.</summary>
    public GpuFaultCause? Stamp(Warp warp, int lane, long offset, int bytes, bool strong, byte* value)
    {
        Prepare(offset, bytes, write: true);
        ulong stamp = warp.StampOf(lane) | (strong ? Strong : 0);
        long end = (offset + bytes - 1) >> _shift;
        for (long i = offset >> _shift; i <= end; i++)
        {
            if (_writes[i] >= Begin(warp) && !(strong && (_writes[i] & Strong) != 0)
                && !IsKnown(warp, lane, _writes[i], i) && !IsSame(i, offset, bytes, value))
                return Race("writes", "wrote", _writes[i], i);
            if (!strong && i >= _firstPolled && i <= _lastPolled && PolledBy(warp, lane, i) is { } poll)
                return Race("writes", "read", poll, i);
            if (_reads != null && _reads[i] >= Begin(warp) && !warp.IsOrdered(_reads[i], lane)
                && !AllReadersAreOrdered(warp, lane, i)) return Race("writes", "read", _reads[i], i);
            _writes[i] = stamp;
        }
        return null;
    }

    /// <summary>What is on its way by an asynchronous copy: not readable until it has landed.</summary>
    public void Fly(long offset, int bytes) => Unsafe.InitBlockUnaligned(Flags + offset, InFlight, (uint)bytes);

    /// <summary>Such a copy has landed, and the one who waits for it counts as who wrote.</summary>
    public void Land(long offset, int bytes, ulong stamp)
    {
        Unsafe.InitBlockUnaligned(Flags + offset, Initialised, (uint)bytes);
        if (!IsStamped) return;
        Prepare(offset, bytes, write: true);
        for (long i = offset >> _shift; i <= (offset + bytes - 1) >> _shift; i++) _writes[i] = stamp;
    }

    /// <summary>A copy of the copy engine reads: who writes there must have waited for it.</summary>
    public void ReadByCopy(Warp warp, int lane, long offset, int bytes, uint who)
    {
        ulong stamp = (ulong)warp.Block.Launch.Time << 32 | who;
        Prepare(offset, bytes, write: false);
        for (long i = offset >> _shift; i <= (offset + bytes - 1) >> _shift; i++)
            _reads[i] = _reads[i] < Begin(warp) || warp.IsOrdered(_reads[i], lane) ? stamp : Join(_reads[i], stamp);
    }

    /// <summary>What is wrong where bytes were written since a time, in stamps: what a copy reads must stay.</summary>
    public GpuFaultCause? ChangedSince(ulong time, long offset, int bytes)
    {
        if (!IsStamped || _writes == null) return null;
        for (long i = offset >> _shift; i <= (offset + bytes - 1) >> _shift; i++)
            if (_writes[i] >= time && _writes[i] >= _begin)
                return new(FaultKind.AsyncCopy,
                    $"its source at {At(i << _shift)} was changed while it was in flight, by {NameOf(_writes[i])}");
        return null;
    }

    /// <summary>The stamp of the last write of a byte, 0 for none.</summary>
    public ulong LastWrite(long offset) =>
        _writes == null || _writes[offset >> _shift] < _begin ? 0 : _writes[offset >> _shift];

    public bool Any(long offset, int bytes, byte flag)
    {
        for (int i = 0; i < bytes; i++)
            if ((Flags[offset + i] & flag) != 0) return true;
        return false;
    }

    private bool All(long offset, int bytes, byte flag) => bytes switch
    {
        4 => *(uint*)(Flags + offset) == flag * 0x0101_0101u,
        8 => *(ulong*)(Flags + offset) == flag * 0x0101_0101_0101_0101ul,
        16 => ((ulong*)(Flags + offset))[0] == flag * 0x0101_0101_0101_0101ul
            && ((ulong*)(Flags + offset))[1] == flag * 0x0101_0101_0101_0101ul,
        _ => !new ReadOnlySpan<byte>(Flags + offset, bytes).ContainsAnyExcept(flag),
    };

    private GpuFaultCause WhyNotReadable(long offset, int bytes)
    {
        for (long i = offset; i < offset + bytes; i++)
        {
            if ((Flags[i] & InFlight) != 0)
                return new(FaultKind.AsyncCopy, $"reads {At(i)} before the asynchronous copy to it was awaited");
            if ((Flags[i] & Gap) != 0) return InGap("reads", i);
            if (Flags[i] == 0) return new(FaultKind.Uninitialised, $"reads {At(i)}, which nobody has written yet");
        }
        throw new InvalidOperationException("all bytes are readable");
    }

    /// <summary>Whether a write was before: by what orders, or since the lane has read it by a strong read.</summary>
    private bool IsKnown(Warp warp, int lane, ulong write, long granule) => warp.IsOrdered(write, lane)
        || ((write & Strong) != 0 && warp.Block.Launch.Fences.HasObserved(warp.WhoOf(lane),
            (long)Data + (granule << _shift), (uint)(write >> 32)));

    private GpuFaultCause Race(string does, string did, ulong other, long granule) =>
        new(FaultKind.Race, $"{does} {At(granule << _shift)}, which {NameOf(other)} {did} without order between them");

    private static string NameOf(ulong stamp)
    {
        uint who = (uint)stamp & 0x7fff_ffff;
        if (who == Who.Everybody) return "several blocks";
        uint code = Who.CodeOf(who), block = Who.BlockOf(who);
        if (code >= Who.FirstCopy) return $"an asynchronous copy of block {block}";
        return code < Who.Warp ? $"thread {code} of block {block}"
            : code < Who.Block ? $"warp {code - Who.Warp} of block {block}" : $"block {block}";
    }

    private string At(long offset) =>
        $"byte {offset} of {Name}" + (Variables.LastOrDefault(variable => variable.Offset <= offset) is { } variable
            ? $" ({SourceName(variable.Name)} + {offset - variable.Offset})" : "");

    /// <summary>What the source calls a variable that clang calls <c>_ZZ3SumE4high</c>.</summary>
    private static string SourceName(string name)
    {
        int digits = name.LastIndexOf('E') + 1;
        int length = name[digits..].TakeWhile(char.IsAsciiDigit).Count();
        return name.StartsWith("_Z", StringComparison.Ordinal) && length > 0 ? name[(digits + length)..] : name;
    }

    private bool IsSame(long granule, long offset, int bytes, byte* value)
    {
        if (value == null) return false;
        long from = Math.Max(offset, granule << _shift), to = Math.Min(offset + bytes, (granule + 1) << _shift);
        return new Span<byte>(Data + from, (int)(to - from))
            .SequenceEqual(new Span<byte>(value + (from - offset), (int)(to - from)));
    }

    private static ulong Join(ulong a, ulong b) =>
        Math.Max(a, b) & 0xffff_ffff_0000_0000 | Who.Join((uint)a & 0x7fff_ffff, (uint)b & 0x7fff_ffff);

    private bool AllReadersAreOrdered(Warp warp, int lane, long granule)
    {
        if (_readers == null) return false;
        for (int i = 0; i < _warps; i++)
        {
            ulong stamp = _readers[granule * _warps + i];
            if (stamp >= _begin && !warp.IsOrdered(stamp, lane)) return false;
        }
        return true;
    }

    private void Prepare(long offset, int bytes, bool write)
    {
        if (_shift > 0 && ((offset | (long)(uint)bytes) & 3) != 0) Refine();
        long granules = (Bytes >> _shift) + 1;
        if (write && _writes == null) _writes = (ulong*)NativeMemory.AllocZeroed((nuint)granules, sizeof(ulong));
        if (write || _reads != null) return;
        _reads = (ulong*)NativeMemory.AllocZeroed((nuint)granules, sizeof(ulong));
        if (_warps > 0) _readers = (ulong*)NativeMemory.AllocZeroed((nuint)(granules * _warps), sizeof(ulong));
    }

    /// <summary>From stamps for four bytes to stamps for each.</summary>
    private void Refine()
    {
        T* Spread<T>(T* old, int width) where T : unmanaged
        {
            if (old == null) return null;
            T* fine = (T*)NativeMemory.AllocZeroed((nuint)((Bytes + 1) * width), (nuint)sizeof(T));
            for (long i = 0; i < Bytes; i++)
                new Span<T>(old + (i >> 2) * width, width).CopyTo(new Span<T>(fine + i * width, width));
            NativeMemory.Free(old);
            return fine;
        }
        _writes = Spread(_writes, 1);
        _reads = Spread(_reads, 1);
        _readers = Spread(_readers, Math.Max(1, _warps));
        if (_polled is { } polled)
        {
            _polled = [];
            foreach ((long granule, Dictionary<uint, uint> readers) in polled)
                for (int i = 0; i < 4; i++) _polled[4 * granule + i] = new(readers);
            (_firstPolled, _lastPolled) = (4 * _firstPolled, 4 * _lastPolled + 3);
        }
        _shift = 0;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(Data);
        NativeMemory.Free(Flags);
        NativeMemory.Free(_writes);
        NativeMemory.Free(_reads);
        NativeMemory.Free(_readers);
    }
}

/// <summary>Why an access is a fault; where is added by who made it.</summary>
internal sealed record GpuFaultCause(FaultKind Kind, string What);
