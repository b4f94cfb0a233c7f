using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Native.Kernels.Cpu.Jit;

/// <summary>Writes the machine code of a tile: a panel of bfloat16 weights by some rows of bfloat16 activations. It
/// uses VDPBF16PS, for which .NET has no intrinsic.</summary>
/// <remarks>
/// The instruction multiplies pairs of columns and adds them to float32 sums. Each output has one chain, from the first
/// column to the last, in any tile. A panel has the rows' elements column by column; VPERMT2W turns two columns of a
/// half into pairs.
/// </remarks>
internal sealed class BFloat16TileAssembler
{
    /// <summary>Most rows of activations of a tile: their sums take 24 registers.</summary>
    public const int MaxRows = 12;

    private static readonly AssemblerRegister64 Weights = rdi, Rows = rsi, RowStride = rdx, Pairs = rcx,
        Result = r8, Ahead = r9;
    private static readonly AssemblerRegister64 ThreeStrides = rax, MiddleRows = r11, UpperRows = r10;

    private static readonly AssemblerRegisterZMM[] Sums =
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11,
        zmm12, zmm13, zmm14, zmm15, zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23,
    ];

    /// <summary>The function for a number of rows. It has the parameters of <see cref="TileAssembler"/>'s functions,
    /// but counts pairs of columns instead of blocks, and has no scales.</summary>
    public static Assembler Write(int rows)
    {
        Assembler c = new(64);
        AssemblerRegisterZMM Sum(int half, int row) => Sums[half * rows + row];
        AssemblerMemoryOperand At(int row) => row switch
        {
            0 => Rows + 0,
            1 => Rows + RowStride,
            2 => Rows + RowStride * 2,
            3 => Rows + ThreeStrides,
            4 => Rows + RowStride * 4,
            5 => MiddleRows + 0,
            6 => MiddleRows + RowStride,
            7 => MiddleRows + RowStride * 2,
            8 => MiddleRows + ThreeStrides,
            9 => MiddleRows + RowStride * 4,
            10 => UpperRows + 0,
            _ => UpperRows + RowStride,
        };

        if (rows > 3) c.lea(ThreeStrides, RowStride + RowStride * 2);
        if (rows > 5)
        {
            c.lea(MiddleRows, RowStride + RowStride * 4);
            if (rows > 10) c.lea(UpperRows, Rows + MiddleRows * 2);
            c.add(MiddleRows, Rows);
        }
        // Word 2i of a half's pairs is word i of its part of the first column, word 2i + 1 that of the second, which
        // follows it.
        Label first = c.CreateLabel(), second = c.CreateLabel(), pair = c.CreateLabel();
        c.vmovdqu16(zmm28, __zmmword_ptr[first]);
        c.vmovdqu16(zmm29, __zmmword_ptr[second]);
        for (int i = 0; i < 2 * rows; i++) c.vpxord(Sums[i], Sums[i], Sums[i]);

        c.Label(ref pair);
        for (int i = 0; i < 2; i++) MachineCode.Fetch(c, Ahead + 64 * i, rows);
        c.add(Ahead, __qword_ptr[rsp + 8]);
        c.vmovdqu16(zmm24, __zmmword_ptr[Weights]);
        c.vmovdqu16(zmm27, __zmmword_ptr[Weights + 64]);
        c.vmovdqa32(zmm25, zmm24);
        c.vpermt2w(zmm24, zmm28, zmm27);
        c.vpermt2w(zmm25, zmm29, zmm27);
        for (int r = 0; r < rows; r++)
        {
            c.vpbroadcastd(zmm26, __dword_ptr[At(r)]);
            c.vdpbf16ps(Sum(0, r), zmm24, zmm26);
            c.vdpbf16ps(Sum(1, r), zmm25, zmm26);
        }
        c.add(Weights, 128);
        c.add(Rows, 4);
        if (rows > 5) c.add(MiddleRows, 4);
        if (rows > 10) c.add(UpperRows, 4);
        c.dec(Pairs);
        c.jne(pair);

        for (int r = 0; r < rows; r++)
            for (int half = 0; half < 2; half++) c.vmovups(__zmmword_ptr[Result + 64 * (2 * r + half)], Sum(half, r));
        c.vzeroupper();
        c.ret();
        c.Label(ref first);
        for (int i = 0; i < 16; i++) c.dw((ushort)i, (ushort)(32 + i));
        c.Label(ref second);
        for (int i = 0; i < 16; i++) c.dw((ushort)(16 + i), (ushort)(48 + i));
        return c;
    }
}
