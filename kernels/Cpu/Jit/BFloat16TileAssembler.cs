using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Native.Kernels.Cpu;

/// <summary>Writes the machine code of a tile: one or two panels of bfloat16 weights by some rows of bfloat16 activations, with VDPBF16PS, for which .NET has no intrinsic.</summary>
/// <remarks>
/// The instruction multiplies pairs of columns and adds them to float32 sums, each output's in one chain from the first column to the last, in any tile.
/// A panel has the sixteen rows' elements column by column; one VPERMW makes two columns into pairs.
/// </remarks>
internal sealed class BFloat16TileAssembler
{
    /// <summary>Rows of activations a tile has at most: two panels' sums take 24 registers.</summary>
    public const int MaxRows = 12;

    private static readonly AssemblerRegister64 Weights = rdi, PanelStride = rdx, Rows = rcx, RowStride = r8, Pairs = r9;
    private static readonly AssemblerRegister64 ThreeStrides = rax, MiddleRows = r11, UpperRows = r10, Ahead = rbp;

    private static readonly AssemblerRegisterZMM[] Sums =
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11,
        zmm12, zmm13, zmm14, zmm15, zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23,
    ];

    /// <summary>The function for a shape. It takes what <see cref="TileAssembler"/>'s do; instead of blocks it counts pairs of columns, and has no scales.</summary>
    public static Assembler Write(int panels, int rows)
    {
        Assembler c = new(64);
        AssemblerRegisterZMM Sum(int panel, int row) => Sums[panel * rows + row];
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

        c.push(Ahead);
        c.mov(Ahead, __qword_ptr[rsp + 24]);
        if (rows > 3) c.lea(ThreeStrides, RowStride + RowStride * 2);
        if (rows > 5)
        {
            c.lea(MiddleRows, RowStride + RowStride * 4);
            if (rows > 10) c.lea(UpperRows, Rows + MiddleRows * 2);
            c.add(MiddleRows, Rows);
        }
        // Word 2i of a vector takes word i, word 2i + 1 word 16 + i.
        Label interleaving = c.CreateLabel(), pair = c.CreateLabel();
        c.vmovdqu16(zmm28, __zmmword_ptr[interleaving]);
        for (int i = 0; i < panels * rows; i++) c.vpxord(Sums[i], Sums[i], Sums[i]);

        c.Label(ref pair);
        for (int p = 0; p < panels; p++) c.prefetcht0(__byte_ptr[p == 0 ? Ahead + 0 : Ahead + PanelStride]);
        c.add(Ahead, __qword_ptr[rsp + 32]);
        for (int p = 0; p < panels; p++) c.vpermw(p == 0 ? zmm24 : zmm25, zmm28, __zmmword_ptr[p == 0 ? Weights + 0 : Weights + PanelStride]);
        for (int r = 0; r < rows; r++)
        {
            c.vpbroadcastd(zmm26, __dword_ptr[At(r)]);
            for (int p = 0; p < panels; p++) c.vdpbf16ps(Sum(p, r), p == 0 ? zmm24 : zmm25, zmm26);
        }
        c.add(Weights, 64);
        c.add(Rows, 4);
        if (rows > 5) c.add(MiddleRows, 4);
        if (rows > 10) c.add(UpperRows, 4);
        c.dec(Pairs);
        c.jne(pair);

        c.mov(rax, __qword_ptr[rsp + 16]);
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < panels; p++) c.vmovups(__zmmword_ptr[rax + 64 * (r * panels + p)], Sum(p, r));
        c.pop(Ahead);
        c.vzeroupper();
        c.ret();
        c.Label(ref interleaving);
        for (int i = 0; i < 16; i++) c.dw((ushort)i, (ushort)(16 + i));
        return c;
    }
}
