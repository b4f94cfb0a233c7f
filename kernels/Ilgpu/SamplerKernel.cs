using ILGPU;
using ILGPU.Algorithms;
using static Native.Kernels.Ilgpu.DeviceMath;

namespace Native.Kernels.Ilgpu;

/// <summary>What the sampler takes beside the step.</summary>
internal struct Sampling
{
    public ArrayView<float> Logits; // [rows, vocabulary]
    public ArrayView<float> Scores; // [rows, vocabulary]: for rows that change theirs
    public ArrayView<uint> Counts;  // [counters, vocabulary]
    public ArrayView<float> Sums;   // [rows]: what log-probabilities are measured from
    public ArrayView<int> Results;  // [sampleRows] pairs of token and log-probability, then the alternatives
    public ArrayView<int> Last;     // by place
    public int First;               // of the step's rows that sample, the first one here
    public int Vocabulary;
}

/// <summary>Chooses the next token of each row of logits, a group a row: penalties, biases and mask on the raw logits,
/// temperature, min-p, top-k, top-p, then one draw of Philox. The order is the CPU's. Weights are added as integers of
/// 2^-40, so a sum is the same in whatever order it is made, and no draw depends on how threads come.</summary>
/// <remarks>Devices may lack arithmetic in double precision and atomic operations, and PoCL 3.1 crashes on barriers
/// behind a condition: there is none of either here. What a row need not do is a loop of no turns.</remarks>
internal static class SamplerKernel
{
    private const int Threads = RowKernels.Threads, Levels = 16;
    private const float Unit = 1099511627776.0f; // 2^40
    private const ulong None = ulong.MaxValue;

    /// <summary>A row's scores and how they are weighed.</summary>
    private struct Weighed
    {
        public ArrayView<float> Scores;
        public long From;
        public int Vocabulary;
        public float Best, Temperature, Least;

        public readonly float this[int token] => Scores[From + token];

        /// <summary>A token's weight, the best one's being 2^40; 0 below the least.</summary>
        public readonly ulong WeightOf(float score)
        {
            float weight = Exp((score - Best) / Temperature);
            return weight < Least ? 0 : (ulong)(weight * Unit);
        }
    }

    /// <summary>Where the ranking is cut: the last key that is kept, and how many that equal it.</summary>
    private struct Cut
    {
        public uint Key;
        public ulong Ties;
    }

    private static Weighed Raw(Sampling s) => new()
    {
        Scores = s.Logits,
        From = (long)Grid.IdxX * s.Vocabulary,
        Vocabulary = s.Vocabulary,
        Temperature = 1,
    };

    /// <summary>A row's best token, its log-probability, and its alternatives. Scores are changed where they are to be;
    /// <see cref="Draw"/> draws by them.</summary>
    public static void Sample(Sampling s, StepInput step)
    {
        ArrayView<ulong> shared = SharedMemory.Allocate<ulong>(Threads);
        int index = s.First + Grid.IdxX, row = step.Sampling + index * SamplingWord.Count;
        Weighed raw = Raw(s);
        ulong first = Best(raw, 0, true, shared);
        raw.Best = raw[(int)(first & 0xffff_ffff)];
        ulong own = 0, wrong = 0;
        for (int i = Group.IdxX; i < s.Vocabulary; i += Threads)
        {
            float logit = raw[i];
            if (IsNan(logit) || logit == Infinity) wrong = 1;
            own += raw.WeightOf(logit);
        }
        bool none = Sum(wrong, shared) != 0 || raw.Best == -Infinity;
        float logSum = raw.Best + XMath.Log(Sum(own, shared) / Unit);
        Alternatives(s, step, row, raw, first, none, logSum, shared);
        Change(s, step, index, row, raw);
        Weighed scores = raw;
        if (Changes(step, index, row)) scores.Scores = s.Scores;
        int best = (int)(Best(scores, 0, true, shared) & 0xffff_ffff);
        int target = step.Int(row, SamplingWord.TargetPlusOne);
        if (Group.IdxX > 0) return;
        bool isFinite = IntrinsicMath.Abs(scores[best]) < Infinity;
        int token = none ? -1 : target > 0 ? target - 1 : isFinite ? best : -1;
        s.Sums[Grid.IdxX] = logSum;
        Tell(s, step, index, raw, token, logSum);
    }

