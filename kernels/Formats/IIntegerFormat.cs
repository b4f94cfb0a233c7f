namespace Native.Kernels.Formats;

/// <summary>What a quantized file format is, apart from any layout: small integers, and scales for groups of
/// them.</summary>
/// <remarks>
/// A weight is scale * (integer - <see cref="Offset"/>) + minimum, the scale and minimum being those of its group of
/// <see cref="GroupSize"/> columns. Every repacking of a format (the CPU's panels, a GPU's fragments) reads these
/// facts. Nothing is rounded.
/// </remarks>
internal unsafe interface IIntegerFormat
{
    /// <summary>The file format.</summary>
    static abstract TensorType Type { get; }

    /// <summary>Two integers to a byte.</summary>
    static abstract bool Nibbles { get; }

    /// <summary>Integers are signed bytes; otherwise they are unsigned.</summary>
    static abstract bool Signed { get; }

    /// <summary>Subtracted from the unsigned integers; 0 or a power of two from 4.</summary>
    static abstract int Offset { get; }

    /// <summary>The greatest integer. It tells how many products fit 16 bits.</summary>
    static abstract int Greatest { get; }

    /// <summary>Columns that share a scale: 32 or 16.</summary>
    static abstract int GroupSize { get; }

    /// <summary>Groups have a minimum besides a scale.</summary>
    static abstract bool HasMin { get; }

    /// <summary>Scales are small integers times a super-block's scale.</summary>
    static abstract bool SuperScales { get; }

    /// <summary>Takes one block of the file apart.</summary>
    /// <param name="block">The block, unaligned.</param>
    /// <param name="integers">Receives the integers of its columns, a byte each.</param>
    /// <param name="scales">Receives the scale's bits and, with minimums, those of the minimum, signed so that it is
    /// added.</param>
    /// <param name="groups">With super scales: receives for each group the scale's factor and, with minimums, the
    /// minimum's, 16 entries apart.</param>
    static abstract void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups);
}
