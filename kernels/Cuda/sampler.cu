// Chooses the next token of each row of logits, a block a row: penalties, biases and mask on the raw logits,
// temperature, min-p, top-k, top-p, then one draw of Philox. The order is the CPU's. Weights are added as integers of
// 2^-40, so a sum is the same in whatever order it is made: no draw depends on how threads come.
#include "native.cuh"

static const u32 SampleThreads = 256, Buckets = 2048;
static const float Unit = 1099511627776.0f; // 2^40

struct Sampling {
  const Step* step;
  const float* logits; // [rows, vocabulary]
  float* scores;       // [rows, vocabulary]: for rows that change theirs
  u32* counts;         // [counters, vocabulary]
  u32 first;           // of the step's rows that sample, the first one here
  u32 vocabulary;
};

DEVICE float Infinity() { return __builtin_inff(); }

// A score as an integer in reverse order: the best is the smallest. Both zeros are one.
DEVICE u32 Key(float score) {
  u32 bits = ToBits(score == 0 ? 0.0f : score);
  return (int)bits < 0 ? bits : ~bits & 0x7fffffff;
}

DEVICE float Score(u32 key) { return FromBits((int)key < 0 ? key : ~key & 0x7fffffff); }

DEVICE u64 ShuffleXor(u64 x, int mask) {
  u32 low = __nvvm_shfl_sync_bfly_i32(0xffffffffu, (u32)x, mask, 31);
  u32 high = __nvvm_shfl_sync_bfly_i32(0xffffffffu, (u32)(x >> 32), mask, 31);
  return (u64)high << 32 | low;
}

// The sum, or the least, over the block, in each thread. `partial` has a word for each warp.
template <bool Least> DEVICE u64 Reduce(u64 x, u64* partial) {
  for (int mask = 16; mask > 0; mask /= 2) {
    u64 other = ShuffleXor(x, mask);
    x = Least ? (other < x ? other : x) : x + other;
  }
  if (Lane() == 0) partial[Warp()] = x;
  Barrier();
  x = partial[0];
  for (u32 warp = 1; warp < SampleThreads / WarpSize; warp++)
    x = Least ? (partial[warp] < x ? partial[warp] : x) : x + partial[warp];
  Barrier();
  return x;
}

// Of all tokens behind `after` in the ranking the first: its key above, its id below.
DEVICE u64 Best(const float* scores, u32 vocabulary, u64 after, bool any, u64* partial) {
  u64 best = ~0ul;
  for (u32 i = Thread(); i < vocabulary; i += SampleThreads) {
    u64 rank = (u64)Key(scores[i]) << 32 | i;
    if (rank < best && (any || rank > after)) best = rank;
  }
  return Reduce<true>(best, partial);
}

DEVICE u64 Weight(float score, float best, float temperature, float least) {
  float weight = Exp((score - best) / temperature);
  return weight < least ? 0 : (u64)(weight * Unit);
}

// Adds what is new of a row's history to its counts: bit 0 of a token's says that it is there, the others count it in
// the output.
DEVICE void Count(const Step& step, const RowSampling& row, u32* counts, bool clears, u32 vocabulary) {
  if (clears) {
    for (u32 i = Thread(); i < vocabulary; i += SampleThreads) counts[i] = 0;
    Barrier();
  }
  const int* history = step.history + row.historyStart;
  for (u32 i = Thread(); i < row.historyLength; i += SampleThreads) {
    __nvvm_atom_or_gen_i((int*)counts + history[i], 1);
    if (i >= row.historyPrompt) __nvvm_atom_add_gen_i((int*)counts + history[i], 2);
  }
  Barrier();
}

// Penalties by the counts, if there are some, and biases.
DEVICE void Penalize(const Step& step, const RowSampling& row, float* scores, const u32* counts, u32 vocabulary) {
  float repetition = row.repetition > 0 ? row.repetition : 1;
  for (u32 i = Thread(); counts && i < vocabulary; i += SampleThreads) {
    if (counts[i] == 0) continue;
    u32 output = counts[i] >> 1;
    float score = scores[i];
    score = score > 0 ? score / repetition : score * repetition;
    if (output > 0) score = score - output * row.frequency - row.presence;
    scores[i] = score;
  }
  // A token's biases are one thread's, in their order: the one that had it above.
  for (u32 i = 0; i < row.biasLength; i++) {
    TokenValue bias = step.biases[row.biasStart + i];
    if (bias.token % SampleThreads == Thread()) scores[bias.token] += bias.value;
  }
  Barrier();
}

// Where to cut the ranking: the last key that is kept, and how many that equal it.
struct Cut {
  u32 key, ties;
};

// What the threads of a block share while they select.
struct Selection {
  u32 counts[Buckets];
  u64 masses[Buckets];
  u32 bucket, ties, k;
  u64 mass;
};

