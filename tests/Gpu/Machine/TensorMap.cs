using System.Buffers.Binary;

namespace Native.Tests.Gpu.Machine;

/// <summary>What cuTensorMapEncodeTiled makes, opaque to kernels; the layout here is the machine's own.</summary>
internal sealed record TensorMap
{
    public const int Bytes = 128;

    private const uint Magic = 0x544d_4150;

    public required long Address { get; init; }

    public required int ElementBytes { get; init; }

    /// <summary>Elements in each dimension, the innermost first.</summary>
    public required int[] Sizes { get; init; }

    /// <summary>Bytes from one to the next in each dimension but the innermost.</summary>
    public required long[] Strides { get; init; }

    /// <summary>Elements that one copy moves in each dimension.</summary>
    public required int[] Box { get; init; }

    /// <summary>0, 32, 64 or 128.</summary>
    public required int SwizzleBytes { get; init; }

    public int Rank => Sizes.Length;

    /// <summary>Null, or why the driver would refuse it (CUDA driver API, cuTensorMapEncodeTiled).</summary>
    public string? WhyNot()
    {
        if (Rank is < 1 or > 5 || Box.Length != Rank || Strides.Length != Rank - 1) return "the ranks differ";
        if (Address % 16 != 0) return "the address is no multiple of 16";
        if (Strides.Any(stride => stride % 16 != 0 || stride is <= 0 or >= 1L << 40))
            return "a stride is no multiple of 16";
        if (Box.Any(box => box is < 1 or > 256)) return "a box has more than 256 elements in a dimension";
        int row = Box[0] * ElementBytes;
        if (row % 16 != 0) return "a box's rows are no multiple of 16 bytes";
        if (SwizzleBytes > 0 && row > SwizzleBytes) return $"a box's rows have {row} bytes, more than the swizzle's";
        return SwizzleBytes is 0 or 32 or 64 or 128 ? null : "the swizzle is none";
    }

    public byte[] Encode()
    {
        if (WhyNot() is { } why) throw new ArgumentException(why);
        byte[] bytes = new byte[Bytes];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, Magic);
        bytes[4] = (byte)Rank;
        bytes[5] = (byte)ElementBytes;
        bytes[6] = (byte)SwizzleBytes;
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(8), Address);
        for (int i = 0; i < Rank; i++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(16 + 4 * i), Sizes[i]);
            BinaryPrimitives.WriteInt16LittleEndian(bytes.AsSpan(36 + 2 * i), (short)Box[i]);
            if (i > 0) BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(48 + 8 * i), Strides[i - 1]);
        }
        return bytes;
    }

    public static TensorMap Decode(ReadOnlySpan<byte> bytes)
    {
        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes) != Magic)
            throw new ArgumentException("this is no tensor map");
        int rank = bytes[4];
        int[] sizes = new int[rank], box = new int[rank];
        long[] strides = new long[rank - 1];
        for (int i = 0; i < rank; i++)
        {
            sizes[i] = BinaryPrimitives.ReadInt32LittleEndian(bytes[(16 + 4 * i)..]);
            box[i] = BinaryPrimitives.ReadInt16LittleEndian(bytes[(36 + 2 * i)..]);
            if (i > 0) strides[i - 1] = BinaryPrimitives.ReadInt64LittleEndian(bytes[(48 + 8 * i)..]);
        }
        return new TensorMap
        {
            Address = BinaryPrimitives.ReadInt64LittleEndian(bytes[8..]),
            ElementBytes = bytes[5],
            SwizzleBytes = bytes[6],
            Sizes = sizes,
            Strides = strides,
            Box = box,
        };
    }
}
