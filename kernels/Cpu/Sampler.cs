using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Sampling;

namespace Native.Kernels.Cpu;

/// <summary>Chooses the next token of one row of logits as its <see cref="RowSampling"/> says, on the CPU.</summary>
/// <remarks>
/// <para>Each worker has an instance, which owns scratch of five floats for each vocabulary entry. Rows are
/// independent, so workers may take them in any order. <see cref="Sample"/> allocates nothing and keeps no
/// state.</para>
/// <para>The vocabulary is never sorted. The k-th best of the maxima of <see cref="ChunkSize"/> neighbours is a lower
/// bound of the k-th best score; a radix selection among the scores that reach it finds the k best. The nucleus of
/// top-p comes from the same selection by probability, among tokens so probable that all others together don't matter.
/// Both are exact and linear in the vocabulary. Equal scores are taken in the order of ids.</para>
/// </remarks>
public sealed unsafe class Sampler
{
    /// <summary>Neighbouring tokens that share one maximum and one partial sum.</summary>
    private const int ChunkSize = 64;

    private const int RadixBuckets = 1 << 11;

    private readonly int _vocabulary;
    private readonly int _chunks;
    private readonly int[] _counts;      // [vocabulary], zero between calls
    // [chunks * ChunkSize], logits with penalties and biases; minus infinity past the vocabulary
    private readonly float* _scores;
    private readonly float* _weights;    // [chunks * ChunkSize], e^((score - best) / temperature)
    private readonly float* _maxima;     // [chunks], the best score of each chunk
    private readonly double* _sums;      // [chunks], the sum of each chunk's weights
    private readonly int* _ids;          // [chunks * ChunkSize], candidates, ascending
    private readonly uint* _keys;        // [chunks * ChunkSize], their scores as integers; the best is the smallest
    private readonly int* _bucketCounts; // [RadixBuckets]
    private readonly double* _bucketMasses; // [RadixBuckets]

    // The memory of the pointers above. It is pinned, so a sampler needs no disposal.
    private readonly Array[] _memory;

    /// <summary>Scratch for rows of this many logits.</summary>
    public Sampler(int vocabularySize)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(vocabularySize);
        _vocabulary = vocabularySize;
        _chunks = (vocabularySize + ChunkSize - 1) / ChunkSize;
        _counts = new int[vocabularySize];
        int padded = _chunks * ChunkSize;
        float[] scores = Pinned<float>(padded), weights = Pinned<float>(padded), maxima = Pinned<float>(_chunks);
        double[] sums = Pinned<double>(_chunks), bucketMasses = Pinned<double>(RadixBuckets);
        int[] ids = Pinned<int>(padded), bucketCounts = Pinned<int>(RadixBuckets);
        uint[] keys = Pinned<uint>(padded);
        _memory = [scores, weights, maxima, sums, bucketMasses, ids, bucketCounts, keys];
        _scores = Address(scores);
        _weights = Address(weights);
        _maxima = Address(maxima);
        _sums = Address(sums);
        _bucketMasses = Address(bucketMasses);
        _ids = Address(ids);
        _bucketCounts = Address(bucketCounts);
        _keys = Address(keys);

        static T[] Pinned<T>(int length)
            where T : unmanaged => GC.AllocateArray<T>(length, pinned: true);

