using System.Runtime.InteropServices;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class MatMulTests
{
    private static readonly int[] Batches = [1, 2, 3, 4, 5, 7, 32, 33];

    public static TheoryData<TensorType> Formats() => [.. BlockFormat.Supported.Select(f => f.Type)];

    public static TheoryData<TensorType, CpuVariant, bool> FormatsAndVariants()
    {
        var data = new TheoryData<TensorType, CpuVariant, bool>();
        foreach (BlockFormat format in BlockFormat.Supported)
            foreach (CpuVariant variant in MicroKernels.Supported)
            {
                data.Add(format.Type, variant, false);
                data.Add(format.Type, variant, true);
            }
        return data;
    }

    /// <summary>Random blocks with scales that a model could have.</summary>
    internal static GuardedMemory<byte> Weights(TensorType type, int rows, int columns, int seed)
    {
        BlockFormat format = BlockFormat.Of(type);
        var random = new Random(seed);
        var memory = new GuardedMemory<byte>(rows * columns / format.BlockSize * format.BlockBytes);
        random.NextBytes(memory.Span);
        (int Offset, double Greatest)[] halves = type switch
        {
            TensorType.Q4_0 or TensorType.Q5_0 or TensorType.Q8_0 or TensorType.IQ4_NL or TensorType.IQ4_XS => [(0, 0.02)],
            TensorType.Q4_1 or TensorType.Q5_1 => [(0, 0.02), (2, 0.2)],
            TensorType.Q4_K or TensorType.Q5_K => [(0, 0.002), (2, 0.01)],
            TensorType.Q2_K => [(80, 0.01), (82, 0.01)],
            TensorType.Q3_K => [(108, 0.002)],
            TensorType.Q6_K => [(208, 0.0002)],
            _ => [],
        };
        for (int b = 0; b < memory.Count; b += format.BlockBytes)
        {
            foreach ((int offset, double greatest) in halves)
                MemoryMarshal.Write(memory.Span[(b + offset)..], (Half)((random.NextDouble() * 2 - 1) * greatest));
            float value = (float)(random.NextDouble() * 2 - 1);
            if (type == TensorType.F32) MemoryMarshal.Write(memory.Span[b..], value);
            if (type == TensorType.F16) MemoryMarshal.Write(memory.Span[b..], (Half)(b % 97 == 0 ? value * 1e-6f : value)); // subnormal halves among them
            if (type == TensorType.BF16) MemoryMarshal.Write(memory.Span[b..], (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16));
        }
        return memory;
    }

    internal static TensorView View(GuardedMemory<byte> memory, TensorType type, int rows, int columns) => new($"{type} weights", type, rows, columns, memory.Address, memory.Count);

    private static Tensor Matrix(GuardedMemory<byte> memory, int rows, int columns) => new(memory.Address, rows, columns, DType.F32);

    private static GuardedMemory<byte> Random(int count, int seed)
    {
        var memory = new GuardedMemory<byte>(4 * count);
        var random = new Random(seed);
        foreach (ref float x in memory.Floats) x = (float)((random.NextDouble() * 2 - 1) * (random.Next(20) == 0 ? 8 : 1));
        return memory;
    }

    // Rows that end in, at and after a panel; columns of one block, and of several.
    private static (int Rows, int Columns)[] Shapes(TensorType type) => BlockFormat.Of(type).BlockSize switch
    {
        256 => [(1, 256), (33, 768)],
        32 => [(1, 32), (16, 64), (50, 576)],
        _ => [(1, 1), (16, 64), (19, 172), (40, 259)],
    };

    /// <summary>What int8 activations mean: rounded by the definition, then everything exact.</summary>
    private static double[] Rounded(ReadOnlySpan<float> x)
    {
        double[] rounded = new double[x.Length];
        for (int b = 0; b < x.Length; b += 32)
        {
            float max = 0;
            foreach (float v in x.Slice(b, 32)) max = MathF.Max(max, MathF.Abs(v));
            for (int k = b; k < b + 32; k++) rounded[k] = max == 0 ? 0 : (double)(max / 127) * MathF.Round(x[k] * (127 / max), MidpointRounding.ToEven);
        }
        return rounded;
    }

    /// <summary>To nearest even.</summary>
    private static double NearestBFloat16(float x)
    {
        uint bits = BitConverter.SingleToUInt32Bits(x);
        return BitConverter.UInt32BitsToSingle((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
    }

    [Theory, MemberData(nameof(FormatsAndVariants))]
    public void MatMul_IsTheProductWithTheDecodedWeights(TensorType type, CpuVariant variant, bool floatActivations)
    {
        foreach ((int rows, int columns) in Shapes(type))
        {
            using GuardedMemory<byte> weights = Weights(type, rows, columns, 1);
            TensorView view = View(weights, type, rows, columns);
            float[] decoded = new float[rows * columns];
            BlockFormat.Of(type).Decode(weights.Span, decoded);
            using var backend = new CpuBackend(new CpuOptions { Threads = 2, Variant = variant, FloatActivations = floatActivations });
            Matrix w = backend.Load([view]);
            using GuardedMemory<byte> biases = Random(rows, 2);
            foreach (int batch in Batches)
            {
                using GuardedMemory<byte> x = Random(batch * columns, 3), y = Random(batch * rows, 4);
                bool biased = batch % 2 == 0;
                backend.MatMul(Matrix(x, batch, columns), w, biased ? Matrix(biases, 1, rows) : default, Matrix(y, batch, rows));
                for (int t = 0; t < batch; t++)
                {
                    Span<float> row = x.Floats.Slice(t * columns, columns);
                    bool rounds = !floatActivations && BlockFormat.Of(type).BlockSize > 1;
                    bool halves = !floatActivations && type == TensorType.BF16 && variant == CpuVariant.Avx512Vnni && MachineCode.HasBFloat16;
                    double[] activations = rounds ? Rounded(row) : [.. row.ToArray().Select(v => halves ? NearestBFloat16(v) : (double)v)];
                    for (int r = 0; r < rows; r++)
                    {
                        double sum = biased ? biases.Floats[r] : 0, magnitude = Math.Abs(sum);
                        for (int k = 0; k < columns; k++)
                        {
                            double product = decoded[r * columns + k] * activations[k];
                            sum += product;
                            magnitude += Math.Abs(product);
                        }
                        float found = y.Floats[t * rows + r];
                        // Scale * integer and minimum may cancel: their own size counts for what rounding may cost.
                        double allowed = 2e-6 * magnitude + 1e-7 + (rounds ? 2e-6 * Math.Sqrt(columns) : 0);
                        Assert.True(Math.Abs(sum - found) <= allowed, $"{variant}, [{rows}, {columns}], row {t} of {batch}, output {r}: expected {sum}, found {found}");
                    }
                }
            }
        }
    }

    [Theory, MemberData(nameof(QuantizedFormats))]
    public void FineActivations_HoldSixteenBitsWhereABlockHasAnOutlier_WithTheSameBitsInAnyBatchAndVariant(TensorType type)
    {
        const int batch = 20; // several tiles of unequal height
        foreach ((int rows, int columns) in Shapes(type))
        {
            using GuardedMemory<byte> weights = Weights(type, rows, columns, 11), x = Random(batch * columns, 12), y = Random(batch * rows, 13), alone = Random(rows, 14);
            float[] decoded = new float[rows * columns];
            BlockFormat.Of(type).Decode(weights.Span, decoded);
            Random random = new(15);
            bool[] uneven = new bool[batch * columns / 32];
            for (int b = 0; b < uneven.Length; b++)
            {
                // In some rows none is, in some all are, and mostly other blocks than in the row before.
                int row = b / (columns / 32);
                uneven[b] = row % 5 != 0 && (row % 5 == 1 || random.Next(3) == 0);
                if (uneven[b]) x.Floats[32 * b + random.Next(32)] = 20;
            }
            byte[]? expected = null;
            foreach (CpuVariant variant in MicroKernels.Supported)
            {
                using var backend = new CpuBackend(new CpuOptions { Threads = 2, Variant = variant });
                Matrix w = backend.Load([View(weights, type, rows, columns)], fineActivations: [true]);
                backend.MatMul(Matrix(x, batch, columns), w, default, Matrix(y, batch, rows));
                expected ??= y.Span.ToArray();
                Assert.True(y.Span.SequenceEqual(expected), $"{variant} differs from {MicroKernels.Supported[0]}, [{rows}, {columns}]");
                using GuardedMemory<byte> one = Random(columns, 16);
                for (int t = 0; t < batch; t++)
                {
                    x.Floats.Slice(t * columns, columns).CopyTo(one.Floats);
                    backend.MatMul(Matrix(one, 1, columns), w, default, Matrix(alone, 1, rows));
                    Assert.Equal(y.Floats.Slice(t * rows, rows).ToArray(), alone.Floats[..rows].ToArray());
                }
            }
            for (int t = 0; t < batch; t++)
            {
                Span<float> row = x.Floats.Slice(t * columns, columns);
                for (int r = 0; r < rows; r++)
                {
                    double sum = 0, magnitude = 0, allowed = 0;
                    for (int b = 0; b < columns / 32; b++)
                    {
                        double largest = 0, weightSum = 0;
                        for (int k = 32 * b; k < 32 * b + 32; k++)
                        {
                            double product = (double)decoded[r * columns + k] * row[k];
                            (sum, magnitude) = (sum + product, magnitude + Math.Abs(product));
                            (largest, weightSum) = (Math.Max(largest, Math.Abs(row[k])), weightSum + Math.Abs(decoded[r * columns + k]));
                        }
                        // Half a step of the rounding, or of the second one.
                        allowed += largest / 127 / 2 * weightSum / (uneven[t * columns / 32 + b] ? 254 : 1);
                    }
                    allowed += 2e-6 * magnitude + 2e-6 * Math.Sqrt(columns); // float32's own
                    Assert.True(Math.Abs(sum - y.Floats[t * rows + r]) <= allowed, $"[{rows}, {columns}], row {t}, output {r}: expected {sum}, found {y.Floats[t * rows + r]}");
                }
            }
        }
    }

    public static TheoryData<TensorType> QuantizedFormats() => [.. BlockFormat.Supported.Where(f => f.BlockSize > 1).Select(f => f.Type)];

    [Theory, MemberData(nameof(QuantizedFormats))]
    public void EveryVariant_HasTheScalarDefinitionsBits_WithInt8Activations(TensorType type)
    {
        foreach ((int rows, int columns) in Shapes(type))
        {
            using GuardedMemory<byte> weights = Weights(type, rows, columns, 5), x = Random(7 * columns, 6);
            byte[]? expected = null;
            foreach (CpuVariant variant in MicroKernels.Supported)
            {
                using var backend = new CpuBackend(new CpuOptions { Threads = 1, Variant = variant });
                Matrix w = backend.Load([View(weights, type, rows, columns)]);
                using var y = new GuardedMemory<byte>(4 * 7 * rows);
                backend.MatMul(Matrix(x, 7, columns), w, default, Matrix(y, 7, rows));
                expected ??= y.Span.ToArray();
                Assert.True(y.Span.SequenceEqual(expected), $"{variant}, [{rows}, {columns}]");
            }
        }
    }

    [Theory, MemberData(nameof(FormatsAndVariants))]
    public void ARowsBits_DependOnNothingBesideIt(TensorType type, CpuVariant variant, bool floatActivations)
    {
        const int Rows = 150, Most = 400; // 128 for each of three workers, and some: each has a range of rows of its own then
        int columns = BlockFormat.Of(type).BlockSize == 256 ? 512 : 160;
        using GuardedMemory<byte> weights = Weights(type, Rows, columns, 7), x = Random(Most * columns, 8);
        for (int i = 0; i < Most * columns; i += 417) x.Floats[i] = 20; // uneven blocks
        using var one = new CpuBackend(new CpuOptions { Threads = 1, Variant = variant, FloatActivations = floatActivations });
        using var many = new CpuBackend(new CpuOptions { Threads = 3, Variant = variant, FloatActivations = floatActivations });
        using GuardedMemory<byte> y = Random(Rows, 9), all = Random(Most * Rows, 10);
        foreach (bool fine in (bool[])[false, true])
        {
            Matrix single = one.Load([View(weights, type, Rows, columns)], [fine]), split = many.Load([View(weights, type, Rows, columns)], [fine]);
            foreach (int batch in (int[])[2, 3, 4, 5, 33, 300, Most])
            {
                many.MatMul(Matrix(x, batch, columns), split, default, Matrix(all, batch, Rows));
                for (int t = 0; t < batch; t += batch < 10 ? 1 : 13)
                {
                    one.MatMul(new Tensor(x.Address + 4 * t * columns, 1, columns, DType.F32), single, default, Matrix(y, 1, Rows));
                    Assert.True(y.Span.SequenceEqual(all.Span.Slice(4 * t * Rows, 4 * Rows)), $"{variant}, row {t} of {batch}");
                }
            }
        }
    }

    /// <summary>Two parts of one shape and format lie in the same panels; of two formats they don't. Nobody can tell
    /// from the results.</summary>
    [Theory]
    [InlineData(TensorType.Q4_0, TensorType.Q4_0, 48)]
    [InlineData(TensorType.Q4_0, TensorType.Q4_0, 16)]
    [InlineData(TensorType.Q6_K, TensorType.Q6_K, 37)]
    [InlineData(TensorType.BF16, TensorType.BF16, 5)]
    [InlineData(TensorType.Q4_K, TensorType.Q6_K, 48)]
    [InlineData(TensorType.Q8_0, TensorType.F16, 37)]
    public void TwoParts_AreTheirRowsInOrder_AndAGateAndWhatItMultiplies(TensorType gateType, TensorType upType, int rows)
    {
        const int Columns = 256, Batch = 300; // ranges of rows with two workers
        using GuardedMemory<byte> gateWeights = Weights(gateType, rows, Columns, 50), upWeights = Weights(upType, rows, Columns, 51), x = Random(Batch * Columns, 52), biases = Random(2 * rows, 53);
        using GuardedMemory<byte> gates = new(4 * Batch * rows), ups = new(4 * Batch * rows), both = new(4 * Batch * 2 * rows), gated = new(4 * Batch * rows), expected = new(4 * Batch * rows), row = new(4 * Columns);
        TensorView gate = View(gateWeights, gateType, rows, Columns), up = View(upWeights, upType, rows, Columns);
        foreach (CpuVariant variant in MicroKernels.Supported)
        {
            foreach (bool floatActivations in (bool[])[false, true])
            {
                using var backend = new CpuBackend(new CpuOptions { Threads = 2, Variant = variant, FloatActivations = floatActivations });
                Tensor bias = new(biases.Address, 1, 2 * rows, DType.F32);
                Matrix pair = backend.Load([gate, up]);
                foreach (int batch in (int[])[1, 7, Batch])
                {
                    Tensor input = Matrix(x, batch, Columns);
                    backend.MatMul(input, backend.Load([gate]), bias with { Columns = rows }, Matrix(gates, batch, rows));
                    backend.MatMul(input, backend.Load([up]), bias with { Address = bias.Address + 4 * rows, Columns = rows }, Matrix(ups, batch, rows));
                    backend.MatMul(input, pair, bias, Matrix(both, batch, 2 * rows));
                    backend.MatMulGate(input, pair, bias, Activation.Silu, Matrix(gated, batch, rows));
                    Elementwise.Gate((float*)gates.Address, (float*)ups.Address, Activation.Silu, (float*)expected.Address, batch * rows);
                    Assert.Equal(expected.Floats[..(batch * rows)].ToArray(), gated.Floats[..(batch * rows)].ToArray());
                    for (int t = 0; t < batch; t++)
                        Assert.Equal([.. gates.Floats.Slice(t * rows, rows), .. ups.Floats.Slice(t * rows, rows)], both.Floats.Slice(2 * t * rows, 2 * rows).ToArray());
                }
                for (int r = 0; r < 2 * rows; r++)
                {
                    float[] values = new float[Columns];
                    (r < rows ? gate : up).DecodeRow(r % rows, values);
                    ((CpuMatrix)pair).DecodeRow(r, (float*)row.Address);
                    Assert.Equal(values, row.Floats.ToArray());
                }
            }
        }
    }

    /// <summary>Every variant whose logic can run here: with AVX2, those of AVX-512 and ARM too, by their substitutes
    /// for the instructions that are not there.</summary>
    private static CpuVariant[] Runnable => MicroKernels.IsSupported(CpuVariant.Avx2)
        ? [.. Enum.GetValues<CpuVariant>().Where(v => v is not (CpuVariant.AvxVnni or CpuVariant.Avx512Vnni) || MicroKernels.IsSupported(v))]
        : [.. MicroKernels.Supported];

    [Theory, MemberData(nameof(Formats))]
    public void MicroKernels_AgreeWithTheDefinition_AndStayInsideTheirPanelAndRows(TensorType type)
    {
        bool floats = BlockFormat.Of(type).BlockSize == 1;
        foreach (int columns in floats ? [1, 64, 67, 193, 331] : (int[])[256, 768])
        {
            using GuardedMemory<byte> source = Weights(type, 27, columns, 11), x = Random(Tile.MaxRows * columns, 12), sums = new(4 * Tile.MaxRows * 32);
            float[]? expected = null;
            foreach (CpuVariant variant in Runnable)
            {
                PanelFormat format = PanelFormat.Of(MicroKernels.Formats(variant, floatActivations: false), type);
                using var panel = new GuardedMemory<byte>((int)format.PanelBytes(columns));
                panel.Span.Fill(0xa5);
                int rowBytes = source.Count / 27;
                Assert.True(format.Code.Repack((byte*)source.Address, rowBytes, 16, columns, (byte*)panel.Address, 0));
                Assert.True(format.Code.Repack((byte*)source.Address + 16 * rowBytes, rowBytes, 11, columns, (byte*)panel.Address, 1));
                ActivationType activations = format.Code.Activations;
                int stride = activations switch { ActivationType.Int8 => columns / 32 * sizeof(ActivationBlock), ActivationType.BFloat16 => (columns + 1) / 2 * 4, _ => columns * 4 };
                int count = activations switch { ActivationType.Int8 => columns / 32, ActivationType.BFloat16 => (columns + 1) / 2, _ => columns };
                using var rounded = new GuardedMemory<byte>(Tile.MaxRows * stride);
                for (int t = 0; t < Tile.MaxRows; t++)
                {
                    float* from = (float*)x.Address + t * columns;
                    byte* row = (byte*)rounded.Address + t * stride;
                    if (activations == ActivationType.Int8) ActivationBlock.Quantize(from, columns, (ActivationBlock*)row);
                    else if (activations == ActivationType.BFloat16) Rope.Convert(from, new Tensor((nint)row, 1, columns, DType.BF16), 0, columns);
                    else Buffer.MemoryCopy(from, row, stride, stride);
                }
                float[] Sums(int first, int rows)
                {
                    Tile.Compute(format.Code, (byte*)panel.Address, (byte*)rounded.Address + first * stride, stride, rows, count, (float*)sums.Address, (byte*)panel.Address, 64);
                    for (int i = 0; i < 32 * rows; i++) if (i % 32 >= 27) Assert.Equal(0, sums.Floats[i]); // rows that are not there
                    return sums.Floats[..(32 * rows)].ToArray();
                }
                float[] alone = [.. Enumerable.Range(0, Tile.MaxRows).SelectMany(t => Sums(t, 1))];
                for (int rows = 2; rows <= format.Code.TileRows; rows++) Assert.Equal(alone[..(32 * rows)], Sums(0, rows));
                expected ??= alone;
                for (int i = 0; i < alone.Length; i++)
                {
                    // bfloat16 activations are off by up to 2^-9 of themselves, and there are several hundred of up to
                    // 8.
                    float allowed = activations switch { ActivationType.Int8 => 0, ActivationType.BFloat16 => 0.02f * MathF.Sqrt(columns), _ => 1e-4f };
                    Assert.True(Math.Abs(expected[i] - alone[i]) <= allowed, $"{variant}, {columns} columns, output {i}: expected {expected[i]}, found {alone[i]}");
                }
            }
        }
    }

    [Fact]
    public void StackedParts_OfDifferentFormats_AreTheirRowsInOrder()
    {
        const int Columns = 256;
        (TensorType Type, int Rows)[] parts = [(TensorType.Q4_K, 40), (TensorType.Q6_K, 24), (TensorType.F16, 17)];
        GuardedMemory<byte>[] weights = [.. parts.Select((p, i) => Weights(p.Type, p.Rows, Columns, 20 + i))];
        using GuardedMemory<byte> x = Random(5 * Columns, 30), whole = new(4 * 5 * 81), single = new(4 * 5 * 40);
        using var backend = new CpuBackend(new CpuOptions { Threads = 2 });
        TensorView[] views = [.. parts.Select((p, i) => View(weights[i], p.Type, p.Rows, Columns))];
        backend.MatMul(Matrix(x, 5, Columns), backend.Load(views), default, Matrix(whole, 5, 81));
        int first = 0;
        for (int i = 0; i < parts.Length; first += parts[i++].Rows)
        {
            Tensor y = new(single.Address, 5, parts[i].Rows, DType.F32);
            backend.MatMul(Matrix(x, 5, Columns), backend.Load(views.AsSpan(i, 1)), default, y);
            for (int t = 0; t < 5; t++)
                Assert.Equal(single.Floats.Slice(t * parts[i].Rows, parts[i].Rows).ToArray(), whole.Floats.Slice(t * 81 + first, parts[i].Rows).ToArray());
        }
        foreach (GuardedMemory<byte> memory in weights) memory.Dispose();
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void AnActivationThatIsNotANumber_SpoilsItsOwnRowAlone(float bad)
    {
        using GuardedMemory<byte> weights = Weights(TensorType.Q4_0, 16, 64, 40), x = Random(3 * 64, 41), y = new(4 * 3 * 16);
        x.Floats[64 + 5] = bad;
        foreach (CpuVariant variant in MicroKernels.Supported)
        {
            using var backend = new CpuBackend(new CpuOptions { Threads = 1, Variant = variant });
            backend.MatMul(Matrix(x, 3, 64), backend.Load([View(weights, TensorType.Q4_0, 16, 64)]), default, Matrix(y, 3, 16));
            for (int i = 0; i < 48; i++) Assert.Equal(i / 16 == 1, float.IsNaN(y.Floats[i]));
        }
    }

    [Fact]
    public void QuantizedActivations_AreTheDefinitions_ForExtremes()
    {
        float[][] rows =
        [
            new float[32],
            [.. Enumerable.Range(0, 32).Select(i => i == 7 ? -float.MaxValue : float.MaxValue)],
            [.. Enumerable.Range(0, 32).Select(i => float.Epsilon * i)],
            [.. Enumerable.Range(0, 32).Select(i => (i - 16) * 1e-36f)],
            [.. Enumerable.Range(0, 32).Select(i => (i - 16) / 16f)],
            [.. Enumerable.Range(0, 32).Select(i => i == 3 ? 127 : i + 0.5f)], // ties
            [.. Enumerable.Range(0, 32).Select(i => i == 31 ? float.NegativeInfinity : 1f)],
        ];
        foreach (float[] row in rows)
        {
            ActivationBlock fast, slow;
            fixed (float* x = row)
            {
                ActivationBlock.Quantize(x, 32, &fast);
                ActivationBlock.QuantizeScalar(x, &slow);
            }
            Assert.Equal(new ReadOnlySpan<byte>(&slow, 60).ToArray(), new ReadOnlySpan<byte>(&fast, 60).ToArray());
        }
    }
}

internal static unsafe class GuardedBytes
{
    extension(GuardedMemory<byte> memory)
    {
        public nint Address => (nint)memory.Pointer;

        public Span<float> Floats => MemoryMarshal.Cast<byte, float>(memory.Span);
    }
}
