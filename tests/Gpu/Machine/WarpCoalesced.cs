using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Tests.Gpu.Machine;

/// <summary>What most accesses are like, checked at once: neighbours, all the same, and reads within one allocation.
/// Whatever is not plainly right is left to the way lane by lane, which finds and names what is wrong.</summary>
internal sealed unsafe partial class Warp
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private bool TryLoadTogether<T>(Op* op, int bytes, int* slots) where T : unmanaged
    {
        if (!TryShape(op, bytes, out MemoryRange? range, out long offset, out int step)) return false;
        if (!(step == 0 ? range.TryReadOne(this, offset, bytes) : range.TryReadSpan(this, offset, bytes))) return false;
        byte* from = range.Data + offset;
        for (int i = 0; i < op->Count; i++)
        {
            if (slots[i] < 0) continue;
            T* to = (T*)(Registers + slots[i]);
            for (int lane = 0; lane < 32; lane++) to[lane] = *(T*)(from + lane * step + i * sizeof(T));
        }
        CountTogether(op, range, offset, bytes, step);
        return true;
    }

    /// <summary>Loads from anywhere in one range of global memory.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private bool TryLoadScattered<T>(Op* op, uint active, int bytes, int* slots) where T : unmanaged
    {
        if (op->IsStrong || op->A < 0 || op->Space is not (Space.Global or Space.Generic)) return false;
        long address = AddressOf(op, BitOperations.TrailingZeroCount(active));
        if (address >= ParameterWindow || Block.Launch.Memory.Find(address) is not { } range) return false;
        long start = (long)range.Data, last = range.Bytes - bytes;
        // All are checked before any is loaded: the registers that addresses are in may be loaded into.
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            long offset = AddressOf(op, lane) - start;
            if ((ulong)offset > (ulong)last || (offset & (bytes - 1)) != 0 || !range.TryRead(this, lane, offset, bytes))
                return false;
        }
        for (int i = 0; i < op->Count; i++)
        {
            if (slots[i] < 0) continue;
            T* to = (T*)(Registers + slots[i]);
            for (uint rest = active; rest != 0; rest &= rest - 1)
            {
                int lane = BitOperations.TrailingZeroCount(rest);
                to[lane] = ((T*)_addresses[lane])[i];
            }
        }
        CountSectors(op, active, bytes);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private bool TryStoreTogether<T>(Op* op, int bytes, int* slots) where T : unmanaged
    {
        if (!TryShape(op, bytes, out MemoryRange? range, out long offset, out int step) || step == 0
            || !range.TryWriteSpan(this, offset, bytes)) return false;
        byte* to = range.Data + offset;
        for (int i = 0; i < op->Count; i++)
        {
            T* from = (T*)(Registers + slots[i]);
            for (int lane = 0; lane < 32; lane++) *(T*)(to + lane * step + i * sizeof(T)) = from[lane];
        }
        CountTogether(op, range, offset, bytes, step);
        return true;
    }

    /// <summary>Whether all lanes access neighbours (a step of their size) or one place (a step of 0), inside of global
    /// or shared memory and aligned.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private bool TryShape(Op* op, int bytes, out MemoryRange range, out long offset, out int step)
    {
        range = null!;
        offset = step = 0;
        if (op->IsStrong) return false;
        if (op->A < 0) return TryPlace(op, op->Immediate, bytes, step, out range, out offset);
        long* addresses = (long*)(Registers + op->A);
        step = (int)Math.Clamp(addresses[1] - addresses[0], -1, 64);
        if (step != 0 && step != bytes) return false;
        Vector512<long> first = Vector512.Create(addresses[0]), steps = Vector512.Create((long)step);
        Vector512<long> lanes = Vector512.Create(0L, 1, 2, 3, 4, 5, 6, 7);
        for (int i = 0; i < 4; i++)
            if (Vector512.Load(addresses + 8 * i) != first + (lanes + Vector512.Create(8L * i)) * steps) return false;
        return TryPlace(op, addresses[0] + op->Immediate, bytes, step, out range, out offset);
    }

    /// <summary>Whether an access from an address on lies in one range of global or shared memory or the parameters.
    /// </summary>
    private bool TryPlace(Op* op, long address, int bytes, int step, out MemoryRange range, out long offset)
    {
        (range, offset) = (Block.Launch.Parameters, address);
        if (op->Space == Space.Param)
            return step == 0 && offset >= 0 && offset + bytes <= range.Bytes && (offset & (bytes - 1)) == 0;
        bool shared = op->Space == Space.Shared
            || (op->Space == Space.Generic && address is >= SharedWindow and < LocalWindow);
        if (!shared && (op->Space is not (Space.Global or Space.Generic) || address >= ParameterWindow)) return false;
        if (shared)
        {
            range = Block.Shared;
            offset = address >= SharedWindow ? address - SharedWindow : address;
        }
        else
        {
            if (Block.Launch.Memory.Find(address) is not { } found) return false;
            range = found;
            offset = address - (long)found.Data;
        }
        return offset >= 0 && offset + 31 * step + bytes <= range.Bytes && (offset & (bytes - 1)) == 0;
    }

    private void CountTogether(Op* op, MemoryRange range, long offset, int bytes, int step)
    {
        if (range == Block.Launch.Parameters) return;
        if (range == Block.Shared)
        {
            int passes = step == 0 ? 1 : Math.Max(1, bytes / 4);
            op->Wavefronts += step == 0 && bytes > 4 ? (bytes + 3) / 4 : passes;
            op->LeastWavefronts += passes;
            return;
        }
        long address = (long)range.Data + offset, last = address + 31 * step + bytes - 1;
        op->Sectors += last / SectorBytes - address / SectorBytes + 1;
        op->LeastSectors += (31 * step + bytes + SectorBytes - 1) / SectorBytes;
    }
}
