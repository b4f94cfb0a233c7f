using System.Runtime.CompilerServices;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>The definition of the micro-kernels: the operations that make up one output, and their order.</summary>
internal static unsafe class MicroKernelsScalar
{
    /// <summary>Columns whose products a float kernel adds up in one chain. The chains' sums are then added in order.
    /// Several chains can run at once, and long rows lose fewer digits.</summary>
    public const int FloatChain = 64;

    /// <summary>Int8 activations. Each group of columns gives an exact integer sum. It is multiplied by scale * scale,
    /// rounded once, and added by one fused multiply-add. The minimum follows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void One<T>(byte* integers, byte* scales, byte** x, int blocks, float* sums)
        where T : IIntegerFormat
    {
        ActivationBlock* activations = (ActivationBlock*)x[0];
        for (int row = 0; row < 16; row++)
        {
            float y = 0;
            for (int k = 0; k < blocks * 32; k += T.GroupSize)
            {
                ActivationBlock* block = activations + k / 32;
                int sum = 0;
                for (int i = 0; i < T.GroupSize; i++)
                    sum += QuantizedPanelFormat<T>.Integer(integers, k + i, row) * block->Quants[k % 32 + i];
                (float scale, float min) = QuantizedPanelFormat<T>.Scale(scales, k / T.GroupSize, row);
                y = MathF.FusedMultiplyAdd(sum, scale * block->Scale, y);
                if (T.HasMin)
                    y = MathF.FusedMultiplyAdd(min, T.GroupSize == 32 ? block->ScaledSum : k % 32 == 0
                        ? block->FirstScaledSum : block->LastScaledSum, y);
            }
            sums[row] = y;
        }
    }

    /// <summary>Four times <see cref="One"/>.</summary>
    public static void Four<T>(byte* integers, byte* scales, byte** x, int blocks, float* sums)
        where T : IIntegerFormat
    {
        for (int t = 0; t < 4; t++) One<T>(integers, scales, x + t, blocks, sums + 16 * t);
    }

    /// <summary>Float activations. The other variants fuse each multiplication with its addition, so they agree except
    /// for rounding.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatOne<T>(byte* panel, byte* scales, byte** x, int columns, float* sums)
        where T : IFloatPanel
    {
        float* activations = (float*)x[0];
        for (int row = 0; row < 16; row++)
        {
            float y = 0;
            for (int first = 0; first < columns; first += FloatChain)
            {
                float chain = 0;
                for (int k = first; k < Math.Min(columns, first + FloatChain); k++)
                    chain += T.Load(panel + (k * 32L + row) * T.Size) * activations[k];
                y += chain;
            }
            sums[row] = y;
        }
    }

    /// <summary>Four times <see cref="FloatOne"/>.</summary>
    public static void FloatFour<T>(byte* panel, byte* scales, byte** x, int columns, float* sums)
        where T : IFloatPanel
    {
        for (int t = 0; t < 4; t++) FloatOne<T>(panel, scales, x + t, columns, sums + 16 * t);
    }
}
