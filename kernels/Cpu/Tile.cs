using System.Runtime.CompilerServices;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Panels;

namespace Native.Kernels.Cpu;

/// <summary>Multiplies a panel by a few rows of activations: calls a variant's code.</summary>
internal static unsafe class Tile
{
    /// <summary>Most rows of any variant's tile.</summary>
    public const int MaxRows = BFloat16TileAssembler.MaxRows;

    /// <summary>Computes sums of shape [rows, 32].</summary>
    /// <param name="code">The format's code.</param>
    /// <param name="panel">The panel.</param>
    /// <param name="x">The first row of activations, of the type that the code takes.</param>
    /// <param name="xStride">Bytes from row to row.</param>
    /// <param name="rows">1 to <see cref="PanelFormat.Entry.TileRows"/>.</param>
    /// <param name="count">Blocks of 32 columns, columns of floats or pairs of columns, as the code counts.</param>
    /// <param name="sums">Receives the sums.</param>
    /// <param name="ahead">Where machine code begins to prefetch; need not be valid memory.</param>
    /// <param name="aheadStep">Bytes by which the prefetch advances with each block or pair of columns.</param>
    public static void Compute(in PanelFormat.Entry code, byte* panel, byte* x, long xStride, int rows, int count,
        float* sums, byte* ahead, long aheadStep)
    {
        if (code.Tiles != null)
        {
            // The code takes a few microseconds, so the garbage collector can wait for it, and the call is one
            // instruction.
            var tile = (delegate* unmanaged[SuppressGCTransition]<byte*, byte*, long, long, float*, byte*, long,
                void>)code.Tiles[rows - 1];
            tile(panel, x, xStride, count, sums, ahead, aheadStep);
            return;
        }
        byte** pointers = stackalloc byte*[4];
        float* found = stackalloc float[64];
        // Missing rows repeat the last one, so weights are read once. Their results are not stored.
        for (int i = 0; i < 4; i++) pointers[i] = x + Math.Min(i, rows - 1) * xStride;
        for (int half = 0; half < 2; half++)
        {
            byte* integers = panel + code.HeaderBytes + half * code.HalfBytes,
                scales = panel + half * code.HalfScaleBytes;
            if (rows > 1) code.Four(integers, scales, pointers, count, found);
            else code.One(integers, scales, pointers, count, found);
            for (int i = 0; i < rows; i++) Unsafe.CopyBlockUnaligned(sums + 32 * i + 16 * half, found + 16 * i, 64);
        }
    }

    /// <summary>The sums of listed blocks only, by machine code.</summary>
    /// <param name="code">The format's code.</param>
    /// <param name="panel">The panel.</param>
    /// <param name="x">The first row of activations.</param>
    /// <param name="xStride">Bytes from row to row.</param>
    /// <param name="rows">1 to <see cref="PanelFormat.Entry.TileRows"/>.</param>
    /// <param name="list">How many blocks, at least one, and their numbers, ascending.</param>
    /// <param name="sums">Receives the sums, shape [rows, 32].</param>
    public static void ComputeListed(in PanelFormat.Entry code, byte* panel, byte* x, long xStride, int rows, int* list,
        float* sums)
    {
        var tile = (delegate* unmanaged[SuppressGCTransition]<byte*, byte*, long, long, float*, int*, long,
            void>)code.Tiles[code.TileRows + rows - 1];
        tile(panel, x, xStride, list[0], sums, list + 1, 0);
    }
}
