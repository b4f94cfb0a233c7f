using System.Numerics;
using System.Runtime.Intrinsics;

namespace Native.Tests.Gpu.Machine;

/// <summary>What the elements of matrix fragments are.</summary>
internal enum Element
{
    F16,
    BF16,
    TF32,
    E4M3,
    E5M2,
    S8,
    U8,
    S4,
    U4,
}

/// <summary>mma.sync, ldmatrix and stmatrix, by the fragment tables of the PTX ISA (9.7.14.5).</summary>
internal sealed unsafe partial class Warp
{
    private static readonly float[] s_half = [.. Enumerable.Range(0, 65536).Select(bits =>
        (float)BitConverter.UInt16BitsToHalf((ushort)bits))];

    /// <summary>Bits of an element.</summary>
    public static int BitsOf(Element element) => element switch
    {
        Element.TF32 => 32,
        Element.F16 or Element.BF16 => 16,
        Element.S4 or Element.U4 => 4,
        _ => 8,
    };

    /// <summary>The value of an element, from its bits.</summary>
    public static float ValueOf(Element element, uint bits) => element switch
    {
        Element.F16 => s_half[bits & 0xffff],
        Element.BF16 => BitConverter.UInt32BitsToSingle(bits << 16),
        Element.TF32 => BitConverter.UInt32BitsToSingle(bits & 0xffff_e000),
        Element.E4M3 => (float)SmallFloats.OfByte((byte)bits, e5m2: false),
        Element.E5M2 => (float)SmallFloats.OfByte((byte)bits, e5m2: true),
        Element.S8 => (sbyte)bits,
        Element.U8 => (byte)bits,
        Element.S4 => (int)(bits << 28) >> 28,
        _ => bits & 15,
    };

    /// <summary>The row of A that an element of a lane is in, and its column: register r, element e.</summary>
    public static (int Row, int Column) OfA(int lane, int register, int e, int perRegister, int rows) => rows == 8
        ? (lane >> 2, (lane & 3) * perRegister + e + 4 * perRegister * register)
        : ((lane >> 2) + 8 * (register & 1), (lane & 3) * perRegister + e + 4 * perRegister * (register >> 1));

    public static (int Row, int Column) OfB(int lane, int register, int e, int perRegister) =>
        ((lane & 3) * perRegister + e + 4 * perRegister * register, lane >> 2);

    /// <summary>Of the i-th value of C or D of a lane, in f32 or s32; f16 has two in a register.</summary>
    public static (int Row, int Column) OfC(int lane, int i) => ((lane >> 2) + 8 * (i >> 1), (lane & 3) * 2 + (i & 1));

    private bool IsWhole(Op* op, uint active, string what)
    {
        if (Lanes != uint.MaxValue)
            throw Fault(op, 0, FaultKind.Convergence, $"{what} by a warp that has not all its 32 threads");
        return Converge(op, active, uint.MaxValue, what);
    }

