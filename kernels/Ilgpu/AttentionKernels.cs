using ILGPU;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>What attention takes, of a layer and of a step.</summary>
internal struct Attention
{
    public ArrayView<float> Qkv;       // [tokens, (heads + 2 kvHeads) * size]; rotated by Store
    public ArrayView<float> QueryNorm; // [size]
    public ArrayView<float> KeyNorm;   // [size]
    public ArrayView<byte> Keys;       // see CachePlace
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

    private static CachePlace PlaceOf<T>(Attention a, bool isKey, int block, int offset, int kvHead)
        where T : struct, ICacheType => new()
        {
            Cache = isKey ? a.Keys : a.Values,
            Head = ((long)block * a.KvHeads + kvHead) * default(T).Bytes(a.Size, a.BlockSize),
            IsKey = isKey,
            Offset = offset,
            Size = a.Size,
            BlockSize = a.BlockSize,
        };

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
        CachePlace at = PlaceOf<T>(a, !isValue, slot / a.BlockSize, slot % a.BlockSize,
            isValue ? head - a.KvHeads : head);
        for (at.Element = Group.IdxX; at.Element < a.Size; at.Element += Threads) default(T).Store(at, own);
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
                CachePlace at = PlaceOf<T>(
                    a, false, step.Int(table, position / a.BlockSize), position % a.BlockSize, kvHead);
                at.Element = i;
                value += weights[position - from] * default(T).Load(at);
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
        CachePlace at = PlaceOf<T>(a, true, block, offset, kvHead);
        float dot = 0;
        for (at.Element = 0; at.Element < a.Size; at.Element++) dot += query[at.Element] * default(T).Load(at);
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
