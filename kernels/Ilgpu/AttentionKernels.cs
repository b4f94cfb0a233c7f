using ILGPU;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>What attention takes, of a layer and of a step.</summary>
internal struct Attention
{
    public ArrayView<float> Qkv;       // [tokens, (heads + 2 kvHeads) * size]; rotated by Store
    public ArrayView<float> QueryNorm; // [size]
    public ArrayView<float> KeyNorm;   // [size]
    public ArrayView<byte> Keys;       // see IlgpuKvLayer
    public ArrayView<byte> Values;
    public ArrayView<float> Partials;  // [rows here, heads, parts, size + 2]: sums, greatest logit, sum of weights
    public ArrayView<float> Y;         // [tokens, heads * size]
    public int HasQueryNorm, HasKeyNorm;
    public int Heads, KvHeads, Size, Rotations, Pairs, Interleaved, BlockSize, Parts, Window;
    public int First; // row of Attend and Combine: partials have room for some rows at a time
    public float Scale, SoftCap, NormEpsilon;

    /// <summary>The first position that a row sees whose context ends at <paramref name="end"/>.</summary>
    public readonly int Begin(int end) => Window > 0 && end > Window ? end - Window : 0;
}

/// <summary>How the elements of a block's head lie in the cache. Keys lie by element, so that threads with neighbouring
/// positions read neighbouring bytes; values lie by position, for threads with neighbouring elements.</summary>
internal interface ICacheType
{
    /// <summary>Bytes of a block's head.</summary>
    long Bytes(int size, int blockSize);

    /// <summary>An element of a head.</summary>
    /// <param name="cache">Keys or values.</param>
    /// <param name="head">Where the block's head begins.</param>
    /// <param name="index">The element's number in it: see <see cref="Place.Index"/>.</param>
    /// <param name="scale">Its group's, see <see cref="Place.Scale"/>.</param>
    float Load(ArrayView<byte> cache, long head, int index, int scale);

    /// <summary>Puts an element into a head; <paramref name="step"/> is its group's scale.</summary>
    void Store(ArrayView<byte> cache, long head, int index, float value, float step);

    /// <summary>What a group's elements are multiples of, by their greatest magnitude; kept beside them.</summary>
    float Step(float greatest);

    /// <summary>Whether groups have scales, which <see cref="KeepStep"/> keeps.</summary>
    bool HasSteps { get; }

    /// <summary>Keeps a group's scale.</summary>
    void KeepStep(ArrayView<byte> cache, long head, int scale, float step);
}

/// <summary>Numbers of elements and scales within a block's head.</summary>
internal static class Place
{
    /// <summary>Elements that share a scale.</summary>
    public const int Group = 32;

    /// <summary>An element's number.</summary>
    public static int Index(bool isKey, int element, int offset, int size, int blockSize) =>
        isKey ? element * blockSize + offset : offset * size + element;

    /// <summary>The number of its scale, counted in 16-bit words from the head's beginning: behind all
    /// elements.</summary>
    public static int Scale(bool isKey, int element, int offset, int size, int blockSize)
    {
        int groups = (size + Group - 1) / Group, group = element / Group;
        return groups * (Group / 2) * blockSize + (isKey ? group * blockSize + offset : offset * groups + group);
    }
}

/// <summary>float32.</summary>
internal struct F32Cache : ICacheType
{
    public readonly bool HasSteps => false;

    public readonly long Bytes(int size, int blockSize) => 4L * size * blockSize;

    public readonly float Load(ArrayView<byte> cache, long head, int index, int scale) =>
        cache.Cast<float>()[head / 4 + index];

    public readonly void Store(ArrayView<byte> cache, long head, int index, float value, float step) =>
        cache.Cast<float>()[head / 4 + index] = value;

    public readonly float Step(float greatest) => 1;

    public readonly void KeepStep(ArrayView<byte> cache, long head, int scale, float step)
    {
    }
}

/// <summary>Halves.</summary>
internal struct F16Cache : ICacheType
{
    public readonly bool HasSteps => false;

    public readonly long Bytes(int size, int blockSize) => 2L * size * blockSize;

