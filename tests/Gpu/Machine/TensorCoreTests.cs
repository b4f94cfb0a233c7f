using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>Matrix instructions against the tables of the PTX ISA, written out here as it draws them, and against a
/// plain product.</summary>
public sealed class TensorCoreTests
{
    /// <summary>From the ISA's figures: which element of A, B or C the i-th value of a thread is.</summary>
    [Theory]
    [InlineData("m16n8k16.f16", 0, 0, 0, 0)]
    [InlineData("m16n8k16.f16", 5, 1, 1, 3)] // lane 5: groupID 1, thread 1 in its group
    [InlineData("m16n8k16.f16", 5, 3, 9, 3)]
    [InlineData("m16n8k16.f16", 5, 2, 9, 2)]
    [InlineData("m16n8k16.f16", 31, 7, 15, 15)]
    [InlineData("m16n8k16.f16", 30, 4, 7, 12)]
    [InlineData("m16n8k32.s8", 0, 4, 8, 0)]
    [InlineData("m16n8k32.s8", 6, 9, 1, 25)]
    [InlineData("m16n8k32.s8", 6, 15, 9, 27)]
    [InlineData("m16n8k8.tf32", 7, 0, 1, 3)]
    [InlineData("m16n8k8.tf32", 7, 3, 9, 7)]
    [InlineData("m16n8k64.s4", 1, 8, 8, 8)]
    [InlineData("m16n8k64.s4", 1, 17, 0, 41)]
    public void ElementsOfA(string shape, int lane, int i, int row, int column)
    {
        int perRegister = shape switch { "m16n8k16.f16" => 2, "m16n8k32.s8" => 4, "m16n8k64.s4" => 8, _ => 1 };
        Assert.Equal((row, column), Warp.OfA(lane, i / perRegister, i % perRegister, perRegister, 16));
    }

    public static TheoryData<string, int, int> Shapes => new()
    {
        { "m16n8k16.row.col.f32.f16.f16.f32", 16, 2 }, { "m16n8k8.row.col.f32.f16.f16.f32", 8, 2 },
        { "m16n8k16.row.col.f32.bf16.bf16.f32", 16, 2 }, { "m16n8k8.row.col.f32.bf16.bf16.f32", 8, 2 },
        { "m16n8k8.row.col.f32.tf32.tf32.f32", 8, 1 }, { "m16n8k4.row.col.f32.tf32.tf32.f32", 4, 1 },
        { "m16n8k32.row.col.s32.s8.s8.s32", 32, 4 }, { "m16n8k16.row.col.s32.s8.s8.s32", 16, 4 },
        { "m16n8k32.row.col.s32.u8.s8.s32", 32, 4 }, { "m16n8k64.row.col.s32.s4.s4.s32", 64, 8 },
        { "m16n8k32.row.col.s32.u4.s4.s32", 32, 8 }, { "m16n8k32.row.col.f32.e4m3.e4m3.f32", 32, 4 },
        { "m16n8k32.row.col.f32.e5m2.e4m3.f32", 32, 4 },
    };

    /// <summary>A and B are laid out by the ISA's formulas, and the product is that of matrices.</summary>
    [Theory, MemberData(nameof(Shapes))]
    public void AProduct_IsThatOfMatrices(string form, int k, int perRegister)
    {
        string[] types = form.Split('.');
        bool integers = types[3] == "s32";
        Random random = new(k);
        uint[,] a = Random(16, k), b = Random(k, 8);
        float[] c = [.. Enumerable.Range(0, 128).Select(_ => (float)random.Next(-50, 50))];
        int registersA = 16 * k / perRegister / 32, registersB = 8 * k / perRegister / 32;
        uint[] words = new uint[32 * 16];
        for (int lane = 0; lane < 32; lane++)
        {
            int group = lane / 4, thread = lane % 4, at = lane * 16;
            for (int r = 0; r < registersA; r++)
                for (int e = 0; e < perRegister; e++)
                {
                    int row = r % 2 == 0 ? group : group + 8;
                    int column = thread * perRegister + e + (r < 2 ? 0 : 4 * perRegister);
                    words[at + r] |= a[row, column] << (e * 32 / perRegister);
                }
            for (int r = 0; r < registersB; r++)
                for (int e = 0; e < perRegister; e++)
                    words[at + 4 + r] |= b[thread * perRegister + e + (r == 0 ? 0 : 4 * perRegister), group]
                        << (e * 32 / perRegister);
            for (int i = 0; i < 4; i++)
            {
                float value = c[(group + (i < 2 ? 0 : 8)) * 8 + thread * 2 + i % 2];
                words[at + 8 + i] = integers ? (uint)(int)value : BitConverter.SingleToUInt32Bits(value);
            }
        }
        uint[] results = Multiply(form, registersA, registersB, words);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++)
            {
                int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
                double expected = c[row * 8 + column];
                for (int j = 0; j < k; j++) expected += Value(types[4], a[row, j]) * Value(types[5], b[j, column]);
                double actual = integers ? (int)results[lane * 4 + i]
                    : BitConverter.UInt32BitsToSingle(results[lane * 4 + i]);
                Assert.Equal(expected, actual, integers ? 0 : Math.Abs(expected) * 1e-5 + 1e-3);
            }

