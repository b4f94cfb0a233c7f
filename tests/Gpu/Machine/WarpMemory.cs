using System.Numerics;
using System.Runtime.CompilerServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>Loads, stores and atomics.</summary>
internal sealed unsafe partial class Warp
{
    private const int SectorBytes = 32, Banks = 32;

    /// <summary>Generic addresses of shared and local memory and of parameters lie here.</summary>
    public const long SharedWindow = 1L << 56, LocalWindow = 1L << 57, ParameterWindow = 1L << 55;

    private readonly long[] _addresses = new long[32];

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Load<T>(Warp warp, Op* op, uint active) where T : unmanaged
    {
        int bytes = sizeof(T) * op->Count;
        int* slots = warp.Kernel.Slots + op->Slots;
        if (active == uint.MaxValue && warp.TryLoadTogether<T>(op, bytes, slots)) return;
        if (warp.TryLoadScattered<T>(op, active, bytes, slots)) return;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            MemoryRange range = warp.Resolve(op, lane, warp.AddressOf(op, lane), bytes, out long offset);
            // volatile was order between the lanes of a warp once: no more, since lanes go each their way.
            if (op->IsVolatile && range.IsOfBlock && range.IsFirstLookAtOwnWarp(warp, lane, offset))
                throw warp.Fault(op, lane, FaultKind.Race, $"reads byte {offset} of shared memory, which another lane "
                    + "of the warp wrote without bar.warp.sync between them, though by volatile");
            bool strong = op->IsStrong && warp.Reaches(op, range, offset);
            if (range.Read(warp, lane, offset, bytes, strong) is { } cause) warp.Throw(op, lane, cause);
            T* from = (T*)(range.Data + offset);
            for (int i = 0; i < op->Count; i++)
                if (slots[i] >= 0) *(T*)(warp.Registers + slots[i] + lane * sizeof(T)) = from[i];
            if (!op->IsStrong) continue;
            warp.HasPolled = true;
            warp.Block.Launch.Fences.Observe(warp, lane, (long)from, op->IsAcquire, IsWide(op, range));
        }
        warp.CountTraffic(op, active, bytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Store<T>(Warp warp, Op* op, uint active) where T : unmanaged
    {
        int bytes = sizeof(T) * op->Count;
        int* slots = warp.Kernel.Slots + op->Slots;
        if (active == uint.MaxValue && warp.TryStoreTogether<T>(op, bytes, slots)) return;
        T* value = stackalloc T[8];
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            MemoryRange range = warp.Resolve(op, lane, warp.AddressOf(op, lane), bytes, out long offset);
            for (int i = 0; i < op->Count; i++) value[i] = *(T*)(warp.Registers + slots[i] + lane * sizeof(T));
            bool strong = op->IsStrong && warp.Reaches(op, range, offset);
            if (range.Write(warp, lane, offset, bytes, strong, (byte*)value) is { } cause) warp.Throw(op, lane, cause);
            Unsafe.CopyBlockUnaligned(range.Data + offset, value, (uint)bytes);
            if (!op->IsStrong) continue;
            warp.Block.Launch.Progress++;
            warp.Block.Launch.Fences.Publish(warp, lane, (long)(range.Data + offset), op->IsRelease, isAtomic: false,
                IsWide(op, range));
        }
        warp.CountTraffic(op, active, bytes);
    }

    /// <summary>A read, a change and a write that nobody comes between. Lanes come in an order by the launch's seed.
    /// </summary>
    public static void Atomic<T, TChange>(Warp warp, Op* op, uint active)
        where T : unmanaged where TChange : IAtomic<T>
    {
        bool descending = warp.Block.Launch.IsDescending;
        for (uint rest = active; rest != 0;)
        {
            int lane = descending ? 31 - BitOperations.LeadingZeroCount(rest) : BitOperations.TrailingZeroCount(rest);
            rest &= ~(1u << lane);
            MemoryRange range = warp.Resolve(op, lane, warp.AddressOf(op, lane), sizeof(T), out long offset);
            bool strong = warp.Reaches(op, range, offset);
            GpuFaultCause? cause = range.Read(warp, lane, offset, sizeof(T), strong, records: false);
            T* at = (T*)(range.Data + offset);
            T old = *at;
            T value = TChange.Invoke(old, warp.Value<T>(op->B, lane), op->C < 0 ? default : warp.Value<T>(op->C, lane));
            cause ??= range.Write(warp, lane, offset, sizeof(T), strong, (byte*)&value);
            if (cause is not null) warp.Throw(op, lane, cause);
            *at = value;
            warp.HasPolled = true;
            if (!EqualityComparer<T>.Default.Equals(old, value)) warp.Block.Launch.Progress++;
            if (op->D >= 0) warp.Value<T>(op->D, lane) = old;
            Fences fences = warp.Block.Launch.Fences;
            fences.Observe(warp, lane, (long)at, op->IsAcquire, IsWide(op, range));
            fences.Publish(warp, lane, (long)at, op->IsRelease, isAtomic: true, IsWide(op, range));
        }
        warp.CountTraffic(op, active, sizeof(T));
    }

    /// <summary>A fence: what a lane saw by strong reads is known now, and its next strong write tells all before.
    /// </summary>
    public static void ExecuteFence(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
            warp.Block.Launch.Fences.Fence(warp, BitOperations.TrailingZeroCount(rest), !op->IsOfBlock, op->Count != 0);
    }

    /// <summary>Whether a strong access has to do with other blocks: no block's shared memory does.</summary>
    private static bool IsWide(Op* op, MemoryRange range) => !op->IsOfBlock && !range.IsOfBlock;