    public readonly float Load(ArrayView<byte> cache, long head, int index, int scale) =>
        FromHalf(cache.Cast<ushort>()[head / 2 + index]);

    public readonly void Store(ArrayView<byte> cache, long head, int index, float value, float step) =>
        cache.Cast<ushort>()[head / 2 + index] = ToHalf(value);

    public readonly float Step(float greatest) => 1;

    public readonly void KeepStep(ArrayView<byte> cache, long head, int scale, float step)
    {
    }
}

/// <summary>bfloat16.</summary>
internal struct BF16Cache : ICacheType
{
    public readonly bool HasSteps => false;

    public readonly long Bytes(int size, int blockSize) => 2L * size * blockSize;

    public readonly float Load(ArrayView<byte> cache, long head, int index, int scale) =>
        FromBFloat(cache.Cast<ushort>()[head / 2 + index]);

    public readonly void Store(ArrayView<byte> cache, long head, int index, float value, float step) =>
        cache.Cast<ushort>()[head / 2 + index] = ToBFloat(value);

    public readonly float Step(float greatest) => 1;

    public readonly void KeepStep(ArrayView<byte> cache, long head, int scale, float step)
    {
    }
}

/// <summary>E4M3.</summary>
internal struct Fp8Cache : ICacheType
{
    public readonly bool HasSteps => false;

    public readonly long Bytes(int size, int blockSize) => (long)size * blockSize;

    public readonly float Load(ArrayView<byte> cache, long head, int index, int scale) => FromFp8(cache[head + index]);

    public readonly void Store(ArrayView<byte> cache, long head, int index, float value, float step) =>
        cache[head + index] = ToFp8(value);

    public readonly float Step(float greatest) => 1;

    public readonly void KeepStep(ArrayView<byte> cache, long head, int scale, float step)
    {
    }
}

/// <summary>Signed bytes, and a bfloat16 for each 32 elements of a key or value. The scale is rounded up, so that no
/// integer is above 127; one that is not finite makes all 32 NaN.</summary>
internal struct Q8Cache : ICacheType
{
    public readonly bool HasSteps => true;

    public readonly long Bytes(int size, int blockSize) => (size + 31L) / 32 * 34 * blockSize;

    public readonly float Load(ArrayView<byte> cache, long head, int index, int scale)
    {
        int integer = (cache[head + index] << 24) >> 24;
        return integer * FromBFloat(cache.Cast<ushort>()[head / 2 + scale]);
    }

    public readonly void Store(ArrayView<byte> cache, long head, int index, float value, float step)
    {
        float ratio = step > 0 ? value / step : 0, size = IntrinsicMath.Abs(ratio);
        // To nearest, ties to even, as adding 2^23 rounds; NaN, whose scale is one too, is any integer.
        int magnitude = (Bits(size + 8388608.0f)) & 0xff;
        cache[head + index] = (byte)(ratio < 0 ? -magnitude : magnitude);
    }

    public readonly float Step(float greatest)
    {
        uint bits = (uint)Bits(greatest / 127);
        return FromBits((int)(bits >= 0x7f80_0000 ? 0x7fc0_0000 : (bits + 0xffff) & 0xffff_0000));
    }

    public readonly void KeepStep(ArrayView<byte> cache, long head, int scale, float step) =>
        cache.Cast<ushort>()[head / 2 + scale] = (ushort)(Bits(step) >> 16);
}

/// <summary>Paged attention: y[t] = softmax(cap(q[t] K^T * scale)) V over the blocks of a row's sequence. A row's
/// context is cut at fixed multiples of 256 positions; a group computes the exact softmax of one part of one row's head
/// in shared memory, and the parts are added in ascending order. What a row adds up, and in which order, depends on its
/// own position alone.</summary>
internal static class AttentionKernels
{
    /// <summary>Positions whose sums are one partial result.</summary>
    public const int Part = 256;

    /// <summary>Threads of a group.</summary>
    public const int Threads = 128;

    /// <summary>Elements of the largest head.</summary>
    public const int MostSize = 256;

