using Iced.Intel;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;
using static Iced.Intel.AssemblerRegisters;

namespace Native.Kernels.Cpu.Jit;

/// <summary>Writes the machine code of a tile: a panel of quantized weights by some rows of int8 activations. It uses
/// the 512-bit VPDPBUSD, for which .NET has no intrinsic.</summary>
/// <remarks>
/// A lane is an output, as in <see cref="MicroKernelsAvx512"/>. Each output is computed by the operations of
/// <see cref="MicroKernelsScalar.One{T}"/> in their order, so its bits are the definition's for any number of rows. All
/// sums of a tile stay in registers: six rows take 12 of integers and 12 of floats. A panel's halves share each
/// broadcast of four activations, and six rows share each unpacking of weights. Loads then stay below a core's limit of
/// two a cycle.
/// </remarks>
internal sealed class TileAssembler
{
    /// <summary>Most rows of activations of a tile: as many as the registers hold.</summary>
    public const int MaxRows = 6;

    // Arguments in System V's order. The advance of the prefetch per block is on the stack. In formats without units of
    // several blocks, integers lie at a fixed distance from the current unit.
    private static readonly AssemblerRegister64 Unit = rdi, Rows = rsi, RowStride = rdx, Blocks = rcx,
        Result = r8, Ahead = r9;
    private static readonly AssemblerRegister64 ThreeStrides = rax, UpperRows = r11, Factors = r10,
        Integers = rbx, Left = rbp;

    // For a tile of listed blocks: their numbers, the current one, and the addresses of the first block of weights and
    // of activations.
    private static readonly AssemblerRegister64 List = r9, Block = rbp, FirstUnit = r12, FirstRows = r13;

    // Sums of integers, then of floats. The registers above hold temporaries.
    private static readonly AssemblerRegisterZMM Mask = zmm29;

