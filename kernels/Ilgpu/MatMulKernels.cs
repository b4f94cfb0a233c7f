using ILGPU;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>Four neighbouring numbers.</summary>
internal struct Four
{
    public float A, B, C, D;

    public static Four operator *(Four x, Four y) =>
        new() { A = x.A * y.A, B = x.B * y.B, C = x.C * y.C, D = x.D * y.D };

    /// <summary>Adds the products of two fours to a sum, in ascending order.</summary>
    public static float AddDot(Four w, Four x, float sum)
    {
        sum = w.A * x.A + sum;
        sum = w.B * x.B + sum;
        sum = w.C * x.C + sum;
        return w.D * x.D + sum;
    }
}

/// <summary>What a product takes; weights as <see cref="Gpu.WeightLayout"/> has them. A normalized row is x * scale *
/// norm: norm goes to the weights, where it is multiplied once for all rows, and scale to the sum.</summary>
internal struct Product
{
    public ArrayView<float> X;      // [tokens, columns]
    public ArrayView<float> Scales; // [tokens], with a norm
    public ArrayView<float> Norm;   // [columns]
    public ArrayView<uint> Weights; // [rows, columns]
    public ArrayView<float> Groups; // [rows, columns / group, 2]
    public ArrayView<float> Bias;   // [rows]
    public ArrayView<float> Y;      // [tokens, stride]
    public int Tokens, Rows, Columns, Stride;
    public int HasNorm, HasBias;
    public int Ending; // of MatMul: 1 adds to y. Of MatMulGate: 1 is GELU.
}

/// <summary>How weights of a layout are read.</summary>
internal interface IWeights
{
    /// <summary>The weights of a row in the columns from <paramref name="column"/>, a multiple of 4, on; 0 past the
    /// last.</summary>
    Four Load(Product p, long row, int column);
}

/// <summary>Four-bit integers: of 32 columns 16 bytes, the first 16 columns in their lower halves.</summary>
internal struct Int4Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column)
    {
        long group = (row * p.Columns + column) / 32;
        int within = column % 32;
        uint word = p.Weights[group * 4 + within % 16 / 4] >> (within < 16 ? 0 : 4);
        float scale = p.Groups[2 * group], offset = p.Groups[2 * group + 1];
        return new Four
        {
            A = (int)(word & 15) * scale + offset,
            B = (int)(word >> 8 & 15) * scale + offset,
            C = (int)(word >> 16 & 15) * scale + offset,
            D = (int)(word >> 24 & 15) * scale + offset,
        };
    }
}

/// <summary>Signed bytes, with scales for 32 columns.</summary>
internal struct Int8By32Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column) => Bytes(p, row * p.Columns + column, 32);

    public static Four Bytes(Product p, long at, int groupSize)
    {
        uint word = p.Weights[at / 4];
        long group = at / groupSize;
        float scale = p.Groups[2 * group], offset = p.Groups[2 * group + 1];
        return new Four
        {
            A = ((int)(word << 24) >> 24) * scale + offset,
            B = ((int)(word << 16) >> 24) * scale + offset,
            C = ((int)(word << 8) >> 24) * scale + offset,
            D = ((int)word >> 24) * scale + offset,
        };
    }
}

/// <summary>Signed bytes, with scales for 16 columns.</summary>
internal struct Int8By16Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column) =>
        Int8By32Weights.Bytes(p, row * p.Columns + column, 16);
}

/// <summary>Floats as the file has them. Rows need be a multiple of nothing.</summary>
internal struct F32Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column)
    {
        long at = row * p.Columns + column;
        int left = p.Columns - column;
        return new Four
        {
            A = FromBits((int)p.Weights[at]),
            B = left > 1 ? FromBits((int)p.Weights[at + 1]) : 0,
            C = left > 2 ? FromBits((int)p.Weights[at + 2]) : 0,
            D = left > 3 ? FromBits((int)p.Weights[at + 3]) : 0,
        };
    }
}

/// <summary>Halves as the file has them.</summary>
internal struct F16Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column)
    {
        long at = row * p.Columns + column;
        int left = p.Columns - column;
        return new Four
        {
            A = FromHalf(Bits16(p, at)),
            B = left > 1 ? FromHalf(Bits16(p, at + 1)) : 0,
            C = left > 2 ? FromHalf(Bits16(p, at + 2)) : 0,
            D = left > 3 ? FromHalf(Bits16(p, at + 3)) : 0,
        };
    }

    public static uint Bits16(Product p, long at) => p.Weights[at / 2] >> (int)(at % 2 * 16) & 0xffff;
}

/// <summary>bfloat16 as the file has them.</summary>
internal struct BF16Weights : IWeights
{
    public readonly Four Load(Product p, long row, int column)
    {
        long at = row * p.Columns + column;
        int left = p.Columns - column;
        return new Four
        {
            A = FromBFloat(F16Weights.Bits16(p, at)),
            B = left > 1 ? FromBFloat(F16Weights.Bits16(p, at + 1)) : 0,
            C = left > 2 ? FromBFloat(F16Weights.Bits16(p, at + 2)) : 0,
            D = left > 3 ? FromBFloat(F16Weights.Bits16(p, at + 3)) : 0,
        };
    }
}