    /// <summary>Draws the token of a row that has a temperature, and whose scores are numbers.</summary>
    public static void Draw(Sampling s, StepInput step)
    {
        ArrayView<ulong> counts = SharedMemory.Allocate<ulong>(Threads), first = SharedMemory.Allocate<ulong>(Threads);
        ArrayView<ulong> second = SharedMemory.Allocate<ulong>(Threads), third = SharedMemory.Allocate<ulong>(Threads);
        int index = s.First + Grid.IdxX, row = step.Sampling + index * SamplingWord.Count;
        float temperature = step.Float(row, SamplingWord.Temperature);
        int best = s.Results[2 * index];
        bool isScored = step.Int(row, SamplingWord.TargetPlusOne) > 0;
        Weighed raw = Raw(s), scores = raw;
        if (Changes(step, index, row)) scores.Scores = s.Scores;
        scores.Best = scores[IntrinsicMath.Max(best, 0)];
        scores.Temperature = temperature;
        float minP = step.Float(row, SamplingWord.MinP), topP = step.Float(row, SamplingWord.TopP);
        scores.Least = IntrinsicMath.Min(IntrinsicMath.Max(minP, 0.0f), 1.0f);
        int topK = step.Int(row, SamplingWord.TopK);
        if (isScored || best < 0 || !(temperature > 0)) return; // the same for all threads of a group
        Group.Barrier();
        ulong k = topK > 0 && topK < s.Vocabulary ? (ulong)topK : (ulong)s.Vocabulary;
        Cut cut = new() { Key = uint.MaxValue, Ties = k };
        cut = Select(scores, cut, k, None, k < (ulong)s.Vocabulary ? Levels : 0, counts, first, second, third);
        ulong mass = PartOf(Sum(Own(scores, TiesBefore(scores, cut, counts), cut), counts), topP);
        int levels = topP > 0 && topP < 1 ? Levels : 0;
        cut = Select(scores, cut, k, mass < 1 ? 1 : mass, levels, counts, first, second, third);
        int token = Pick(scores, cut, Uniform53(step, row), counts);
        if (Group.IdxX == 0) Tell(s, step, index, raw, token, s.Sums[Grid.IdxX]);
    }

    private static void Tell(Sampling s, StepInput step, int index, Weighed raw, int token, float logSum)
    {
        Put(s.Results, index, token, token < 0 ? FromBits(0x7fff_ffff) : raw[token] - logSum);
        int place = step.Int(step.SampledPlaces, index);
        if (place >= 0) s.Last[place] = token;
    }

    private static void Put(ArrayView<int> results, int index, int token, float logprob)
    {
        results[2 * index] = token;
        results[2 * index + 1] = Bits(logprob);
    }

    private static void Alternatives(Sampling s, StepInput step, int row, Weighed raw, ulong first, bool none,
        float logSum, ArrayView<ulong> shared)
    {
        int count = step.Int(row, SamplingWord.Alternatives);
        int at = step.SampleRows + step.Int(row, SamplingWord.AlternativesStart);
        ulong rank = first;
        for (int i = 0; i < count; i++)
        {
            bool there = !none && rank != None;
            int token = there ? (int)(rank & 0xffff_ffff) : -1;
            float logprob = there ? raw[token] - logSum : none ? FromBits(0x7fff_ffff) : -Infinity;
            if (Group.IdxX == 0) Put(s.Results, at + i, token, logprob);
            rank = Best(raw, rank, false, shared);
        }
    }

    /// <summary>A score as an integer in reverse order: the best is the smallest. Both zeros are one.</summary>
    private static uint Key(float score)
    {
        uint bits = (uint)Bits(score == 0 ? 0.0f : score);
        return (bits & 0x8000_0000) != 0 ? bits : ~bits & 0x7fff_ffff;
    }

    private static float Score(uint key) =>
        FromBits((int)((key & 0x8000_0000) != 0 ? key : ~key & 0x7fff_ffff));

    private static ulong Sum(ulong x, ArrayView<ulong> shared) => GroupReduction.Of<ulong, LongSum>(x, shared);

