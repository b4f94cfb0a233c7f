using System.Numerics;

namespace Native.Tests.Gpu.Machine;

/// <summary>Shuffles, votes, matches and reductions over the lanes of a warp.</summary>
internal sealed unsafe partial class Warp
{
    private uint MembersOf(int slot, uint active) => Value<uint>(slot, BitOperations.TrailingZeroCount(active)) & Lanes;

    /// <summary>shfl.sync: A the value, B the lane or distance, C clamp and segment, E the members; D the result, and
    /// Target the predicate that says whether its source was in range, or -1. Count is the mode.</summary>
    public static void ExecuteShuffle(Warp warp, Op* op, uint active)
    {
        uint members = warp.MembersOf(op->E, active);
        if (!warp.Converge(op, active, members, "shfl.sync")) return;
        uint* values = stackalloc uint[32];
        new Span<uint>(warp.Registers + op->A, 32).CopyTo(new Span<uint>(values, 32));
        if (active == uint.MaxValue && op->Target < 0 && op->D >= 0 && warp.TryShuffle(op, values)) return;
        uint inRange = 0;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            int b = (int)warp.Value<uint>(op->B, lane) & 31, c = (int)warp.Value<uint>(op->C, lane);
            int clamp = c & 31, segment = (c >> 8) & 31;
            int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
            int source = (char)op->Count switch
            {
                'u' => lane - b,
                'd' => lane + b,
                'b' => lane ^ b,
                _ => least | (b & ~segment),
            };
            bool ok = op->Count == 'u' ? source >= most : source <= most;
            if (ok) inRange |= 1u << lane;
            else source = lane;
            if ((active >> source & 1) == 0)
                throw warp.Fault(op, lane, FaultKind.Convergence,
                    $"shfl.sync reads lane {source}, which takes no part");
            if (op->D >= 0) warp.Value<uint>(op->D, lane) = values[source];
        }
        if (op->Target >= 0) warp.SetPredicate(op->Target, active, inRange);
    }

    /// <summary>A butterfly, or one lane's value for all, of a whole warp.</summary>
    private bool TryShuffle(Op* op, uint* values)
    {
        ReadOnlySpan<uint> b = new(Registers + op->B, 32), c = new(Registers + op->C, 32);
        if (c.ContainsAnyExcept(31u) || b.ContainsAnyExcept(b[0])) return false;
        uint* to = (uint*)(Registers + op->D);
        uint lanes = b[0] & 31;
        if ((char)op->Count == 'b') for (uint lane = 0; lane < 32; lane++) to[lane] = values[lane ^ lanes];
        else if ((char)op->Count == 'i') new Span<uint>(to, 32).Fill(values[lanes]);
        else return false;
        return true;
    }

    public void SetPredicate(int slot, uint active, uint value)
    {
        uint* at = (uint*)(Registers + slot);
        *at = (*at & ~active) | (value & active);
    }

    /// <summary>vote.sync and activemask: A a predicate, E the members. Count is the mode.</summary>
    public static void ExecuteVote(Warp warp, Op* op, uint active)
    {
        uint members = op->E < 0 ? active : warp.MembersOf(op->E, active);
        if (op->E >= 0 && !warp.Converge(op, active, members, "vote.sync")) return;
        uint set = op->A < 0 ? active : *(uint*)(warp.Registers + op->A);
        if (op->IsNegatedA) set = ~set;
        set &= active;
        if ((char)op->Count == 'b')
        {
            for (uint rest = active; rest != 0; rest &= rest - 1)
                warp.Value<uint>(op->D, BitOperations.TrailingZeroCount(rest)) = set;
            return;
        }
        bool holds = (char)op->Count switch
        {
            'l' => set == members,
            'y' => set != 0,
            _ => set == 0 || set == members,
        };
        warp.SetPredicate(op->D, active, holds ? uint.MaxValue : 0);
    }

    /// <summary>match.sync: A the value, E the members; Count is 'y' for any and 'l' for all, Immediate the bytes.
    /// </summary>
    public static void ExecuteMatch(Warp warp, Op* op, uint active)
    {
        uint members = warp.MembersOf(op->E, active);
        if (!warp.Converge(op, active, members, "match.sync")) return;
        ulong Of(int lane) => op->Immediate == 8 ? warp.Value<ulong>(op->A, lane) : warp.Value<uint>(op->A, lane);
        uint all = 0;
        ulong first = Of(BitOperations.TrailingZeroCount(active));
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint same = 0;
            for (uint other = active; other != 0; other &= other - 1)
                if (Of(BitOperations.TrailingZeroCount(other)) == Of(lane)) same |= other & (0 - other);
            if (Of(lane) == first) all |= 1u << lane;
            if (op->Count == 'y') warp.Value<uint>(op->D, lane) = same;
        }
        if (op->Count == 'y') return;
        for (uint rest = active; rest != 0; rest &= rest - 1)
            warp.Value<uint>(op->D, BitOperations.TrailingZeroCount(rest)) = all == active ? active : 0;
        if (op->Target >= 0) warp.SetPredicate(op->Target, active, all == active ? uint.MaxValue : 0);
    }

    /// <summary>redux.sync of a 32-bit integer: A the value, E the members.</summary>
    public static void ExecuteReduction<TChange>(Warp warp, Op* op, uint active) where TChange : IAtomic<uint>
    {
        uint members = warp.MembersOf(op->E, active);
        if (!warp.Converge(op, active, members, "redux.sync")) return;
        uint sum = warp.Value<uint>(op->A, BitOperations.TrailingZeroCount(active));
        for (uint rest = active & (active - 1); rest != 0; rest &= rest - 1)
            sum = TChange.Invoke(sum, warp.Value<uint>(op->A, BitOperations.TrailingZeroCount(rest)), 0);
        for (uint rest = active; rest != 0; rest &= rest - 1)
            warp.Value<uint>(op->D, BitOperations.TrailingZeroCount(rest)) = sum;
    }

    /// <summary>elect.sync: one lane of the members is chosen; D its number, Target the predicate that it is this one.
    /// </summary>
    public static void ExecuteElect(Warp warp, Op* op, uint active)
    {
        uint members = warp.MembersOf(op->E, active);
        if (!warp.Converge(op, active, members, "elect.sync")) return;
        int leader = warp.Block.Launch.Options.Order == Machine.Order.Descending
            ? 31 - BitOperations.LeadingZeroCount(active) : BitOperations.TrailingZeroCount(active);
        for (uint rest = op->D < 0 ? 0 : active; rest != 0; rest &= rest - 1)
            warp.Value<uint>(op->D, BitOperations.TrailingZeroCount(rest)) = (uint)leader;
        warp.SetPredicate(op->Target, active, 1u << leader);
    }

    /// <summary>A clock that goes on with every reading.</summary>
    public static void ExecuteClock(Warp warp, Op* op, uint active)
    {
        warp.HasPolled = true;
        long now = warp.Block.Launch.Time + warp.Kernel.Ops->Executed;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (op->Count == 8) warp.Value<long>(op->D, lane) = now;
            else warp.Value<uint>(op->D, lane) = (uint)now;
        }
    }

    public static void ExecuteNothing(Warp warp, Op* op, uint active)
    {
    }

    /// <summary>nanosleep, and whatever else lets others run.</summary>
    public static void ExecuteYield(Warp warp, Op* op, uint active)
    {
        warp.HasPolled = true;
        warp._yields = true;
    }

    /// <summary>A register that not every way to here writes: A says for which lanes it was.</summary>
    public static void ExecuteCheckDefined(Warp warp, Op* op, uint active)
    {
        uint missing = active & ~*(uint*)(warp.Registers + op->A);
        if (missing != 0)
            throw warp.Fault(op, BitOperations.TrailingZeroCount(missing), FaultKind.Uninitialised,
                $"reads register {warp.Kernel.Function.Registers[(int)op->Immediate]}, which nothing wrote");
    }

    /// <summary>Results are defined where all Count operands are, whose masks are at Slots; none: everywhere. For selp
    /// A is the predicate, and what it does not choose need not be.</summary>
    public static void ExecuteDefine(Warp warp, Op* op, uint active)
    {
        uint defined = uint.MaxValue;
        int* masks = warp.Kernel.Slots + op->Slots;
        for (int i = 0; i < op->Count; i++)
        {
            uint mask = masks[i] < 0 ? uint.MaxValue : *(uint*)(warp.Registers + masks[i]);
            if (op->A >= 0 && i < 2)
            {
                uint chosen = *(uint*)(warp.Registers + op->A);
                if (op->IsNegatedA) chosen = ~chosen;
                mask |= i == 0 ? ~chosen : chosen;
            }
            defined &= mask;
        }
        warp.SetPredicate(op->D, active, defined);
    }

    /// <summary>Sums and differences with a carry: Count has bits for a difference, for one that comes in and for one
    /// that goes out, C is where it is kept.</summary>
    public static void ExecuteCarry<T>(Warp warp, Op* op, uint active) where T : unmanaged, IBinaryInteger<T>
    {
        uint* kept = (uint*)(warp.Registers + op->C);
        uint carries = 0;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            T a = warp.Value<T>(op->A, lane), b = warp.Value<T>(op->B, lane);
            T into = (op->Count & 2) != 0 && (*kept >> lane & 1) != 0 ? T.One : T.Zero;
            bool subtracts = (op->Count & 1) != 0;
            T first = subtracts ? a - b : a + b, all = subtracts ? first - into : first + into;
            if (subtracts ? a < b || first < into : first < a || all < first) carries |= 1u << lane;
            warp.Value<T>(op->D, lane) = all;
        }
        if ((op->Count & 4) != 0) *kept = (*kept & ~active) | carries;
    }

    /// <summary>testp: Count says which property.</summary>
    public static void ExecuteTestProperty<T>(Warp warp, Op* op, uint active) where T : unmanaged, INumberBase<T>
    {
        uint holds = 0;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            T a = warp.Value<T>(op->A, lane);
            bool has = op->Count switch
            {
                0 => T.IsFinite(a),
                1 => T.IsInfinity(a),
                2 => !T.IsNaN(a),
                3 => T.IsNaN(a),
                4 => T.IsNormal(a),
                _ => T.IsSubnormal(a),
            };
            if (has) holds |= 1u << lane;
        }
        warp.SetPredicate(op->D, active, holds);
    }

    /// <summary>lop3: any function of three bits, by the table in Immediate.</summary>
    public static void ExecuteLogic3(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint a = warp.Value<uint>(op->A, lane), b = warp.Value<uint>(op->B, lane);
            uint c = warp.Value<uint>(op->C, lane);
            uint result = 0;
            for (int i = 0; i < 8; i++)
                if ((op->Immediate >> i & 1) != 0)
                    result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
            warp.Value<uint>(op->D, lane) = result;
        }
    }

    /// <summary>bfi: Count is the bits of the type.</summary>
    public static void ExecuteInsert<T>(Warp warp, Op* op, uint active) where T : unmanaged, INumberBase<T>
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ulong value = InsertBits.Invoke(ulong.CreateTruncating(warp.Value<T>(op->A, lane)),
                ulong.CreateTruncating(warp.Value<T>(op->B, lane)), warp.Value<uint>(op->C, lane),
                warp.Value<uint>(op->E, lane), op->Count);
            warp.Value<T>(op->D, lane) = T.CreateTruncating(value);
        }
    }

    /// <summary>Count bytes of each lane's Immediate2, from byte Immediate on.</summary>
    public static void ExecuteTakePart(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            byte* from = warp.Registers + op->A + lane * op->Immediate2 + op->Immediate;
            byte* to = warp.Registers + op->D + lane * op->Count;
            for (int i = 0; i < op->Count; i++) to[i] = from[i];
        }
    }

    /// <summary>The other way round.</summary>
    public static void ExecutePutPart(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            byte* from = warp.Registers + op->A + lane * op->Count;
            byte* to = warp.Registers + op->D + lane * op->Immediate2 + op->Immediate;
            for (int i = 0; i < op->Count; i++) to[i] = from[i];
        }
    }

    /// <summary>isspacep: Count is 0 for global, 1 for shared, 2 for local memory.</summary>
    public static void ExecuteIsSpace(Warp warp, Op* op, uint active)
    {
        uint holds = 0;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            long address = warp.Value<long>(op->A, lane);
            int space = address >= LocalWindow ? 2 : address >= SharedWindow ? 1 : 0;
            if (space == op->Count) holds |= 1u << lane;
        }
        warp.SetPredicate(op->D, active, holds);
    }
}
