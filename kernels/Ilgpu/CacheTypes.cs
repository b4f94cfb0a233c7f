using ILGPU;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>A place in a block's head. Keys lie by element, so that threads with neighbouring positions read
/// neighbouring bytes; values lie by position, for threads with neighbouring elements.</summary>
internal struct CachePlace
{
    /// <summary>Elements that share a scale, where there are scales.</summary>
    public const int Group = 32;

    public ArrayView<byte> Cache; // keys or values
    public long Head;             // where the block's head begins
    public bool IsKey;
    public int Element, Offset, Size, BlockSize;

    /// <summary>The element's number within the head.</summary>
    public readonly int Index => IsKey ? Element * BlockSize + Offset : Offset * Size + Element;

    /// <summary>Where its scale is, in 16-bit words of the cache: behind all elements.</summary>
    public readonly long Scale
    {
        get
        {
            int groups = (Size + Group - 1) / Group, group = Element / Group;
            return Head / 2 + groups * (Group / 2) * BlockSize
                + (IsKey ? group * BlockSize + Offset : Offset * groups + group);
        }
    }
}

/// <summary>How elements are kept.</summary>
internal interface ICacheType
{
    /// <summary>Bytes of a block's head.</summary>
    long Bytes(int size, int blockSize);

    /// <summary>An element.</summary>
    float Load(CachePlace at);

    /// <summary>Keeps an element of a head; <paramref name="own"/> has all of the head's.</summary>
    void Store(CachePlace at, ArrayView<float> own);
}

/// <summary>float32.</summary>
internal struct F32Cache : ICacheType
{
    public readonly long Bytes(int size, int blockSize) => 4L * size * blockSize;

    public readonly float Load(CachePlace at) => at.Cache.Cast<float>()[at.Head / 4 + at.Index];

    public readonly void Store(CachePlace at, ArrayView<float> own) =>
        at.Cache.Cast<float>()[at.Head / 4 + at.Index] = own[at.Element];
}

/// <summary>Halves.</summary>
internal struct F16Cache : ICacheType
{
    public readonly long Bytes(int size, int blockSize) => 2L * size * blockSize;

    public readonly float Load(CachePlace at) => FromHalf(at.Cache.Cast<ushort>()[at.Head / 2 + at.Index]);

    public readonly void Store(CachePlace at, ArrayView<float> own) =>
        at.Cache.Cast<ushort>()[at.Head / 2 + at.Index] = ToHalf(own[at.Element]);
}

/// <summary>bfloat16.</summary>
internal struct BF16Cache : ICacheType
{
    public readonly long Bytes(int size, int blockSize) => 2L * size * blockSize;

    public readonly float Load(CachePlace at) => FromBFloat(at.Cache.Cast<ushort>()[at.Head / 2 + at.Index]);

    public readonly void Store(CachePlace at, ArrayView<float> own) =>
        at.Cache.Cast<ushort>()[at.Head / 2 + at.Index] = ToBFloat(own[at.Element]);
}

/// <summary>E4M3.</summary>
internal struct Fp8Cache : ICacheType
{
    public readonly long Bytes(int size, int blockSize) => (long)size * blockSize;

    public readonly float Load(CachePlace at) => FromFp8(at.Cache[at.Head + at.Index]);

    public readonly void Store(CachePlace at, ArrayView<float> own) =>
        at.Cache[at.Head + at.Index] = ToFp8(own[at.Element]);
}

/// <summary>Signed bytes, and a bfloat16 for each 32 elements of a key or value. The scale is rounded up, so that no
/// integer is above 127; one that is not finite makes all 32 NaN.</summary>
internal struct Q8Cache : ICacheType
{
    public readonly long Bytes(int size, int blockSize) => (size + 31L) / 32 * 34 * blockSize;

    public readonly float Load(CachePlace at)
    {
        int integer = (at.Cache[at.Head + at.Index] << 24) >> 24;
        return integer * FromBFloat(at.Cache.Cast<ushort>()[at.Scale]);
    }

    public readonly void Store(CachePlace at, ArrayView<float> own)
    {
        int group = at.Element / CachePlace.Group * CachePlace.Group;
        float scale = ScaleOf(own, group, IntrinsicMath.Min(group + CachePlace.Group, at.Size));
        if (at.Element == group) at.Cache.Cast<ushort>()[at.Scale] = (ushort)(Bits(scale) >> 16);
        float ratio = scale > 0 ? own[at.Element] / scale : 0, size = IntrinsicMath.Abs(ratio);
        // To nearest, ties to even, as adding 2^23 rounds; NaN, whose scale is one too, is any integer.
        int magnitude = Bits(size + 8388608.0f) & 0xff;
        at.Cache[at.Head + at.Index] = (byte)(ratio < 0 ? -magnitude : magnitude);
    }

    private static float ScaleOf(ArrayView<float> own, int first, int end)
    {
        float greatest = 0;
        for (int i = first; i < end; i++)
        {
            float size = IntrinsicMath.Abs(own[i]);
            greatest = IsNan(size) ? Infinity : size > greatest ? size : greatest;
        }
        uint bits = (uint)Bits(greatest / 127);
        return FromBits((int)(bits >= 0x7f80_0000 ? 0x7fc0_0000 : (bits + 0xffff) & 0xffff_0000));
    }
}