    private static ulong Least(ulong x, ArrayView<ulong> shared) => GroupReduction.Of<ulong, LongLeast>(x, shared);

    /// <summary>Of all tokens behind <paramref name="after"/> in the ranking the first: its key above, its id
    /// below.</summary>
    private static ulong Best(Weighed row, ulong after, bool any, ArrayView<ulong> shared)
    {
        ulong best = None;
        for (int i = Group.IdxX; i < row.Vocabulary; i += Threads)
        {
            ulong rank = (ulong)Key(row[i]) << 32 | (uint)i;
            if (rank < best && (any || rank > after)) best = rank;
        }
        return Least(best, shared);
    }

    /// <summary>Whether a row has scores of its own.</summary>
    private static bool Changes(StepInput step, int index, int row) => step.Int(step.Counters, index) != 0
        || step.Int(row, SamplingWord.BiasLength) > 0 || step.Int(row, SamplingWord.Masked) != 0;

    /// <summary>Penalties by the counts, if there are some, biases and mask. A token is one thread's, in all of
    /// them.</summary>
    private static void Change(Sampling s, StepInput step, int index, int row, Weighed raw)
    {
        int counter = step.Int(step.Counters, index), size = Changes(step, index, row) ? s.Vocabulary : 0;
        long counts = counter == 0 ? -1 : (IntrinsicMath.Abs(counter) - 1L) * s.Vocabulary;
        if (counter != 0) Count(s, step, row, counts, counter < 0);
        bool isMasked = step.Int(row, SamplingWord.Masked) != 0;
        int mask = step.Masks + step.Int(row, SamplingWord.MaskStart);
        for (int i = Group.IdxX; i < size; i += Threads)
            s.Scores[raw.From + i] = Penalized(step, row, raw[i], counts < 0 ? 0 : s.Counts[counts + i]);
        int biases = step.Biases + 2 * step.Int(row, SamplingWord.BiasStart);
        int count = step.Int(row, SamplingWord.BiasLength);
        for (int i = 0; i < count; i++)
        {
            int token = step.Int(biases, 2 * i);
            if (token % Threads == Group.IdxX) s.Scores[raw.From + token] += step.Float(biases, 2 * i + 1);
        }
        for (int i = Group.IdxX; isMasked && i < size; i += Threads)
            if ((step.Int(mask, i / 32) >> (i % 32) & 1) == 0) s.Scores[raw.From + i] = -Infinity;
        Group.Barrier();
    }

    /// <summary>Adds what is new of a row's history to its counts: bit 0 of a token's says that it is there, the others
    /// count it in the output.</summary>
    private static void Count(Sampling s, StepInput step, int row, long counts, bool clears)
    {
        for (int i = Group.IdxX; clears && i < s.Vocabulary; i += Threads) s.Counts[counts + i] = 0;
        int history = step.History + step.Int(row, SamplingWord.HistoryStart);
        int prompt = step.Int(row, SamplingWord.HistoryPrompt), length = step.Int(row, SamplingWord.HistoryLength);
        for (int i = 0; i < length; i++)
        {
            int token = step.Int(history, i);
            if (token % Threads != Group.IdxX) continue;
            uint count = s.Counts[counts + token] | 1;
            s.Counts[counts + token] = i < prompt ? count : count + 2;
        }
    }

    private static float Penalized(StepInput step, int row, float score, uint count)
    {
        if (count == 0) return score;
        float repetition = step.Float(row, SamplingWord.Repetition);
        if (!(repetition > 0)) repetition = 1;
        score = score > 0 ? score / repetition : score * repetition;
        uint output = count >> 1;
        return output == 0 ? score
            : score - output * step.Float(row, SamplingWord.Frequency) - step.Float(row, SamplingWord.Presence);
    }