    /// <summary>Whether the scope of a strong access contains who wrote last there; if not it is as weak as any.
    /// </summary>
    private bool Reaches(Op* op, MemoryRange range, long offset)
    {
        if (!op->IsOfBlock || range.IsOfBlock || !range.IsStamped) return true;
        ulong last = range.LastWrite(offset);
        return last < LaunchLimit || Who.BlockOf((uint)last & 0x7fff_ffff) == Block.Index;
    }

    public ref T Value<T>(int slot, int lane) where T : unmanaged => ref *(T*)(Registers + slot + lane * sizeof(T));

    private long AddressOf(Op* op, int lane) =>
        _addresses[lane] = op->Immediate + (op->A < 0 ? 0 : *(long*)(Registers + op->A + lane * sizeof(long)));

    /// <summary>The memory that an address is in, with bounds and alignment checked.</summary>
    public MemoryRange Resolve(Op* op, int lane, long address, int bytes, out long offset)
    {
        Space space = op->Space;
        offset = address;
        if (space == Space.Generic)
        {
            if (address >= LocalWindow) (space, offset) = (Space.Local, address - LocalWindow);
            else if (address >= SharedWindow) (space, offset) = (Space.Shared, address - SharedWindow);
            else if (address >= ParameterWindow) (space, offset) = (Space.Param, address - ParameterWindow);
            else space = Space.Global;
        }
        else if (space == Space.Shared && address >= SharedWindow) offset = address - SharedWindow;
        MemoryRange? range = space switch
        {
            Space.Shared => Block.Shared,
            Space.Local => Local.Length > 0 ? Local[lane] : null,
            Space.Param => Block.Launch.Parameters,
            _ => Block.Launch.Memory.Find(address),
        };
        if (range is null)
            throw Fault(op, lane, FaultKind.OutOfBounds, $"{space} address 0x{address:x}: nothing is there");
        if (space is Space.Global or Space.Const) offset = address - (long)range.Data;
        if (offset < 0 || offset > range.Bytes - bytes)
            throw Fault(op, lane, FaultKind.OutOfBounds, offset >= range.Bytes
                ? $"{bytes} bytes {offset - range.Bytes} bytes past the end of {range.Name} ({range.Bytes} bytes)"
                : $"{bytes} bytes at byte {offset} of {range.Name}, which has {range.Bytes}");
        if ((offset & (bytes - 1)) != 0 && (bytes & (bytes - 1)) == 0)
            throw Fault(op, lane, FaultKind.Misaligned,
                $"{bytes} bytes at byte {offset} of {range.Name}: not a multiple of {bytes}");
        return range;
    }

    /// <summary>Counts sectors of 32 bytes against the least that hold the bytes, or passes over the banks of shared
    /// memory against the least.</summary>
    private void CountTraffic(Op* op, uint active, int bytes)
    {
        Space space = op->Space;
        if (space == Space.Generic)
        {
            long first = _addresses[BitOperations.TrailingZeroCount(active)];
            space = first >= LocalWindow ? Space.Local : first >= SharedWindow ? Space.Shared : Space.Global;
        }
        if (space == Space.Global) CountSectors(op, active, bytes);
        else if (space == Space.Shared) CountWavefronts(op, active, bytes);
    }

    private void CountSectors(Op* op, uint active, int bytes)
    {
        long* sectors = stackalloc long[33];
        uint* masks = stackalloc uint[33];
        int count = 0, distinct = 0;
        uint piece = bytes >= 32 ? uint.MaxValue : (1u << bytes) - 1;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            long address = _addresses[BitOperations.TrailingZeroCount(rest)], sector = address / SectorBytes;
            int at = count - 1;
            while (at >= 0 && sectors[at] != sector) at--;
            if (at < 0)
            {
                at = count++;
                sectors[at] = sector;
                masks[at] = 0;
            }
            masks[at] |= piece << (int)(address % SectorBytes);
        }
        for (int i = 0; i < count; i++) distinct += BitOperations.PopCount(masks[i]);
        op->Sectors += count;
        op->LeastSectors += (distinct + SectorBytes - 1) / SectorBytes;
    }

    /// <summary>Accesses of 8 and 16 bytes go by halves and quarters of the warp; in each pass a bank gives one word,
    /// to as many lanes as want it.</summary>
    private void CountWavefronts(Op* op, uint active, int bytes)
    {
        int group = Math.Min(32, 128 / Math.Max(4, bytes)), words = Math.Max(1, bytes / 4), distinct = 0, passes = 0;
        long* seen = stackalloc long[Banks * 32];
        int* counts = stackalloc int[Banks];
        for (int from = 0; from < 32; from += group)
        {
            uint lanes = active & (group == 32 ? uint.MaxValue : ((1u << group) - 1) << from);
            new Span<int>(counts, Banks).Clear();
            int most = 0;
            for (uint rest = lanes; rest != 0; rest &= rest - 1)
            {
                long word = _addresses[BitOperations.TrailingZeroCount(rest)] / 4;
                for (int i = 0; i < words; i++, word++)
                {
                    int bank = (int)(word & (Banks - 1)), at = counts[bank] - 1;
                    while (at >= 0 && seen[bank * 32 + at] != word) at--;
                    if (at >= 0) continue;
                    seen[bank * 32 + counts[bank]++] = word;
                    distinct++;
                    most = Math.Max(most, counts[bank]);
                }
            }
            passes += most;
        }
        op->Wavefronts += passes;
        op->LeastWavefronts += (distinct + Banks - 1) / Banks;
    }
}

/// <summary>What an atomic operation makes of the old value and one or two operands.</summary>
internal interface IAtomic<T>
{
    static abstract T Invoke(T old, T b, T c);
}