    private static long HeadAt<T>(Attention a, int block, int kvHead) where T : struct, ICacheType =>
        ((long)block * a.KvHeads + kvHead) * default(T).Bytes(a.Size, a.BlockSize);

    /// <summary>Normalizes and rotates a token's head, a group each; keys and values go to the cache, queries stay
    /// where they are.</summary>
    public static void Store<T>(Attention a, StepInput step) where T : struct, ICacheType
    {
        ArrayView<float> own = SharedMemory.Allocate<float>(MostSize), sums = SharedMemory.Allocate<float>(Threads);
        int token = Grid.IdxX, head = Grid.IdxY, thread = Group.IdxX, all = a.Heads + 2 * a.KvHeads;
        bool isQuery = head < a.Heads, isValue = head >= a.Heads + a.KvHeads;
        long x = ((long)token * all + head) * a.Size;
        float sum = 0;
        for (int i = thread; i < a.Size; i += Threads)
        {
            float value = a.Qkv[x + i];
            own[i] = value;
            sum += value * value;
        }
        float scale = 1 / MathF.Sqrt(GroupReduction.Of<float, FloatSum>(sum, sums) / a.Size + a.NormEpsilon);
        bool isNormalized = isQuery ? a.HasQueryNorm != 0 : !isValue && a.HasKeyNorm != 0;
        for (int i = thread; isNormalized && i < a.Size; i += Threads)
            own[i] = own[i] * scale * (isQuery ? a.QueryNorm[i] : a.KeyNorm[i]);
        Group.Barrier();
        Rotate(a, step, token, own, isValue ? 0 : a.Pairs);
        Group.Barrier();
        if (isQuery)
            for (int i = thread; i < a.Size; i += Threads) a.Qkv[x + i] = own[i];
        else Keep<T>(a, step.Int(step.Slots, token), head - a.Heads, isValue, own);
    }

    private static void Rotate(Attention a, StepInput step, int token, ArrayView<float> own, int pairs)
    {
        int cosines = a.Rotations + token * 2 * a.Pairs;
        for (int i = Group.IdxX; i < pairs; i += Threads)
        {
            int first = a.Interleaved != 0 ? 2 * i : i, second = a.Interleaved != 0 ? 2 * i + 1 : i + a.Pairs;
            float c = step.Float(cosines, i), s = step.Float(cosines, a.Pairs + i), u = own[first], v = own[second];
            own[first] = u * c - v * s;
            own[second] = v * c + u * s;
        }
    }

    private static void Keep<T>(Attention a, int slot, int head, bool isValue, ArrayView<float> own)
        where T : struct, ICacheType
    {
        int kvHead = isValue ? head - a.KvHeads : head, offset = slot % a.BlockSize;
        long at = HeadAt<T>(a, slot / a.BlockSize, kvHead);
        ArrayView<byte> cache = isValue ? a.Values : a.Keys;
        for (int i = Group.IdxX; i < a.Size; i += Threads)
        {
            float step = 1;
            if (default(T).HasSteps)
            {
                float greatest = 0;
                int group = i / Place.Group * Place.Group;
                for (int j = group; j < IntrinsicMath.Min(group + Place.Group, a.Size); j++)
                {
                    float size = IntrinsicMath.Abs(own[j]);
                    greatest = size > greatest || IsNan(size) ? size : greatest;
                    if (IsNan(size)) greatest = Infinity;
                }
                step = default(T).Step(greatest);
                int scale = Place.Scale(!isValue, i, offset, a.Size, a.BlockSize);
                if (i == group) default(T).KeepStep(cache, at, scale, step);
            }
            int index = Place.Index(!isValue, i, offset, a.Size, a.BlockSize);
            default(T).Store(cache, at, index, own[i], step);
        }
    }