// Goes down the buckets of a level to the one where k tokens or the mass are reached.
DEVICE void Choose(Selection* at, u32 buckets) {
  u32 chosen = 0;
  bool any = false;
  for (u32 bucket = 0; bucket < buckets; bucket++) {
    if (at->counts[bucket] == 0) continue;
    if (any) {
      at->k -= at->counts[chosen];
      at->mass -= at->masses[chosen];
    }
    chosen = bucket;
    any = true;
    if (at->k <= at->counts[bucket] || at->mass <= at->masses[bucket]) break;
  }
  at->bucket = chosen;
  at->ties = at->k < at->counts[chosen] ? at->k : at->counts[chosen];
}

// Cuts at a number of tokens or at a sum of weights (~0: no matter which), whichever comes first: a radix selection by
// keys.
DEVICE Cut Select(const float* scores, u32 vocabulary, float best, float temperature, float least, u32 k, u64 mass,
    Selection* at) {
  u32 prefix = 0, mask = 0;
  if (Thread() == 0) {
    at->k = k;
    at->mass = mass;
  }
  for (int level = 0; level < 3; level++) {
    u32 shift = level == 0 ? 21 : level == 1 ? 10 : 0, buckets = level == 2 ? 1024 : Buckets;
    for (u32 i = Thread(); i < buckets; i += SampleThreads) {
      at->counts[i] = 0;
      at->masses[i] = 0;
    }
    Barrier();
    for (u32 i = Thread(); i < vocabulary; i += SampleThreads) {
      u32 key = Key(scores[i]);
      if ((key & mask) != prefix) continue;
      u32 bucket = key >> shift & (buckets - 1);
      __nvvm_atom_add_gen_i((int*)at->counts + bucket, 1);
      __nvvm_atom_add_gen_ll((long long*)at->masses + bucket, (long)Weight(scores[i], best, temperature, least));
    }
    Barrier();
    if (Thread() == 0) Choose(at, buckets);
    Barrier();
    prefix |= at->bucket << shift;
    mask |= (buckets - 1) << shift;
  }
  if (Thread() == 0) {
    // Equal scores have equal weights: as many as the mass needs, by an estimate that is put right.
    u64 each = Weight(Score(prefix), best, temperature, least);
    if (each > 0 && mass != ~0ul) {
      u64 enough = (u64)((double)at->mass / (double)each);
      while (enough > 1 && (enough - 1) * each >= at->mass) enough--;
      while (enough * each < at->mass) enough++;
      if (enough < at->ties) at->ties = enough < 1 ? 1 : (u32)enough;
    }
  }
  Barrier();
  Cut cut = {prefix, at->ties};
  Barrier();
  return cut;
}

// The tokens that a thread has: neighbours, so that what the threads before it have comes before.
DEVICE u32 FirstOf(u32 vocabulary, u32 thread) {
  u32 each = (vocabulary + SampleThreads - 1) / SampleThreads;
  return thread * each < vocabulary ? thread * each : vocabulary;
}

// How many of a thread's tokens equal the cut, of all that do, come before it. `places` has a word for each thread.
DEVICE u32 TiesBefore(const float* scores, u32 vocabulary, Cut cut, u64* places) {
  u32 equal = 0;
  for (u32 i = FirstOf(vocabulary, Thread()); i < FirstOf(vocabulary, Thread() + 1); i++)
    if (Key(scores[i]) == cut.key) equal++;
  places[Thread()] = equal;
  Barrier();
  u32 before = 0;
  for (u32 thread = 0; thread < Thread(); thread++) before += (u32)places[thread];
  Barrier();
  return before;
}

// The weight of a token if the cut keeps it; `ties` counts those that equal it.
DEVICE u64 Kept(float score, Cut cut, u32* ties, float best, float temperature, float least) {
  u32 key = Key(score);
  if (key > cut.key || (key == cut.key && (*ties)++ >= cut.ties)) return 0;
  return Weight(score, best, temperature, least);
}

// A number below 2^53 from the seed and the position (Salmon et al. 2011, Philox-4x32-10).
DEVICE u64 Uniform53(u64 seed, u32 position) {
  u32 x0 = position, x1 = 0, x2 = 0, x3 = 0, k0 = (u32)seed, k1 = (u32)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    u64 product0 = (u64)0xD2511F53u * x0, product1 = (u64)0xCD9E8D57u * x2;
    x0 = (u32)(product1 >> 32) ^ x1 ^ k0;
    x1 = (u32)product1;
    x2 = (u32)(product0 >> 32) ^ x3 ^ k1;
    x3 = (u32)product0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ((u64)x0 << 32 | x1) >> 11;
}