    private static readonly AssemblerRegisterZMM[] Z =
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15,
        zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27, zmm28, zmm29, zmm30, zmm31,
    ];

    private readonly Assembler _c = new(64);
    private readonly PanelTraits _traits;
    private readonly int _rows;
    private readonly bool _listed;

    private TileAssembler(PanelTraits traits, int rows, bool listed) =>
        (_traits, _rows, _listed) = (traits, rows, listed);

    /// <summary>The function for a format and a shape.</summary>
    /// <param name="traits">The format.</param>
    /// <param name="rows">1 to <see cref="MaxRows"/>.</param>
    /// <param name="listed">False: it takes all blocks and prefetches. True: it takes only the blocks whose numbers it
    /// is given, int32 and ascending, in place of the prefetch address.</param>
    public static Assembler Write(PanelTraits traits, int rows, bool listed)
    {
        var tile = new TileAssembler(traits, rows, listed);
        tile.Write();
        return tile._c;
    }

    private AssemblerRegisterZMM Sum(int half, int row) => Z[half * _rows + row];

    private AssemblerRegisterZMM Output(int half, int row) => Z[12 + half * _rows + row];

    private static AssemblerRegisterZMM Weights(int half) => Z[24 + half];

    private static AssemblerRegisterZMM Upper(int half) => Z[26 + half];

    /// <summary>The address of a field of a row's current block.</summary>
    private static AssemblerMemoryOperand At(int row, int offset) => row switch
    {
        0 => Rows + offset,
        1 => Rows + RowStride + offset,
        2 => Rows + RowStride * 2 + offset,
        3 => Rows + ThreeStrides + offset,
        4 => Rows + RowStride * 4 + offset,
        _ => UpperRows + offset,
    };

    /// <summary>A vector of a half's integers in the current block.</summary>
    private AssemblerMemoryOperand IntegersAt(int half, int vector)
    {
        int offset = PanelLayout.HalfStride * half + PanelLayout.VectorStride * vector;
        return _traits.SuperScales ? Integers + offset : Unit + 2 * _traits.UnitScaleBytes + offset;
    }

    /// <summary>A half's 16-bit scales in the current unit.</summary>
    private AssemblerMemoryOperand ScalesAt(int half, int offset) => Unit + half * _traits.UnitScaleBytes + offset;

    /// <summary>A half's factors of scales in the current block.</summary>
    private AssemblerMemoryOperand FactorsAt(int half, int offset) => Factors + half * _traits.UnitScaleBytes + offset;

    private void Write()
    {
        PanelTraits t = _traits;
        AssemblerRegister64[] saved = _listed ? [Integers, Block, FirstUnit, FirstRows] : t.SuperScales
            ? [Integers, Left] : [];
        foreach (AssemblerRegister64 register in saved) _c.push(register);
        if (_listed)
        {
            _c.mov(FirstUnit, Unit);
            _c.mov(FirstRows, Rows);
        }
        if (_rows > 3) _c.lea(ThreeStrides, RowStride + RowStride * 2);
        if (_rows > 5 && !_listed)
        {
            _c.lea(UpperRows, RowStride + RowStride * 4);
            _c.add(UpperRows, Rows);
        }
        if (t.Nibbles || t.Signed)
        {
            // A mask for the low nibbles; or the constant that turns signed bytes into unsigned ones, 128 larger.
            _c.mov(r10d, t.Nibbles ? 0x0f0f0f0f : unchecked((int)0x80808080));
            _c.vpbroadcastd(Mask, r10d);
        }
        for (int h = 0; h < 2; h++)
            for (int r = 0; r < _rows; r++) _c.vpxord(Output(h, r), Output(h, r), Output(h, r));

        if (_listed) ListedBlocks();
        else AllBlocks(aheadStep: 8 * (saved.Length + 1));

        for (int r = 0; r < _rows; r++)
            for (int h = 0; h < 2; h++) _c.vmovups(__zmmword_ptr[Result + 64 * (2 * r + h)], Output(h, r));
        foreach (AssemblerRegister64 register in saved.Reverse()) _c.pop(register);
        _c.vzeroupper();
        _c.ret();
    }

    private void AllBlocks(int aheadStep)
    {
        PanelTraits t = _traits;
        Label unit = _c.CreateLabel(), block = _c.CreateLabel();
        if (t.SuperScales)
        {
            _c.Label(ref unit);
            // The whole header is read before the integers behind it, because hardware prefetches what is read in
            // order.
            for (int i = 0; i < 2 * t.UnitScaleBytes; i += 64) _c.prefetcht0(__byte_ptr[Unit + i]);
            _c.lea(Factors, Unit + t.HalvesBytes);
            _c.lea(Integers, Unit + 2 * t.UnitScaleBytes);
            _c.mov(Left, 8);
        }
        _c.Label(ref block);
        for (int i = 0; i < BlockLines; i++) MachineCode.Fetch(_c, Ahead + 64 * i, _rows);
        _c.add(Ahead, __qword_ptr[rsp + aheadStep]);
        Groups();
        _c.add(Rows, 64);
        if (_rows > 5) _c.add(UpperRows, 64);
        if (t.SuperScales)
        {
            _c.add(Integers, 2 * t.BlockBytes);
            _c.add(Factors, 32 / t.GroupSize * t.GroupBytes);
            _c.dec(Left);
            _c.jne(block);
            _c.mov(Unit, Integers);
            _c.sub(Blocks, 8);
            _c.jne(unit);
        }
        else
        {
            _c.add(Unit, t.UnitBytes);
            _c.dec(Blocks);
            _c.jne(block);
        }
    }

    private void ListedBlocks()
    {
        PanelTraits t = _traits;
        Label block = _c.CreateLabel();
        _c.Label(ref block);
        _c.mov(ebp, __dword_ptr[List]);
        _c.add(List, 4);
        _c.mov(Rows, Block);
        _c.shl(Rows, 6);
        _c.add(Rows, FirstRows);
        if (_rows > 5)
        {
            _c.lea(UpperRows, RowStride + RowStride * 4);
            _c.add(UpperRows, Rows);
        }
        if (t.SuperScales)
        {
            _c.mov(Unit, Block);
            _c.shr(Unit, 3);
            _c.imul(Unit, Unit, t.UnitBytes);
            _c.add(Unit, FirstUnit);
            _c.and(Block, 7);
            _c.imul(Integers, Block, 2 * t.BlockBytes);
            _c.lea(Integers, Integers + Unit + 2 * t.UnitScaleBytes);
            _c.imul(Block, Block, 32 / t.GroupSize * t.GroupBytes);
            _c.lea(Factors, Unit + Block + t.HalvesBytes);
        }
        else
        {
            _c.imul(Unit, Block, t.UnitBytes);
            _c.add(Unit, FirstUnit);
        }
        Groups();
        _c.dec(Blocks);
        _c.jne(block);
    }

    /// <summary>Computes the current block.</summary>
    private void Groups()
    {
        for (int group = 0; group < 32 / _traits.GroupSize; group++)
        {
            Begin(group);
            Multiply(group);
            Scale(group);
        }
    }

    /// <summary>Cache lines of a block, its share of the scales included.</summary>
    private int BlockLines => (_traits.UnitBytes / (_traits.SuperScales ? 8 : 1) + 63) / 64;

    /// <summary>A group's sums begin with minus the weights' offset times the sum of the activations.</summary>
    private void Begin(int group)
    {
        PanelTraits t = _traits;
        int shift = t.Signed ? 5 : t.Offset switch { 4 => 0, 8 => 1, 16 => 2, 32 => 3, _ => 0 };
        for (int r = 0; r < _rows; r++)
        {
            if (!t.Signed && t.Offset == 0)
            {
                for (int h = 0; h < 2; h++) _c.vpxord(Sum(h, r), Sum(h, r), Sum(h, r));
                continue;
            }
            int field = t.GroupSize == 32 ? ActivationBlock.SumField : group == 0
                ? ActivationBlock.FirstSumField : ActivationBlock.LastSumField;
            _c.vpbroadcastd(Sum(0, r), __dword_ptr[At(r, field)]);
            if (shift > 0) _c.vpslld(Sum(0, r), Sum(0, r), (byte)shift);
            _c.vmovdqa32(Sum(1, r), Sum(0, r));
        }
    }

    private void Multiply(int group)
    {
        PanelTraits t = _traits;
        if (!t.Nibbles)
        {
            for (int i = group * t.GroupSize / 4; i < (group + 1) * t.GroupSize / 4; i++)
            {
                for (int h = 0; h < 2; h++)
                {
                    if (t.Signed) _c.vpxord(Weights(h), Mask, __zmmword_ptr[IntegersAt(h, i)]);
                    else _c.vmovdqu32(Weights(h), __zmmword_ptr[IntegersAt(h, i)]);
                }
                MultiplyRows(4 * i, Weights);
            }
            return;
        }
        bool low = t.GroupSize == 32 || group == 0, high = t.GroupSize == 32 || group == 1;
        for (int j = 0; j < 4; j++)
        {
            for (int h = 0; h < 2; h++)
            {
                if (low && !high)
                {
                    _c.vpandd(Weights(h), Mask, __zmmword_ptr[IntegersAt(h, j)]);
                    continue;
                }
                _c.vmovdqu32(Upper(h), __zmmword_ptr[IntegersAt(h, j)]);
                if (low) _c.vpandd(Weights(h), Upper(h), Mask);
                _c.vpsrlw(Upper(h), Upper(h), 4);
                _c.vpandd(Upper(h), Upper(h), Mask);
            }
            if (low) MultiplyRows(4 * j, Weights);
            if (high) MultiplyRows(16 + 4 * j, Upper);
        }
    }

    private void MultiplyRows(int column, Func<int, AssemblerRegisterZMM> weights)
    {
        for (int r = 0; r < _rows; r++)
        {
            _c.vpbroadcastd(zmm28, __dword_ptr[At(r, column)]);
            for (int h = 0; h < 2; h++) _c.vpdpbusd(Sum(h, r), weights(h), zmm28);
        }
    }

    private void Scale(int group)
    {
        PanelTraits t = _traits;
        for (int h = 0; h < 2; h++)
        {
            AssemblerRegisterZMM scale = zmm30, min = zmm31;
            _c.vcvtph2ps(scale, __ymmword_ptr[ScalesAt(h, 0)]);
            if (t.HasMin) _c.vcvtph2ps(min, __ymmword_ptr[ScalesAt(h, 32)]);
            if (t.SuperScales)
            {
                _c.vpmovsxbd(zmm24, __xmmword_ptr[FactorsAt(h, group * t.GroupBytes)]);
                _c.vcvtdq2ps(zmm24, zmm24);
                _c.vmulps(scale, scale, zmm24);
                if (t.HasMin)
                {
                    _c.vpmovsxbd(zmm25, __xmmword_ptr[FactorsAt(h, group * t.GroupBytes + 16)]);
                    _c.vcvtdq2ps(zmm25, zmm25);
                    _c.vmulps(min, min, zmm25);
                }
            }
            for (int r = 0; r < _rows; r++)
            {
                AssemblerRegisterZMM product = Z[24 + r % 5];
                _c.vmulps(product, scale, __dword_bcst[At(r, ActivationBlock.ScaleField)]);
                _c.vcvtdq2ps(Sum(h, r), Sum(h, r));
                _c.vfmadd231ps(Output(h, r), Sum(h, r), product);
            }
            if (!t.HasMin) continue;
            int field = t.GroupSize == 32 ? ActivationBlock.ScaledSumField : group == 0
                ? ActivationBlock.FirstScaledSumField : ActivationBlock.LastScaledSumField;
            for (int r = 0; r < _rows; r++) _c.vfmadd231ps(Output(h, r), min, __dword_bcst[At(r, field)]);
        }
    }
}

/// <summary>A panel format's constants as values, for code made at run time.</summary>
internal sealed record PanelTraits(bool Nibbles, bool Signed, int Offset, int GroupSize, bool HasMin, bool SuperScales,
    int BlockBytes, int HalvesBytes, int GroupBytes, int UnitScaleBytes, int UnitBytes)
{
    /// <summary>Those of a format.</summary>
    public static PanelTraits Of<T>()
        where T : IIntegerFormat
        => new(T.Nibbles, T.Signed, T.Offset, T.GroupSize, T.HasMin, T.SuperScales, Panel<T>.BlockBytes,
            Panel<T>.HalvesBytes, Panel<T>.GroupBytes, Panel<T>.UnitScaleBytes, Panel<T>.UnitStride);
}
