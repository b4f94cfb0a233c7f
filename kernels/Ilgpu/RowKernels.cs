using ILGPU;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>A group for each row, or a thread for each element: what has no product in it.</summary>
internal static class RowKernels
{
    /// <summary>Threads of a group: each device that ILGPU has takes as many.</summary>
    public const int Threads = 256;

    /// <summary>1 / sqrt(mean(x^2) + epsilon) of the row that begins at <paramref name="from"/>.</summary>
    private static float Scale(ArrayView<float> x, long from, float epsilon, int columns, ArrayView<float> shared)
    {
        float sum = 0;
        for (int i = Group.IdxX; i < columns; i += Threads)
        {
            float value = x[from + i];
            sum += value * value;
        }
        return 1 / MathF.Sqrt(GroupReduction.Of<float, FloatSum>(sum, shared) / columns + epsilon);
    }

    /// <summary>y[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight; y may be x.</summary>
    public static void RmsNorm(
        ArrayView<float> x, ArrayView<float> weight, float epsilon, ArrayView<float> y, int columns)
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        long row = (long)Grid.IdxX * columns;
        float scale = Scale(x, row, epsilon, columns, shared);
        for (int i = Group.IdxX; i < columns; i += Threads) y[row + i] = x[row + i] * scale * weight[i];
    }

    /// <summary>y[i] = norm(x[rows[i]]) for the rows whose hidden state is wanted.</summary>
    public static void Hidden(StepInput step, ArrayView<float> x, ArrayView<float> weight, float epsilon,
        ArrayView<float> y, int columns)
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        long from = (long)step.Int(step.HiddenRows, Grid.IdxX) * columns, to = (long)Grid.IdxX * columns;
        float scale = Scale(x, from, epsilon, columns, shared);
        for (int i = Group.IdxX; i < columns; i += Threads) y[to + i] = x[from + i] * scale * weight[i];
    }

    /// <summary>scales[r] = 1 / sqrt(mean(x[r]^2) + epsilon), for products that normalize what they read.</summary>
    public static void RmsScale(ArrayView<float> x, float epsilon, ArrayView<float> scales, int columns)
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        float scale = Scale(x, (long)Grid.IdxX * columns, epsilon, columns, shared);
        if (Group.IdxX == 0) scales[Grid.IdxX] = scale;
    }

    /// <summary>x += delta.</summary>
    public static void Add(ArrayView<float> x, ArrayView<float> delta, long count)
    {
        long i = (long)Grid.IdxX * Threads + Group.IdxX;
        if (i < count) x[i] += delta[i];
    }

    /// <summary>x = cap * tanh(x / cap).</summary>
    public static void SoftCap(ArrayView<float> x, float cap, long count)
    {
        long i = (long)Grid.IdxX * Threads + Group.IdxX;
        if (i < count) x[i] = cap * Tanh(x[i] / cap);
    }

    /// <summary>y[r] = x[sampledRows[first + r]].</summary>
    public static void Gather(StepInput step, int first, ArrayView<float> x, ArrayView<float> y, int columns)
    {
        long from = (long)step.Int(step.SampledRows, first + Grid.IdxX) * columns, to = (long)Grid.IdxX * columns;
        for (int i = Group.IdxX; i < columns; i += Threads) y[to + i] = x[from + i];
    }

    /// <summary>y[t][i] = activation(g[t][i]) * g[t][n + i], for gates whose parts have different formats.</summary>
    public static void Gate(ArrayView<float> gates, ArrayView<float> y, int columns, int gelu)
    {
        long from = (long)Grid.IdxX * 2 * columns, to = (long)Grid.IdxX * columns;
        for (int i = Group.IdxX; i < columns; i += Threads)
            y[to + i] = Activate(gates[from + i], gelu != 0) * gates[from + columns + i];
    }

    /// <summary>Copies blocks of one layer's keys or values in order: a later copy may read what an earlier one wrote,
    /// so one thread does all of a place within the block.</summary>
    public static void CopyBlocks(StepInput step, ArrayView<byte> cache, long blockBytes, int count)
    {
        long at = (long)Grid.IdxX * Threads + Group.IdxX;
        if (at >= blockBytes) return;
        for (int i = 0; i < count; i++)
            cache[step.Int(step.Copies, 2 * i + 1) * blockBytes + at] =
                cache[step.Int(step.Copies, 2 * i) * blockBytes + at];
    }
}