        uint[,] Random(int rows, int columns)
        {
            uint[,] matrix = new uint[rows, columns];
            uint mask = (uint)((1ul << (32 / perRegister)) - 1);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++)
                    matrix[i, j] = perRegister switch
                    {
                        1 => BitConverter.SingleToUInt32Bits(random.Next(-64, 64) / 16f),
                        2 when form.Contains("bf16") => Bf16.From(random.Next(-16, 16) / 4f),
                        2 => BitConverter.HalfToUInt16Bits((Half)(random.Next(-64, 64) / 16f)),
                        _ when form.Contains('e') && !integers => (uint)random.Next(256) & 0xbb, // no NaN, no infinity
                        _ => (uint)random.Next() & mask,
                    };
            return matrix;
        }
    }

    private static double Value(string type, uint bits) => type switch
    {
        "f16" => (double)BitConverter.UInt16BitsToHalf((ushort)bits),
        "bf16" => BitConverter.UInt32BitsToSingle(bits << 16),
        "tf32" => BitConverter.UInt32BitsToSingle(bits),
        "s8" => (sbyte)bits,
        "u8" => (byte)bits,
        "s4" => bits >= 8 ? (int)bits - 16 : bits,
        "u4" => bits,
        "e5m2" => (double)BitConverter.UInt16BitsToHalf((ushort)(bits << 8)),
        // e4m3: bias 7, no infinities.
        _ => ((bits & 0x80) != 0 ? -1 : 1) * ((bits >> 3 & 15) == 0 ? (bits & 7) / 512.0
            : (1 + (bits & 7) / 8.0) * Math.Pow(2, (bits >> 3 & 15) - 7.0)),
    };

    private static unsafe uint[] Multiply(string form, int registersA, int registersB, uint[] words)
    {
        string List(string prefix, int from, int count) =>
            "{" + string.Join(", ", Enumerable.Range(from, count).Select(i => prefix + i)) + "}";
        string body = $"""
            mul.wide.u32 %rd20, %r0, 64; add.s64 %rd10, %rd0, %rd20; mul.wide.u32 %rd20, %r0, 16;
            add.s64 %rd11, %rd1, %rd20;
            ld.global.v4.b32 {List("%r", 20, 4)}, [%rd10]; ld.global.v4.b32 {List("%r", 24, 4)}, [%rd10+16];
            ld.global.v4.b32 {List("%r", 28, 4)}, [%rd10+32];
            mma.sync.aligned.{form} {List("%r", 40, 4)}, {List("%r", 20, registersA)}, {List("%r", 24, registersB)},
                {List("%r", 28, 4)};
            st.global.v4.b32 [%rd11], {List("%r", 40, 4)};
            """;
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<uint>("x", words), y = memory.Allocate("y", 32 * 16);
        Counters counters = Run(memory, Kernel(body, 2), new(1), new(32), [x, y]);
        Assert.Equal(1, counters.MatrixOperations);
        return new Span<uint>(y.Data, 128).ToArray();
    }

    [Theory]
    [InlineData("x4", "", 4)]
    [InlineData("x2", "", 2)]
    [InlineData("x1", "", 1)]
    [InlineData("x4", ".trans", 4)]
    public unsafe void Ldmatrix_GivesEachLaneItsElements(string count, string transposed, int matrices)
    {
        // Rows of 16 bytes; row i of matrix m holds 100 m + 8 i + column. Lane 8 m + i gives its address.
        string list = "{" + string.Join(", ", Enumerable.Range(20, matrices).Select(i => $"%r{i}")) + "}";
        string body = $"""
            mul.wide.u32 %rd20, %r0, 16; add.s64 %rd10, %rd0, %rd20; add.s64 %rd11, %rd1, %rd20;
            shl.b32 %r10, %r0, 4; mov.u32 %r11, s; add.u32 %r10, %r11, %r10;
            ld.global.v4.b32 {"{%r12, %r13, %r14, %r15}"}, [%rd10];
            st.shared.v4.b32 [%r10], {"{%r12, %r13, %r14, %r15}"};
            bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.{count}{transposed}.shared.b16 {list}, [%r10];
            {string.Join(' ', Enumerable.Range(0, matrices).Select(i => $"st.global.b32 [%rd11+{4 * i}], %r{20 + i};"))}
            """;
        ushort[] rows = [.. Enumerable.Range(0, 4 * 64).Select(i => (ushort)(100 * (i / 64) + i % 64))];
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<ushort>("x", rows), y = memory.Allocate("y", 32 * 16);
        Counters counters = Run(memory, Kernel(body, 2, ".shared .align 16 .b8 s[512];"), new(1), new(32), [x, y]);
        for (int lane = 0; lane < 32; lane++)
            for (int m = 0; m < matrices; m++)
                for (int e = 0; e < 2; e++)
                {
                    int row = lane / 4, column = lane % 4 * 2 + e;
                    int expected = 100 * m + (transposed == "" ? 8 * row + column : 8 * column + row);
                    Assert.Equal(expected, ((ushort*)y.Data)[lane * 8 + m * 2 + e]);
                }
        Assert.Equal(counters.LeastWavefronts, counters.Wavefronts); // 16 bytes a row, one after the other
    }

    [Fact]
    public void Ldmatrix_OfRowsThatOtherLanesWrote_NeedsAWarpBarrier() => Fails(FaultKind.Race, "shared memory", """
        shl.b32 %r10, %r0, 4; mov.u32 %r11, s; add.u32 %r10, %r11, %r10;
        st.shared.v4.b32 [%r10], {%r0, %r0, %r0, %r0};
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r10];
        """, shared: ".shared .align 16 .b8 s[512];");

    [Theory]
    [InlineData("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r0,%r0}, {%r0}, "
        + "{%f0,%f0,%f0,%f0};")]
    [InlineData("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r10];")]
    public void AMatrixOperation_WithoutAllLanes(string operation) => Fails(FaultKind.Convergence, "", $"""
        mov.f32 %f0, 0f00000000; mov.u32 %r10, s; st.shared.u32 [s], 0;
        setp.lt.u32 %p1, %r0, 31; @%p1 {operation}
        """, shared: ".shared .align 16 .b8 s[512];");

    [Fact]
    public void SmallFloats_RoundAsTheISAHasThem()
    {
        for (int bits = 0; bits < 256; bits++)
        {
            double value = SmallFloats.OfByte((byte)bits, e5m2: false);
            if (double.IsNaN(value)) continue;
            Assert.Equal(bits, SmallFloats.ToByte(value, e5m2: false));
        }
        Assert.Equal(0x7e, SmallFloats.ToByte(1e9, e5m2: false)); // 448
        Assert.Equal(0x7b, SmallFloats.ToByte(1e9, e5m2: true)); // 57344
        Assert.Equal(0x08, SmallFloats.ToByte(0.015625, e5m2: false)); // 2^-6, the least normal one
        Assert.Equal(0x01, SmallFloats.ToByte(0.00195, e5m2: false)); // to 2^-9
        Assert.Equal(448.0, SmallFloats.OfByte(0x7e, e5m2: false));
        Assert.Equal(0x3f80, Bf16.From(1.0));
        Assert.Equal(0x3f80, Bf16.From(1 + 1 / 256.0)); // a tie, to even
        Assert.Equal(0x3f81, Bf16.From(1 + 1 / 256.0 + 1e-12)); // more than a tie: one rounding, not two
    }
}