    /// <summary>One part of one row's head.</summary>
    public static void Attend<T>(Attention a, StepInput step) where T : struct, ICacheType
    {
        ArrayView<float> query = SharedMemory.Allocate<float>(MostSize), weights = SharedMemory.Allocate<float>(Part);
        ArrayView<float> sums = SharedMemory.Allocate<float>(Threads);
        int row = Grid.IdxX, head = Grid.IdxY, part = Grid.IdxZ, token = a.First + row, thread = Group.IdxX;
        int end = step.Int(step.Positions, token) + 1, begin = a.Begin(end);
        int from = part * Part, to = IntrinsicMath.Min(from + Part, end);
        if (from >= end || to <= begin) return; // the same for all threads of a group
        int first = IntrinsicMath.Max(from, begin), kvHead = head / (a.Heads / a.KvHeads);
        long q = ((long)token * (a.Heads + 2 * a.KvHeads) + head) * a.Size;
        for (int i = thread; i < a.Size; i += Threads) query[i] = a.Qkv[q + i] * a.Scale;
        Group.Barrier();
        int table = step.Tables + step.Int(step.TableStarts, step.Int(step.Sequences, token));
        float greatest = -Infinity;
        for (int position = first + thread; position < to; position += Threads)
        {
            float logit = Logit<T>(a, step.Int(table, position / a.BlockSize), position % a.BlockSize, kvHead, query);
            weights[position - from] = logit;
            greatest = logit > greatest || IsNan(logit) ? logit : greatest;
        }
        float most = GroupReduction.Of<float, FloatGreatest>(greatest, sums), sum = 0;
        for (int position = first + thread; position < to; position += Threads)
        {
            float weight = Exp(weights[position - from] - most);
            weights[position - from] = weight;
            sum += weight;
        }
        sum = GroupReduction.Of<float, FloatSum>(sum, sums);
        long partial = (((long)row * a.Heads + head) * a.Parts + part) * (a.Size + 2);
        for (int i = thread; i < a.Size; i += Threads)
        {
            float value = 0;
            for (int position = first; position < to; position++)
            {
                int offset = position % a.BlockSize;
                long at = HeadAt<T>(a, step.Int(table, position / a.BlockSize), kvHead);
                int index = Place.Index(false, i, offset, a.Size, a.BlockSize);
                int scale = Place.Scale(false, i, offset, a.Size, a.BlockSize);
                value += weights[position - from] * default(T).Load(a.Values, at, index, scale);
            }
            a.Partials[partial + i] = value;
        }
        if (thread > 0) return;
        a.Partials[partial + a.Size] = most;
        a.Partials[partial + a.Size + 1] = sum;
    }

    private static float Logit<T>(Attention a, int block, int offset, int kvHead, ArrayView<float> query)
        where T : struct, ICacheType
    {
        long at = HeadAt<T>(a, block, kvHead);
        float dot = 0;
        for (int i = 0; i < a.Size; i++)
        {
            int index = Place.Index(true, i, offset, a.Size, a.BlockSize);
            dot += query[i] * default(T).Load(a.Keys, at, index, Place.Scale(true, i, offset, a.Size, a.BlockSize));
        }
        return a.SoftCap > 0 ? a.SoftCap * Tanh(dot / a.SoftCap) : dot;
    }

    /// <summary>Adds a row's parts, a group for each row and head.</summary>
    public static void Combine(Attention a, StepInput step)
    {
        int row = Grid.IdxX, head = Grid.IdxY, token = a.First + row;
        int end = step.Int(step.Positions, token) + 1, first = a.Begin(end) / Part;
        long partials = ((long)row * a.Heads + head) * a.Parts;
        int stride = a.Size + 2, parts = (end + Part - 1) / Part;
        float most = -Infinity;
        for (int part = first; part < parts; part++)
        {
            float other = a.Partials[(partials + part) * stride + a.Size];
            most = other > most || IsNan(other) ? other : most;
        }
        for (int i = Group.IdxX; i < a.Size; i += Threads)
        {
            float sum = 0, weights = 0;
            for (int part = first; part < parts; part++)
            {
                long at = (partials + part) * stride;
                float weight = Exp(a.Partials[at + a.Size] - most);
                sum += a.Partials[at + i] * weight;
                weights += a.Partials[at + a.Size + 1] * weight;
            }
            a.Y[((long)token * a.Heads + head) * a.Size + i] = sum / weights;
        }
    }
}