        static T* Address<T>(T[] array)
            where T : unmanaged => (T*)Unsafe.AsPointer(ref array[0]);
    }

    /// <summary>Chooses or scores one row's token.</summary>
    /// <param name="logits">Raw logits, shape [vocabulary]. Minus infinity is legal. They are not changed.</param>
    /// <param name="row">How to choose.</param>
    /// <param name="history"><see cref="Batch.History"/>, whole.</param>
    /// <param name="biases"><see cref="Batch.Biases"/>, whole.</param>
    /// <param name="alternatives">The step's best tokens, whole. This row's are written from
    /// <see cref="RowSampling.AlternativesStart"/> on. If the vocabulary is smaller, the others are token -1.</param>
    /// <param name="masks"><see cref="Batch.Masks"/>, whole.</param>
    /// <returns>Token -1 where the logits hold a NaN or positive infinity, or nothing is left to choose from.</returns>
    /// <exception cref="ArgumentException">A row of another vocabulary.</exception>
    /// <exception cref="IndexOutOfRangeException">A token in the history or the biases is not in the
    /// vocabulary.</exception>
    public SampledToken Sample(
        ReadOnlySpan<float> logits, in RowSampling row, ReadOnlySpan<int> history, ReadOnlySpan<TokenBias> biases,
        Span<TokenLogprob> alternatives, ReadOnlySpan<uint> masks = default)
    {
        if (logits.Length != _vocabulary)
            throw new ArgumentException($"a row of {logits.Length} logits for a vocabulary of {_vocabulary}",
                nameof(logits));
        fixed (float* pointer = logits)
        {
            if (Vector512.IsHardwareAccelerated)
                return Sample<Simd512, Vector512<float>>(pointer, row, history, biases, alternatives, masks);
            if (Vector256.IsHardwareAccelerated)
                return Sample<Simd256, Vector256<float>>(pointer, row, history, biases, alternatives, masks);
            return Sample<Simd128, Vector128<float>>(pointer, row, history, biases, alternatives, masks);
        }
    }

    internal SampledToken Sample<S, V>(
        float* logits, in RowSampling row, ReadOnlySpan<int> history, ReadOnlySpan<TokenBias> biases,
        Span<TokenLogprob> alternatives, ReadOnlySpan<uint> masks = default)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int i = _vocabulary - (_vocabulary % ChunkSize); i < _chunks * ChunkSize; i++)
            _scores[i] = i < _vocabulary ? logits[i] : float.NegativeInfinity;
        float best = Maxima<S, V>(logits);
        double sum = Sum<S, V>(best);
        Span<TokenLogprob> wanted = row.Alternatives > 0
            ? alternatives.Slice(row.AlternativesStart, row.Alternatives) : default;

        // A NaN anywhere, an infinite best, or nothing but minus infinity: each makes the sum NaN.
        if (!double.IsFinite(sum))
        {
            wanted.Fill(new TokenLogprob(-1, float.NaN));
            return new SampledToken(-1, float.NaN);
        }
        double logSum = best + Math.Log(sum);
        Best(wanted, logSum);

        int token;
        if (row.Scores)
        {
            token = row.Target;
            if ((uint)token >= (uint)_vocabulary)
                throw new IndexOutOfRangeException($"token {token} of a vocabulary of {_vocabulary}");
        }
        else
        {
            if (Penalize(row, history, biases) | Mask(row, masks)) best = Maxima<S, V>(_scores);
            if (!float.IsFinite(best)) return new SampledToken(-1, float.NaN);
            token = row.Temperature > 0 ? Draw<S, V>(row, best) : First(best);
        }
        return new SampledToken(token, (float)(logits[token] - logSum));
    }

    /// <summary>Penalties, then biases, on the scores. False where the row has none.</summary>
    private bool Penalize(in RowSampling row, ReadOnlySpan<int> history, ReadOnlySpan<TokenBias> biases)
    {
        float repetition = row.RepetitionPenalty > 0 ? row.RepetitionPenalty : 1;
        bool penalizes = row.HistoryLength > 0
            && (repetition != 1 || row.PresencePenalty != 0 || row.FrequencyPenalty != 0);
        if (penalizes)
        {
            ReadOnlySpan<int> tokens = history.Slice(row.HistoryStart, row.HistoryLength);
            int[] counts = _counts;
            try
            {
                // A count is the token's number in the output plus one. 0 means that it was not seen, or is done.
                for (int i = 0; i < tokens.Length; i++)
                    counts[tokens[i]] = Math.Max(counts[tokens[i]], 1) + (i < row.HistoryPrompt ? 0 : 1);
                foreach (int token in tokens)
                {
                    int output = counts[token] - 1;
                    if (output < 0) continue;
                    counts[token] = 0;
                    float score = _scores[token];
                    score = score > 0 ? score / repetition : score * repetition;
                    if (output > 0) score = score - (output * row.FrequencyPenalty) - row.PresencePenalty;
                    _scores[token] = score;
                }
            }
            finally
            {
                // Also after a bad token: the next row must find zeros.
                foreach (int token in tokens)
                {
                    if ((uint)token < (uint)counts.Length) counts[token] = 0;
                }
            }
        }
        foreach (TokenBias bias in biases.Slice(row.BiasStart, row.BiasLength))
        {
            if ((uint)bias.Token >= (uint)_vocabulary)
                throw new IndexOutOfRangeException($"token {bias.Token} of a vocabulary of {_vocabulary}");
            _scores[bias.Token] += bias.Bias;
        }
        return penalizes || row.BiasLength > 0;
    }

    /// <summary>Forbids the tokens whose bit is not set. False where the row has no mask.</summary>
    private bool Mask(in RowSampling row, ReadOnlySpan<uint> masks)
    {
        if (!row.Masked) return false;
        ReadOnlySpan<uint> words = masks.Slice(row.MaskStart, Batch.MaskWords(_vocabulary));
        for (int i = 0; i < words.Length; i++)
        {
            for (uint forbidden = ~words[i]; forbidden != 0; forbidden &= forbidden - 1)
            {
                int token = (32 * i) + BitOperations.TrailingZeroCount(forbidden);
                if (token < _vocabulary) _scores[token] = float.NegativeInfinity;
            }
        }
        return true;
    }

    /// <summary>Draws a token that min-p, top-k and top-p leave, in proportion to its weight.</summary>
    private int Draw<S, V>(in RowSampling row, float best)
        where S : struct, ISimd<V>
        where V : struct
    {
        double uniform = Philox.Uniform(row.Seed, row.Position);
        float minP = Math.Clamp(row.MinP, 0, 1);
        bool nucleus = row.TopP is > 0 and < 1;
        if (row.TopK > 0 && row.TopK < _vocabulary)
        {
            // Min-p and top-k both keep a prefix of the ranking, so their order doesn't matter.
            int count = KeepBest(row.TopK);
            for (int i = 0; i < count; i++) _weights[i] = _scores[_ids[i]];
            int chunks = (count + ChunkSize - 1) / ChunkSize;
            for (int i = count; i < chunks * ChunkSize; i++) _weights[i] = float.NegativeInfinity;
            double total = Weigh<S, V>(_weights, chunks, best, row.Temperature, minP);
            return nucleus ? DrawNucleus(count, row.TopP * total, uniform) : _ids[Pick(count, uniform * total)];
        }
        else
        {
            double total = Weigh<S, V>(_scores, _chunks, best, row.Temperature, minP);
            if (!nucleus) return Pick(_vocabulary, uniform * total);

            // All tokens below the floor together weigh at most half of what the nucleus may leave out.
            int count = Collect<S, V>((float)(total * (1 - (double)row.TopP) / (2.0 * _vocabulary)));
            return DrawNucleus(count, row.TopP * total, uniform);
        }
    }

    /// <summary>Draws among the smallest set of best candidates whose weights reach <paramref name="mass"/>.</summary>
    private int DrawNucleus(int count, double mass, double uniform)
    {
        for (int i = 0; i < count; i++) _keys[i] = Key(_scores[_ids[i]]);
        (uint worst, int ties) = Select(count, int.MaxValue, mass, byMass: true);
        count = Keep(count, worst, ties);
        double total = 0;
        for (int i = 0; i < count; i++) total += _weights[i];

        double target = uniform * total, sum = 0;
        int last = 0;
        for (int i = 0; i < count; i++)
        {
            if (_weights[i] == 0) continue;
            last = i;
            sum += _weights[i];
            if (sum > target) break;
        }
        return _ids[last];
    }

    /// <summary>The first index at which the sum of weights passes <paramref name="target"/>. Whole chunks are skipped
    /// by their sums.</summary>
    private int Pick(int count, double target)
    {
        int chunk = 0, last = 0;
        double sum = 0, before = 0;
        for (int c = 0; c * ChunkSize < count; c++)
        {
            if (_sums[c] == 0) continue;
            (chunk, before) = (c, sum);
            sum += _sums[c];
            if (sum > target) break;
        }
        sum = before;
        for (int i = chunk * ChunkSize; i < Math.Min((chunk + 1) * ChunkSize, count); i++)
        {
            if (_weights[i] == 0) continue;
            last = i;
            sum += _weights[i];
            if (sum > target) break;
        }
        return last;
    }

    /// <summary>Leaves the ids of the k best scores in <see cref="_ids"/>, ascending; fewer where the others are minus
    /// infinity.</summary>
    private int KeepBest(int k)
    {
        float bound = float.MinValue;
        if (k <= _chunks)
        {
            for (int c = 0; c < _chunks; c++) _keys[c] = Key(_maxima[c]);
            bound = MathF.Max(bound, Score(Select(_chunks, k, 0, byMass: false).Worst));
        }
        int count = 0;
        for (int c = 0; c < _chunks; c++)
        {
            if (_maxima[c] < bound) continue;
            for (int i = c * ChunkSize; i < (c + 1) * ChunkSize; i++)
            {
                if (!(_scores[i] >= bound)) continue; // the padding of the last chunk is below any bound
                _keys[count] = Key(_scores[i]);
                _ids[count++] = i;
            }
        }
        if (count <= k) return count;
        (uint worst, int ties) = Select(count, k, 0, byMass: false);
        return Keep(count, worst, ties);
    }

    /// <summary>Finds where to cut the ranking of <see cref="_keys"/>: at a number of keys or a sum of weights,
    /// whichever comes first.</summary>
    /// <returns>The last key kept, and how many equal to it are kept.</returns>
    private (uint Worst, int Ties) Select(int count, int k, double mass, bool byMass)
    {
        uint prefix = 0, mask = 0;
        int* counts = _bucketCounts;
        double* masses = _bucketMasses;
        for (int level = 0; level < 3; level++)
        {
            int shift = level == 0 ? 21 : level == 1 ? 10 : 0, buckets = level == 2 ? 1 << 10 : 1 << 11;
            new Span<int>(counts, buckets).Clear();
            new Span<double>(masses, buckets).Clear();
            for (int i = 0; i < count; i++)
            {
                if ((_keys[i] & mask) != prefix) continue;
                uint bucket = (_keys[i] >> shift) & (uint)(buckets - 1);
                counts[bucket]++;
                if (byMass) masses[bucket] += _weights[i];
            }
            int chosen = -1;
            for (int bucket = 0; bucket < buckets; bucket++)
            {
                if (counts[bucket] == 0) continue;
                if (chosen >= 0)
                {
                    k -= counts[chosen];
                    mass -= masses[chosen];
                }
                chosen = bucket;
                if (k <= counts[bucket] || (byMass && mass <= masses[bucket])) break;
            }
            prefix |= (uint)chosen << shift;
            mask |= (uint)(buckets - 1) << shift;
            if (level < 2) continue;

            // Equal scores have equal weights.
            int ties = Math.Min(k, counts[chosen]);
            if (!byMass) return (prefix, ties);
            double weight = masses[chosen] / counts[chosen];
            return (prefix, weight > 0 ? (int)Math.Clamp(Math.Ceiling(mass / weight), 1, ties) : ties);
        }
        throw new InvalidOperationException("three levels cover a key");
    }

    /// <summary>Keeps candidates better than a key, and the first of those equal to it.</summary>
    private int Keep(int count, uint worst, int ties)
    {
        int kept = 0;
        for (int i = 0; i < count; i++)
        {
            if (_keys[i] > worst || (_keys[i] == worst && ties-- <= 0)) continue;
            _ids[kept] = _ids[i];
            _weights[kept++] = _weights[i];
        }
        return kept;
    }

    /// <summary>The lowest id with this score.</summary>
    private int First(float best)
    {
        int i = 0;
        while (_maxima[i / ChunkSize] != best) i += ChunkSize;
        while (_scores[i] != best) i++;
        return i;
    }

    /// <summary>The best tokens and their log-probabilities, equals in the order of ids.</summary>
    private void Best(Span<TokenLogprob> best, double logSum)
    {
        int count = 0;
        for (int c = 0; c < _chunks && best.Length > 0; c++)
        {
            if (count == best.Length && !(_maxima[c] > best[^1].Logprob)) continue;
            for (int i = c * ChunkSize; i < Math.Min((c + 1) * ChunkSize, _vocabulary); i++)
            {
                float score = _scores[i];
                if (count == best.Length && !(score > best[^1].Logprob)) continue;
                int at = count < best.Length ? count++ : count - 1;
                for (; at > 0 && score > best[at - 1].Logprob; at--) best[at] = best[at - 1];
                best[at] = new TokenLogprob(i, score);
            }
        }
        for (int i = 0; i < count; i++) best[i] = best[i] with { Logprob = (float)(best[i].Logprob - logSum) };
        best[count..].Fill(new TokenLogprob(-1, float.NegativeInfinity));
    }

    /// <summary>Copies the whole chunks of <paramref name="source"/> to <see cref="_scores"/>, fills
    /// <see cref="_maxima"/> and returns the largest score. A last chunk that is not whole is already there.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private float Maxima<S, V>(float* source)
        where S : struct, ISimd<V>
        where V : struct
    {
        float best = float.NegativeInfinity;
        for (int c = 0; c < _chunks; c++)
        {
            float* scores = _scores + ((long)c * ChunkSize),
                x = c < _vocabulary / ChunkSize ? source + ((long)c * ChunkSize) : scores;
            V largest = S.Create(float.NegativeInfinity);
            for (int j = 0; j < ChunkSize; j += S.Count)
            {
                V score = S.Load(x + j);
                S.Store(score, scores + j);
                largest = S.Max(largest, score);
            }
            _maxima[c] = SimdMath<S, V>.Largest(largest);
            best = MathF.Max(best, _maxima[c]);
        }
        return best;
    }

    /// <summary>The sum of e^(score - best). <see cref="Weigh"/> gives the same for temperature 1, with divisions and
    /// stores.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private double Sum<S, V>(float best)
        where S : struct, ISimd<V>
        where V : struct
    {
        V shift = S.Create(best);
        double total = 0;
        for (int c = 0; c < _chunks; c++)
        {
            float* x = _scores + ((long)c * ChunkSize);
            V sum = S.Create(0);
            for (int j = 0; j < ChunkSize; j += S.Count)
                sum = S.Add(sum, SimdMath<S, V>.Exp(S.Subtract(S.Load(x + j), shift)));
            total += SimdMath<S, V>.Sum(sum);
        }
        return total;
    }

    /// <summary>Stores weights e^((score - best) / temperature), with 0 for those below <paramref name="floor"/>, and
    /// the sum of each chunk. Returns the sum of all.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private double Weigh<S, V>(float* scores, int chunks, float best, float temperature, float floor)
        where S : struct, ISimd<V>
        where V : struct
    {
        V shift = S.Create(best), divisor = S.Create(temperature), least = S.Create(floor), zero = S.Create(0);
        double total = 0;
        for (int c = 0; c < chunks; c++)
        {
            float* x = scores + ((long)c * ChunkSize), w = _weights + ((long)c * ChunkSize);
            V sum = zero;
            for (int j = 0; j < ChunkSize; j += S.Count)
            {
                // A division: the reciprocal of the smallest temperatures is infinite.
                V weight = SimdMath<S, V>.Exp(S.Divide(S.Subtract(S.Load(x + j), shift), divisor));
                weight = S.Select(S.LessThan(weight, least), zero, weight);
                S.Store(weight, w + j);
                sum = S.Add(sum, weight);
            }
            _sums[c] = SimdMath<S, V>.Sum(sum);
            total += _sums[c];
        }
        return total;
    }

    /// <summary>Gathers ids and weights of the tokens whose weight is above a floor.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private int Collect<S, V>(float floor)
        where S : struct, ISimd<V>
        where V : struct
    {
        V least = S.Create(floor);
        int count = 0;
        for (int i = 0; i < _chunks * ChunkSize; i += S.Count)
        {
            uint mask = S.Mask(S.LessThan(least, S.Load(_weights + i)));
            for (; mask != 0; mask &= mask - 1)
            {
                int id = i + System.Numerics.BitOperations.TrailingZeroCount(mask);
                _ids[count] = id;
                _weights[count++] = _weights[id]; // count never passes id
            }
        }
        return count;
    }

    /// <summary>A score as an integer in reverse order: the best is the smallest. Both zeros give the same
    /// integer.</summary>
    private static uint Key(float score)
    {
        uint bits = BitConverter.SingleToUInt32Bits(score == 0 ? 0 : score);
        return (int)bits < 0 ? bits : ~bits & 0x7fffffff;
    }

    /// <summary>The score of a key.</summary>
    private static float Score(uint key) => BitConverter.UInt32BitsToSingle((int)key < 0 ? key : ~key & 0x7fffffff);
}
