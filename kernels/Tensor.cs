namespace Native.Kernels;

/// <summary>How one element of a <see cref="Tensor"/> is stored.</summary>
public enum DType : byte
{
    /// <summary>IEEE 754 single precision, 4 bytes.</summary>
    F32,

    /// <summary>IEEE 754 half precision, 2 bytes.</summary>
    F16,

    /// <summary>bfloat16: the upper half of a single, 2 bytes.</summary>
    BF16,

    /// <summary>For KV caches only: signed bytes, and a bfloat16 scale for each 32 elements of a head (see
    /// <see cref="KvLayer"/>). A tensor of this type counts bytes.</summary>
    Q8_0,

    /// <summary>For KV caches only, on devices that convert it: a float of eight bits, four of them exponent and three
    /// fraction, up to 448 and without a scale (E4M3; Micikevicius et al. 2022, arXiv:2209.05433).</summary>
    FP8,
}

/// <summary>A dense row-major matrix in a backend's memory: an address and a shape. It owns no memory.</summary>
/// <param name="Address">First element. On the CPU a pointer aligned to 64 bytes where the tensor was
/// allocated.</param>
/// <param name="Rows">Rows; a step may use fewer of them than were allocated.</param>
/// <param name="Columns">Elements a row, contiguous.</param>
/// <param name="Type">Element type.</param>
public readonly record struct Tensor(nint Address, int Rows, int Columns, DType Type)
{
    /// <summary>Bytes of one element.</summary>
    public int ElementSize => SizeOf(Type);

    /// <summary>Bytes of one element of a type.</summary>
    public static int SizeOf(DType type) => type switch { DType.F32 => 4, DType.Q8_0 or DType.FP8 => 1, _ => 2 };

    /// <summary>Bytes of the whole matrix.</summary>
    public long ByteLength => (long)Rows * Columns * ElementSize;

    /// <summary>True for the default value, which means none (no bias, no norm).</summary>
    public bool IsEmpty => Address == 0;

    /// <summary>The first <paramref name="rows"/> rows.</summary>
    public Tensor Take(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)rows, (uint)Rows, nameof(rows));
        return this with { Rows = rows };
    }
}