    /// <summary>mma.sync: registers of D, A, B, C from Slots on. Count is k, D the kinds: A's and B's elements, whether
    /// D and C are f16, and the rows.</summary>
    public static void ExecuteMatrix(Warp warp, Op* op, uint active)
    {
        if (!warp.IsWhole(op, active, "mma.sync")) return;
        warp.Block.Launch.Counters.MatrixOperations++;
        int k = op->Count, rows = op->A;
        Element a = (Element)op->B, b = (Element)op->C;
        int perA = 32 / BitsOf(a), perB = 32 / BitsOf(b);
        int registersA = rows * k / perA / 32, registersB = 8 * k / perB / 32, values = rows / 4;
        int* slots = warp.Kernel.Slots + op->Slots;
        bool halfD = (op->E & 1) != 0, halfC = (op->E & 2) != 0, saturates = (op->E & 4) != 0;
        int* slotsA = slots + (halfD ? values / 2 : values), slotsB = slotsA + registersA, slotsC = slotsB + registersB;
        float* left = stackalloc float[16 * 64], right = stackalloc float[64 * 8], sum = stackalloc float[16 * 8];
        warp.Gather(slotsA, registersA, perA, a, left, k, rows);
        for (int r = 0; r < registersB; r++)
            for (int lane = 0; lane < 32; lane++)
            {
                uint bits = warp.Value<uint>(slotsB[r], lane);
                for (int e = 0; e < perB; e++)
                {
                    (int row, int column) = OfB(lane, r, e, perB);
                    right[row * 8 + column] = ValueOf(b, Part(bits, e, perB));
                }
            }
        bool integers = a >= Element.S8;
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < values; i++)
            {
                (int row, int column) = OfC(lane, i);
                if (halfC)
                    sum[row * 8 + column] = s_half[warp.Value<uint>(slotsC[i / 2], lane) >> (16 * (i & 1)) & 0xffff];
                else sum[row * 8 + column] = warp.Value<float>(slotsC[i], lane); // an integer's bits
            }
        if (integers) MultiplyIntegers(left, right, (int*)sum, rows, k, saturates);
        else Multiply(left, right, sum, rows, k);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < values; i++)
            {
                (int row, int column) = OfC(lane, i);
                float value = sum[row * 8 + column];
                if (!halfD) warp.Value<float>(slots[i], lane) = value;
                else *(ushort*)(warp.Registers + slots[i / 2] + lane * 4 + 2 * (i & 1)) = F16.From(value);
            }
    }

    private static uint Part(uint bits, int e, int perRegister) => perRegister switch
    {
        1 => bits,
        2 => bits >> (16 * e) & 0xffff,
        4 => bits >> (8 * e) & 0xff,
        _ => bits >> (4 * e) & 15,
    };

    private void Gather(int* slots, int registers, int perRegister, Element element, float* matrix, int k, int rows)
    {
        for (int r = 0; r < registers; r++)
            for (int lane = 0; lane < 32; lane++)
            {
                uint bits = Value<uint>(slots[r], lane);
                for (int e = 0; e < perRegister; e++)
                {
                    (int row, int column) = OfA(lane, r, e, perRegister, rows);
                    matrix[row * k + column] = ValueOf(element, Part(bits, e, perRegister));
                }
            }
    }

    /// <summary>In single precision, in the order of k; a GPU's own order and rounding are not known.</summary>
    private static void Multiply(float* a, float* b, float* sum, int rows, int k)
    {
        for (int row = 0; row < rows; row++)
        {
            Vector256<float> total = Vector256.Load(sum + row * 8);
            for (int i = 0; i < k; i++)
                total = Vector256.FusedMultiplyAdd(Vector256.Create(a[row * k + i]), Vector256.Load(b + i * 8), total);
            total.Store(sum + row * 8);
        }
    }

    private static void MultiplyIntegers(float* a, float* b, int* sum, int rows, int k, bool saturates)
    {
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < 8; column++)
            {
                long total = sum[row * 8 + column];
                for (int i = 0; i < k; i++) total += (int)a[row * k + i] * (int)b[i * 8 + column];
                sum[row * 8 + column] = saturates ? (int)Math.Clamp(total, int.MinValue, int.MaxValue) : (int)total;
            }
    }

    /// <summary>ldmatrix: Count matrices of 8 rows of 16 bytes, whose addresses the lanes give; IsNegatedA transposes.
    /// Each lane reads what it gets.</summary>
    public static void ExecuteLoadMatrix(Warp warp, Op* op, uint active)
    {
        if (!warp.IsWhole(op, active, "ldmatrix")) return;
        int* slots = warp.Kernel.Slots + op->Slots;
        for (int matrix = 0; matrix < op->Count; matrix++)
            for (int lane = 0; lane < 32; lane++)
            {
                uint value = 0;
                for (int e = 0; e < 2; e++)
                {
                    int row = op->IsNegatedA ? (lane & 3) * 2 + e : lane >> 2;
                    int column = op->IsNegatedA ? lane >> 2 : (lane & 3) * 2 + e;
                    byte* at = warp.MatrixElement(op, 8 * matrix + row, lane, column, write: false);
                    value |= (uint)*(ushort*)at << (16 * e);
                }
                warp.Value<uint>(slots[matrix], lane) = value;
            }
        warp.CountTraffic(op, op->Count == 4 ? uint.MaxValue : (1u << (8 * op->Count)) - 1, 16);
    }

    public static void ExecuteStoreMatrix(Warp warp, Op* op, uint active)
    {
        if (!warp.IsWhole(op, active, "stmatrix")) return;
        int* slots = warp.Kernel.Slots + op->Slots;
        for (int matrix = 0; matrix < op->Count; matrix++)
            for (int lane = 0; lane < 32; lane++)
            {
                uint value = warp.Value<uint>(slots[matrix], lane);
                for (int e = 0; e < 2; e++)
                {
                    int row = op->IsNegatedA ? (lane & 3) * 2 + e : lane >> 2;
                    int column = op->IsNegatedA ? lane >> 2 : (lane & 3) * 2 + e;
                    byte* at = warp.MatrixElement(op, 8 * matrix + row, lane, column, write: true);
                    *(ushort*)at = (ushort)(value >> (16 * e));
                }
            }
        warp.CountTraffic(op, op->Count == 4 ? uint.MaxValue : (1u << (8 * op->Count)) - 1, 16);
    }

    /// <summary>An element of a row whose address a lane gives, for the lane that reads or writes it.</summary>
    private byte* MatrixElement(Op* op, int giver, int lane, int column, bool write)
    {
        MemoryRange range = Resolve(op, giver, AddressOf(op, giver), 16, out long offset);
        offset += column * 2;
        GpuFaultCause? cause = write ? range.Write(this, lane, offset, 2, false, null)
            : range.Read(this, lane, offset & ~3, 4, false);
        if (cause is not null) Throw(op, lane, cause);
        return range.Data + offset;
    }
}