// Draws a token that min-p, top-k and top-p leave, in proportion to its weight.
DEVICE u32 Draw(const float* scores, u32 vocabulary, const RowSampling& row, float best, Selection* at, u64* places,
    u64* partial) {
  float least = row.minP < 0 ? 0 : row.minP > 1 ? 1 : row.minP, temperature = row.temperature;
  Cut cut = {0xffffffffu, vocabulary};
  u32 k = row.topK > 0 && row.topK < vocabulary ? row.topK : vocabulary;
  if (k < vocabulary) cut = Select(scores, vocabulary, best, temperature, least, k, ~0ul, at);
  for (int pass = 0;; pass++) {
    u32 before = TiesBefore(scores, vocabulary, cut, places), ties = before;
    u64 own = 0;
    for (u32 i = FirstOf(vocabulary, Thread()); i < FirstOf(vocabulary, Thread() + 1); i++)
      own += Kept(scores[i], cut, &ties, best, temperature, least);
    u64 total = Reduce<false>(own, partial);
    if (pass == 0 && row.topP > 0 && row.topP < 1) {
      u64 mass = (u64)((double)row.topP * (double)total);
      cut = Select(scores, vocabulary, best, temperature, least, k, mass < 1 ? 1 : mass, at);
      continue;
    }
    u64 target = (u64)(((unsigned __int128)Uniform53(row.seed, row.position) * total) >> 53), passed = 0;
    places[Thread()] = own;
    Barrier();
    for (u32 thread = 0; thread < Thread(); thread++) passed += places[thread];
    u64 found = ~0ul;
    if (passed <= target && target < passed + own) {
      ties = before;
      for (u32 i = FirstOf(vocabulary, Thread()); i < FirstOf(vocabulary, Thread() + 1); i++) {
        passed += Kept(scores[i], cut, &ties, best, temperature, least);
        if (passed <= target) continue;
        found = i;
        break;
      }
    }
    return (u32)Reduce<true>(found, partial);
  }
}

// The chosen token of a row, and what the log-probabilities are measured from.
DEVICE int Chosen(const Sampling& s, const RowSampling& row, const u32* counts, const float* logits, u32 best,
    Selection* selection, u64* places, u64* partial) {
  const Step& step = *s.step;
  const float* scores = logits;
  if (counts || row.biasLength > 0 || row.masked) {
    float* changed = s.scores + (u64)BlockX() * s.vocabulary;
    for (u32 i = Thread(); i < s.vocabulary; i += SampleThreads) changed[i] = logits[i];
    Barrier();
    Penalize(step, row, changed, counts, s.vocabulary);
    if (row.masked)
      for (u32 i = Thread(); i < s.vocabulary; i += SampleThreads)
        if (!(step.masks[row.maskStart + i / 32] >> (i % 32) & 1)) changed[i] = -Infinity();
    Barrier();
    scores = changed;
    best = (u32)Best(scores, s.vocabulary, 0, true, partial);
  }
  float most = scores[best];
  if (!(__builtin_fabsf(most) < Infinity())) return -1;
  return row.temperature > 0 ? (int)Draw(scores, s.vocabulary, row, most, selection, places, partial) : (int)best;
}

KERNEL(256) Sample(Sampling s) {
  SHARED static Selection selection;
  SHARED static u64 places[SampleThreads], partial[SampleThreads / WarpSize];
  const Step& step = *s.step;
  u32 index = s.first + BlockX();
  if (index >= step.sampleRows) return;
  const RowSampling row = step.sampling[index];
  const float* logits = s.logits + (u64)BlockX() * s.vocabulary;
  TokenValue* best = step.results + step.sampleRows + row.alternativesStart;
  u32* counts = 0;
  int counter = step.counters[index];
  if (counter != 0) {
    counts = s.counts + (u64)((counter < 0 ? -counter : counter) - 1) * s.vocabulary;
    Count(step, row, counts, counter < 0, s.vocabulary);
  }
  u64 first = Best(logits, s.vocabulary, 0, true, partial);
  float most = logits[(u32)first];
  u64 own = 0, wrong = 0;
  for (u32 i = Thread(); i < s.vocabulary; i += SampleThreads) {
    wrong |= logits[i] != logits[i] || logits[i] == Infinity();
    own += Weight(logits[i], most, 1, 0);
  }
  wrong = Reduce<false>(wrong, partial);
  float sum = (float)Reduce<false>(own, partial) / Unit, logSum = most + Log(sum);
  bool none = wrong || most == -Infinity();
  u64 rank = first;
  for (u32 i = 0; i < row.alternatives; i++) {
    if (i > 0 && !none && rank != ~0ul) rank = Best(logits, s.vocabulary, rank, false, partial);
    TokenValue next = {none || rank == ~0ul ? -1 : (int)rank, none ? FromBits(0x7fffffff) : -Infinity()};
    if (next.token >= 0) next.value = logits[next.token] - logSum;
    if (Thread() == 0) best[i] = next;
  }
  int token = row.targetPlusOne - 1;
  if (none) token = -1;
  else if (token < 0) token = Chosen(s, row, counts, logits, (u32)first, &selection, places, partial);
  if (Thread() > 0) return;
  step.results[index] = TokenValue{token, token < 0 ? FromBits(0x7fffffff) : logits[token] - logSum};
  if (step.sampledPlaces[index] >= 0) step.last[step.sampledPlaces[index]] = token;
}
