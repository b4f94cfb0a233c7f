using System.Numerics;
using System.Runtime.Intrinsics;

namespace Native.Tests.Gpu.Machine;

/// <summary>A matrix in shared memory as a wgmma descriptor tells it (PTX ISA 9.7.15.5): where its first byte is, how
/// far its core matrices lie apart, and how they are swizzled.</summary>
internal readonly record struct MatrixDescriptor(long Start, long Leading, long Stride, int SwizzleBytes, bool KMajor)
{
    public static MatrixDescriptor Parse(ulong bits, bool kMajor) => new(
        (long)(bits & 0x3fff) << 4, (long)(bits >> 16 & 0x3fff) << 4, (long)(bits >> 32 & 0x3fff) << 4,
        (int)(bits >> 62) switch { 0 => 0, 1 => 128, 2 => 64, _ => 32 }, kMajor);

    /// <summary>The byte of shared memory of an element: of row or column <paramref name="mn"/> and depth
    /// <paramref name="k"/>. The canonical layouts, in 16-byte pieces of T elements: K-major ((8,m),(T,2)) with strides
    /// ((1T,stride),(1,leading)), or swizzled over n pieces ((8,m),(T,n)) with ((nT,stride),(1,T)); MN-major
    /// ((T,1,m),(8,k)) with ((1,T,stride),(1T,leading)), or swizzled ((T,n,m),(8,k)) with ((1,T,leading),(nT,stride)).
    /// </summary>
    public long Of(int mn, int k, int elementBytes)
    {
        int perPiece = 16 / elementBytes, pieces = SwizzleBytes / 16;
        long at = Start + (KMajor, pieces) switch
        {
            (true, 0) => mn % 8 * 16 + mn / 8 * Stride + k / perPiece * Leading + k % perPiece * elementBytes,
            (true, _) => mn % 8 * SwizzleBytes + mn / 8 * Stride + k * elementBytes,
            (false, 0) => mn % perPiece * elementBytes + mn / perPiece * Stride + k % 8 * 16 + k / 8 * Leading,
            _ => mn % (perPiece * pieces) * elementBytes + mn / (perPiece * pieces) * Leading + k % 8 * SwizzleBytes
                + k / 8 * Stride,
        };
        return Swizzle.Of(at, SwizzleBytes);
    }
}

/// <summary>wgmma: each warp of a group of four multiplies its 16 rows. The result is not to be touched until it is
/// awaited, nor is what it reads to be overwritten.</summary>
internal sealed unsafe partial class Warp
{
    private readonly List<(int Group, int Op, int[] Slots, MatrixDescriptor?[] Read, ulong Since)> _products = [];
    private readonly HashSet<int> _touched = [];
    private int _productGroup;

    /// <summary>wgmma.mma_async. At Slots: registers of D, then of A where it comes from registers. A and B are
    /// descriptors' slots (A is -1 for registers), C the predicate that keeps D, Count n, Immediate packs the rest.
    /// </summary>
    public static void ExecuteGroupMatrix(Warp warp, Op* op, uint active)
    {
        if (!warp.IsWhole(op, active, "wgmma")) return;
        GroupShape shape = GroupShape.Unpack(op->Immediate);
        int* slots = warp.Kernel.Slots + op->Slots;
        int values = shape.HalfD ? op->Count / 4 : op->Count / 2;
        if (warp.Index / 4 * 4 + 4 > warp.Block.Warps.Count)
            throw warp.Fault(op, 0, FaultKind.Misuse, "wgmma by a warp that is in no whole group of four");
        int[] results = [.. Enumerable.Range(0, values).Select(i => warp.Kernel.Slots[op->Slots + i])];
        int[] left = op->A >= 0 ? [] : [slots[values], slots[values + 1], slots[values + 2], slots[values + 3]];
        foreach (int slot in results.Concat(left))
            if (warp._touched.Contains(slot))
                throw warp.Fault(op, 0, FaultKind.Race, "wgmma uses registers changed since the last wgmma.fence");
        int k = 256 / BitsOf(shape.A), bytes = BitsOf(shape.A) / 8;
        float[] a = new float[16 * k], b = new float[k * op->Count], sum = new float[16 * op->Count];
        MatrixDescriptor?[] read = new MatrixDescriptor?[2];
        if (op->A >= 0)
        {
            MatrixDescriptor matrix = MatrixDescriptor.Parse(warp.Value<ulong>(op->A, 0), !shape.TransposeA);
            read[0] = matrix;
            for (int row = 0; row < 16; row++)
                for (int i = 0; i < k; i++)
                    a[row * k + i] = warp.GroupElement(op, matrix, warp.Index % 4 * 16 + row, i, bytes, shape.A);
        }
        else fixed (float* to = a) warp.Gather(slots + values, 4, 32 / BitsOf(shape.A), shape.A, to, k, 16);
        MatrixDescriptor right = MatrixDescriptor.Parse(warp.Value<ulong>(op->B, 0), !shape.TransposeB);
        read[1] = right;
        for (int column = 0; column < op->Count; column++)
            for (int i = 0; i < k; i++)
                b[i * op->Count + column] = warp.GroupElement(op, right, column, i, bytes, shape.B);
        bool keeps = op->C < 0 || (*(uint*)(warp.Registers + op->C) & 1) != 0 != op->IsNegatedA;
        warp.MultiplyGroup(op, shape, results, a, b, sum, k, keeps);
        warp._products.Add(
            (warp._productGroup, (int)(op - warp.Kernel.Ops), results, read, warp.Block.Launch.Advance()));
        warp.Block.Launch.Counters.MatrixOperations += op->Count / 8;
    }