/// <summary>y = W x for weights of any layout: 32 threads share a row of W and compute it for four rows of x. A thread
/// adds its columns in ascending order, and the threads' sums are added in their order: what a row of x adds up depends
/// on the columns alone, so it has the same bits alone and in any batch.</summary>
internal static class MatMulKernels
{
    /// <summary>Threads that share a row of W.</summary>
    public const int Lanes = 32;

    /// <summary>Rows of W a group.</summary>
    public const int GroupRows = RowKernels.Threads / Lanes;

    /// <summary>Rows of x a thread has sums for.</summary>
    public const int RowTile = 4;

    private static Four LoadX(ArrayView<float> x, long at, int left) => new()
    {
        A = x[at],
        B = left > 1 ? x[at + 1] : 0,
        C = left > 2 ? x[at + 2] : 0,
        D = left > 3 ? x[at + 3] : 0,
    };

    /// <summary>The product of a row of W with one row of x of the tile, in the thread whose lane is the row's number:
    /// all threads of the group must come here. <paramref name="shared"/> has four floats a thread.</summary>
    private static float Dot<W>(Product p, long row, int first, int count, ArrayView<float> shared)
        where W : struct, IWeights
    {
        int thread = Group.IdxX, lane = thread % Lanes;
        Four sums = default;
        if (row < p.Rows)
        {
            long start = (long)first * p.Columns;
            for (int column = 4 * lane; column < p.Columns; column += 4 * Lanes)
            {
                int left = p.Columns - column;
                Four w = default(W).Load(p, row, column);
                if (p.HasNorm != 0) w *= LoadX(p.Norm, column, left);
                long at = start + column;
                sums.A = Four.AddDot(w, LoadX(p.X, at, left), sums.A);
                if (count > 1) sums.B = Four.AddDot(w, LoadX(p.X, at + p.Columns, left), sums.B);
                if (count > 2) sums.C = Four.AddDot(w, LoadX(p.X, at + 2L * p.Columns, left), sums.C);
                if (count > 3) sums.D = Four.AddDot(w, LoadX(p.X, at + 3L * p.Columns, left), sums.D);
            }
        }
        Group.Barrier(); // an earlier product's sums were read
        shared[4 * thread] = sums.A;
        shared[4 * thread + 1] = sums.B;
        shared[4 * thread + 2] = sums.C;
        shared[4 * thread + 3] = sums.D;
        Group.Barrier();
        float sum = 0;
        if (lane < count)
        {
            int from = 4 * (thread - lane) + lane;
            for (int i = 0; i < Lanes; i++) sum += shared[from + 4 * i];
            if (p.HasNorm != 0) sum *= p.Scales[first + lane];
        }
        return sum;
    }

    /// <summary>y[t] = W x[t] + bias, or y[t] += that.</summary>
    public static void MatMul<W>(Product p) where W : struct, IWeights
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(4 * RowKernels.Threads);
        int row = Grid.IdxX * GroupRows + Group.IdxX / Lanes, first = Grid.IdxY * RowTile, lane = Group.IdxX % Lanes;
        int count = IntrinsicMath.Min(p.Tokens - first, RowTile);
        float sum = Dot<W>(p, row, first, count, shared);
        if (row >= p.Rows || lane >= count) return;
        if (p.HasBias != 0) sum += p.Bias[row];
        long at = (long)(first + lane) * p.Stride + row;
        p.Y[at] = p.Ending != 0 ? p.Y[at] + sum : sum;
    }

    /// <summary>y[t][i] = activation(g[i]) * g[n + i], n being half of the rows.</summary>
    public static void MatMulGate<W>(Product p) where W : struct, IWeights
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(4 * RowKernels.Threads);
        int half = p.Rows / 2, row = Grid.IdxX * GroupRows + Group.IdxX / Lanes, first = Grid.IdxY * RowTile;
        int lane = Group.IdxX % Lanes, count = IntrinsicMath.Min(p.Tokens - first, RowTile);
        float gate = Dot<W>(p, row < half ? row : p.Rows, first, count, shared);
        float up = Dot<W>(p, (long)half + row, first, count, shared);
        if (row >= half || lane >= count) return;
        if (p.HasBias != 0)
        {
            gate += p.Bias[row];
            up += p.Bias[half + row];
        }
        p.Y[(long)(first + lane) * p.Stride + row] = Activate(gate, p.Ending != 0) * up;
    }

    /// <summary>y[t] = W[ids[t]] * scale: rows of W as they are.</summary>
    public static void Embed<W>(Product p, StepInput step, ArrayView<int> last, float scale) where W : struct, IWeights
    {
        int token = Grid.IdxX, id = step.Int(step.Ids, token);
        if (id < 0) id = last[step.Int(step.Places, token)];
        if (id < 0) id = 0; // a row that found no token: its sequence has ended
        for (int column = 4 * Group.IdxX; column < p.Columns; column += 4 * RowKernels.Threads)
        {
            Four w = default(W).Load(p, id, column);
            long at = (long)token * p.Stride + column;
            int left = p.Columns - column;
            p.Y[at] = w.A * scale;
            if (left > 1) p.Y[at + 1] = w.B * scale;
            if (left > 2) p.Y[at + 2] = w.C * scale;
            if (left > 3) p.Y[at + 3] = w.D * scale;
        }
    }
}