    /// <summary>Cuts the ranking at a number of tokens or at a sum of weights (<see cref="None"/>: no matter which),
    /// whichever comes first: a radix selection by keys, two bits a level. Of four buckets the first three are counted
    /// and weighed; the last has what is left.</summary>
    /// <returns>The cut; <paramref name="none"/> where there are no levels.</returns>
    private static Cut Select(Weighed scores, Cut none, ulong k, ulong mass, int levels,
        ArrayView<ulong> counts, ArrayView<ulong> first, ArrayView<ulong> second, ArrayView<ulong> third)
    {
        ulong left = k, missing = mass, inside = (ulong)scores.Vocabulary, counted = 0;
        uint key = 0;
        for (int level = 0; level < levels; level++)
        {
            int shift = 30 - 2 * level;
            Weigh(scores, key, shift, mass != None, counts, first, second, third);
            ulong all = counts[0], most = (1ul << 21) - 1;
            ulong a = all & most, b = all >> 21 & most, c = all >> 42, x = first[0], y = second[0], z = third[0];
            uint bucket = 3;
            counted = inside - a - b - c;
            if (Ends(a, x, left, missing, b + c + counted)) (bucket, counted) = (0, a);
            else
            {
                (left, missing) = (left - a, missing - x);
                if (Ends(b, y, left, missing, c + counted)) (bucket, counted) = (1, b);
                else
                {
                    (left, missing) = (left - b, missing - y);
                    if (Ends(c, z, left, missing, counted)) (bucket, counted) = (2, c);
                    else (left, missing) = (left - c, missing - z);
                }
            }
            inside = counted;
            key |= bucket << shift;
        }
        if (levels == 0) return none;
        // Equal scores have equal weights: as many as the mass needs.
        ulong ties = left < counted ? left : counted, each = scores.WeightOf(Score(key));
        ulong enough = mass == None || each == 0 ? ties : (missing + each - 1) / each;
        return new Cut { Key = key, Ties = enough < 1 ? 1 : enough < ties ? enough : ties };
    }

    /// <summary>Whether the ranking is cut in a bucket: tokens or mass are reached there, or none comes behind
    /// it.</summary>
    private static bool Ends(ulong count, ulong weighs, ulong left, ulong missing, ulong behind) =>
        count > 0 && (left <= count || missing <= weighs || behind == 0);

    /// <summary>Counts and weighs the tokens of three buckets, for all threads at place 0 of the arrays. Counts are 21
    /// bits each.</summary>
    private static void Weigh(Weighed scores, uint prefix, int shift, bool weighs,
        ArrayView<ulong> counts, ArrayView<ulong> first, ArrayView<ulong> second, ArrayView<ulong> third)
    {
        int thread = Group.IdxX;
        uint known = shift == 30 ? 0 : uint.MaxValue << (shift + 2);
        ulong count = 0, a = 0, b = 0, c = 0;
        for (int i = thread; i < scores.Vocabulary; i += Threads)
        {
            uint key = Key(scores[i]), bucket = key >> shift & 3;
            if ((key & known) != prefix || bucket == 3) continue;
            count += 1ul << (21 * (int)bucket);
            ulong weight = weighs ? scores.WeightOf(scores[i]) : 0;
            if (bucket == 0) a += weight;
            else if (bucket == 1) b += weight;
            else c += weight;
        }
        Group.Barrier(); // what was there was read
        counts[thread] = count;
        first[thread] = a;
        second[thread] = b;
        third[thread] = c;
        Group.Barrier();
        for (int half = Threads / 2; half > 0; half /= 2)
        {
            if (thread < half)
            {
                counts[thread] += counts[thread + half];
                first[thread] += first[thread + half];
                second[thread] += second[thread + half];
                third[thread] += third[thread + half];
            }
            Group.Barrier();
        }
    }

    /// <summary>The tokens that a thread has: neighbours, so that what the threads before it have comes
    /// before.</summary>
    private static int FirstOf(int vocabulary, int thread)
    {
        int each = (vocabulary + Threads - 1) / Threads;
        return IntrinsicMath.Min(thread * each, vocabulary);
    }

    /// <summary>How many of the tokens that equal the cut come before a thread's.</summary>
    private static ulong TiesBefore(Weighed scores, Cut cut, ArrayView<ulong> shared)
    {
        ulong equal = 0;
        int end = FirstOf(scores.Vocabulary, Group.IdxX + 1);
        for (int i = FirstOf(scores.Vocabulary, Group.IdxX); i < end; i++)
            if (Key(scores[i]) == cut.Key) equal++;
        return Before(equal, shared);
    }