    private float GroupElement(Op* op, MatrixDescriptor matrix, int mn, int k, int bytes, Element element)
    {
        long at = matrix.Of(mn, k, bytes);
        if (at < 0 || at + bytes > Block.Shared.Bytes)
            throw Fault(op, 0, FaultKind.OutOfBounds,
                $"wgmma reads byte {at} of shared memory, which has {Block.Shared.Bytes}");
        if ((at & 3) == 0 || bytes == 4) ReadAsync(op, 0, Block.Shared, at & ~3, 4);
        byte* from = Block.Shared.Data + at;
        return ValueOf(element, bytes == 1 ? *from : bytes == 2 ? *(ushort*)from : *(uint*)from);
    }

    private void MultiplyGroup(
        Op* op, GroupShape shape, int[] results, float[] a, float[] b, float[] sum, int k, bool keeps)
    {
        int n = op->Count;
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < n / 2; i++)
            {
                int row = (lane >> 2) + 8 * (i >> 1 & 1), column = 8 * (i >> 2) + (lane & 3) * 2 + (i & 1);
                sum[row * n + column] = !keeps ? 0
                    : shape.HalfD ? s_half[Value<uint>(results[i / 2], lane) >> (16 * (i & 1)) & 0xffff]
                    : Value<float>(results[i], lane);
            }
        fixed (float* to = sum)
        {
            for (int row = 0; row < 16; row++)
                for (int column = 0; column < n; column++)
                {
                    float* at = to + row * n + column;
                    if (shape.A >= Element.S8)
                    {
                        int total = *(int*)at;
                        for (int i = 0; i < k; i++) total += (int)a[row * k + i] * (int)b[i * n + column];
                        *(int*)at = total;
                        continue;
                    }
                    float value = *at, left = shape.NegateA != shape.NegateB ? -1 : 1;
                    for (int i = 0; i < k; i++)
                        value = MathF.FusedMultiplyAdd(left * a[row * k + i], b[i * n + column], value);
                    *at = value;
                }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < n / 2; i++)
            {
                int row = (lane >> 2) + 8 * (i >> 1 & 1), column = 8 * (i >> 2) + (lane & 3) * 2 + (i & 1);
                float value = sum[row * n + column];
                if (!shape.HalfD) Value<float>(results[i], lane) = value;
                else *(ushort*)(Registers + results[i / 2] + lane * 4 + 2 * (i & 1)) = F16.From(value);
            }
    }

    public static void ExecuteGroupFence(Warp warp, Op* op, uint active) => warp._touched.Clear();

    public static void ExecuteGroupCommit(Warp warp, Op* op, uint active) => warp._productGroup++;

    /// <summary>wgmma.wait_group: those but the last Count groups are done. What they read must be as it was.</summary>
    public static void ExecuteGroupWait(Warp warp, Op* op, uint active)
    {
        for (int i = 0; i < warp._products.Count; i++)
        {
            (int group, int product, int[] _, MatrixDescriptor?[] read, ulong since) = warp._products[i];
            if (group >= warp._productGroup - op->Count) continue;
            warp._products.RemoveAt(i--);
            Op* from = warp.Kernel.Ops + product;
            GroupShape shape = GroupShape.Unpack(from->Immediate);
            int k = 256 / BitsOf(shape.A), bytes = BitsOf(shape.A) / 8;
            for (int side = 0; side < 2; side++)
            {
                if (read[side] is not { } matrix) continue;
                int first = side == 0 ? warp.Index % 4 * 16 : 0, rows = side == 0 ? 16 : from->Count;
                for (int row = first; row < first + rows; row++)
                    for (int depth = 0; depth < k; depth++)
                    {
                        warp.GroupElement(from, matrix, row, depth, bytes, side == 0 ? shape.A : shape.B);
                        long at = matrix.Of(row, depth, bytes);
                        if (warp.Block.Shared.ChangedSince(since, at, bytes) is { } cause) warp.Throw(from, 0, cause);
                    }
            }
        }
    }

    /// <summary>Before an instruction touches registers (Count slots at Slots) that products may be writing.</summary>
    public static void ExecuteTouch(Warp warp, Op* op, uint active)
    {
        for (int i = 0; i < op->Count; i++)
        {
            int slot = warp.Kernel.Slots[op->Slots + i];
            foreach ((int _, int _, int[] results, MatrixDescriptor?[] _, ulong _) in warp._products)
                if (Array.IndexOf(results, slot) >= 0)
                    throw warp.Fault(op, BitOperations.TrailingZeroCount(active), FaultKind.AsyncCopy,
                        "touches a register that a wgmma is writing, before its wgmma.wait_group");
            if (i >= op->Immediate) warp._touched.Add(slot); // those behind are written
        }
    }
}

/// <summary>What else a wgmma is told.</summary>
internal readonly record struct GroupShape(
    Element A, Element B, bool TransposeA, bool TransposeB, bool NegateA, bool NegateB, bool HalfD)
{
    public long Pack() => (long)A | (long)B << 8 | (TransposeA ? 1L : 0) << 16 | (TransposeB ? 1L : 0) << 17
        | (NegateA ? 1L : 0) << 18 | (NegateB ? 1L : 0) << 19 | (HalfD ? 1L : 0) << 20;

    public static GroupShape Unpack(long bits) => new((Element)(bits & 0xff), (Element)(bits >> 8 & 0xff),
        (bits >> 16 & 1) != 0, (bits >> 17 & 1) != 0, (bits >> 18 & 1) != 0, (bits >> 19 & 1) != 0,
        (bits >> 20 & 1) != 0);
}