    /// <summary>The sum over the threads before this one.</summary>
    private static ulong Before(ulong own, ArrayView<ulong> shared)
    {
        Group.Barrier(); // what was there was read
        shared[Group.IdxX] = own;
        Group.Barrier();
        ulong before = 0;
        for (int thread = 0; thread < Group.IdxX; thread++) before += shared[thread];
        return before;
    }

    /// <summary>The weight of a token if the cut keeps it, which is so of the first of those that equal it.</summary>
    private static ulong Kept(Weighed scores, float score, Cut cut, ulong ties)
    {
        uint key = Key(score);
        return key < cut.Key || (key == cut.Key && ties < cut.Ties) ? scores.WeightOf(score) : 0;
    }

    /// <summary>The weight of a thread's tokens that the cut keeps.</summary>
    private static ulong Own(Weighed scores, ulong ties, Cut cut)
    {
        ulong own = 0;
        int end = FirstOf(scores.Vocabulary, Group.IdxX + 1);
        for (int i = FirstOf(scores.Vocabulary, Group.IdxX); i < end; i++)
        {
            float score = scores[i];
            own += Kept(scores, score, cut, ties);
            if (Key(score) == cut.Key) ties++;
        }
        return own;
    }

    /// <summary>The token at a place of the weights that the cut keeps.</summary>
    private static int Pick(Weighed scores, Cut cut, ulong uniform, ArrayView<ulong> shared)
    {
        ulong ties = TiesBefore(scores, cut, shared), own = Own(scores, ties, cut);
        ulong target = TimesPart53(Sum(own, shared), uniform), passed = Before(own, shared), found = None;
        bool isMine = passed <= target && target < passed + own;
        int end = FirstOf(scores.Vocabulary, Group.IdxX + 1);
        for (int i = FirstOf(scores.Vocabulary, Group.IdxX); isMine && found == None && i < end; i++)
        {
            float score = scores[i];
            passed += Kept(scores, score, cut, ties);
            if (Key(score) == cut.Key) ties++;
            if (passed > target) found = (ulong)i;
        }
        return (int)Least(found, shared);
    }

    /// <summary>floor(x * part), exactly; part is in (0, 1), x below 2^62.</summary>
    private static ulong PartOf(ulong x, float part)
    {
        int bits = Bits(part), shift = 150 - (bits >> 23);
        ulong mantissa = (uint)(bits & 0x007f_ffff | (bits >> 23 > 0 ? 0x0080_0000 : 0));
        ulong low = (x & 0xffff_ffff) * mantissa, high = (x >> 32) * mantissa;
        if (shift < 32) return (high << (32 - shift)) + (low >> shift);
        return shift < 96 ? (high + (low >> 32)) >> (shift - 32) : 0;
    }

    /// <summary>floor(x * part / 2^53); part is below 2^53.</summary>
    private static ulong TimesPart53(ulong x, ulong part)
    {
        ulong xLow = x & 0xffff_ffff, xHigh = x >> 32, low = part & 0xffff_ffff, high = part >> 32;
        ulong lowest = xLow * low, middle = xHigh * low + (lowest >> 32), other = xLow * high + (middle & 0xffff_ffff);
        ulong top = xHigh * high + (middle >> 32) + (other >> 32), bottom = (other << 32) | (lowest & 0xffff_ffff);
        return (top << 11) | (bottom >> 53);
    }

    /// <summary>A number below 2^53 from the seed and the position (Salmon et al. 2011, Philox-4x32-10).</summary>
    private static ulong Uniform53(StepInput step, int row)
    {
        uint x0 = (uint)step.Int(row, SamplingWord.Position), x1 = 0, x2 = 0, x3 = 0;
        uint k0 = (uint)step.Int(row, SamplingWord.SeedLow), k1 = (uint)step.Int(row, SamplingWord.SeedHigh);
        for (int round = 0; round < 10; round++)
        {
            ulong product0 = 0xD2511F53ul * x0, product1 = 0xCD9E8D57ul * x2;
            x0 = (uint)(product1 >> 32) ^ x1 ^ k0;
            x1 = (uint)product1;
            x2 = (uint)(product0 >> 32) ^ x3 ^ k1;
            x3 = (uint)product0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return ((ulong)x0 << 32 | x1) >> 11;
    }
}
