// Paged attention: y[t] = softmax(cap(q[t] K^T * scale)) V over the blocks of a row's sequence. A row's context is cut
// at fixed multiples of 256 positions, and each part into 32 positions that rescale the running sums once (Milakov and
// Gimelshein 2018). A warp computes one part of one row's head; the parts are added in ascending order. What a row adds
// up, and in which order, depends on its own position alone.
#include "native.cuh"

static const int Part = 256;      // positions whose sums are one partial result
static const int AttendWarps = 4; // parts a block
static const int MostElements = 8; // of a head in each lane: head sizes to 256

// Of a layer, and of a step.
struct Attention {
  const Step* step;
  float* qkv;             // [tokens, (heads + 2 kvHeads) * size]; rotated by Store
  const float* queryNorm; // [size] or null
  const float* keyNorm;   // [size] or null
  u8* keys;               // [blocks, kvHeads, blockSize, row bytes]
  u8* values;             // likewise
  float* partials;        // [rows here, heads, parts, size + 2]: sums of values, greatest logit, sum of weights
  float* y;               // [tokens, heads * size]
  u32 heads, kvHeads, size, rope, pairs, interleaved, blockSize, parts, window;
  u32 first; // row of AttendPart and Combine: partials have room for some rows at a time
  float scale, softCap, normEpsilon;
};

// How a head's elements lie in the cache. Q8_0 has signed bytes, then a bfloat16 scale for each 32 of them.
struct F32 {
  DEVICE u32 Bytes(u32 size) { return 4 * size; }
  DEVICE float Load(const u8* row, u32 size, u32 i) { return ((const float*)row)[i]; }
  DEVICE void Store(u8* row, u32 size, u32 i, float x) {
    if (i < size) ((float*)row)[i] = x;
  }
};
struct F16 {
  DEVICE u32 Bytes(u32 size) { return 2 * size; }
  DEVICE float Load(const u8* row, u32 size, u32 i) { return FromHalf(((const u16*)row)[i]); }
  DEVICE void Store(u8* row, u32 size, u32 i, float x) {
    if (i < size) ((u16*)row)[i] = ToHalf(x);
  }
};
struct BF16 {
  DEVICE u32 Bytes(u32 size) { return 2 * size; }
  DEVICE float Load(const u8* row, u32 size, u32 i) { return FromBFloat(((const u16*)row)[i]); }
  DEVICE void Store(u8* row, u32 size, u32 i, float x) {
    if (i < size) ((u16*)row)[i] = ToBFloat(x);
  }
};
struct Q8_0 {
  DEVICE u32 Bytes(u32 size) { return (size + 31) / 32 * 34; }
  DEVICE const u16* Scales(const u8* row, u32 size) { return (const u16*)(row + (size + 31) / 32 * 32); }
  DEVICE float Load(const u8* row, u32 size, u32 i) {
    return (float)((const s8*)row)[i] * FromBFloat(Scales(row, size)[i / 32]);
  }
  // The lanes have the 32 elements that share a scale; those past the end have 0. The scale is rounded up, so that no
  // integer is above 127; one that is not finite makes all 32 NaN.
  DEVICE void Store(u8* row, u32 size, u32 i, float x) {
    u32 bits = ToBits(WarpMax(x != x ? __builtin_inff() : __builtin_fabsf(x)) / 127);
    u16 scale = bits >= 0x7f800000 ? 0x7fc0 : (u16)((bits + 0xffff) >> 16);
    float step = FromBFloat(scale);
    ((s8*)row)[i] = step > 0 ? (s8)__builtin_rintf(x / step) : 0;
    if (Lane() == 0) ((u16*)Scales(row, size))[i / 32] = scale;
  }
};

#if __CUDA_ARCH__ >= 890
// E4M3 by the hardware's conversions, of two at once: the second is unused. Beyond 448 it is 448.
struct FP8 {
  DEVICE u32 Bytes(u32 size) { return size; }
  DEVICE float Load(const u8* row, u32 size, u32 i) {
    u32 halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((u16)row[i]));
    return FromHalf((u16)halves);
  }
  DEVICE void Store(u8* row, u32 size, u32 i, float x) {
    u16 pair; // the first operand is the upper byte
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    if (i < size) row[i] = (u8)pair;
  }
};
#endif

// Where a slot's key or value of a head lies.
template <typename Type> DEVICE u64 RowOf(const Attention& a, u32 slot, u32 head) {
  u64 block = slot / a.blockSize, offset = slot % a.blockSize;
  return ((block * a.kvHeads + head) * a.blockSize + offset) * Type::Bytes(a.size);
}

// Normalizes and rotates a token's head, a warp each; keys and values go to the cache, queries stay where they are.
template <typename Type> DEVICE void StoreHead(const Attention& a) {
  SHARED static float heads[AttendWarps][256];
  u32 head = BlockY() * AttendWarps + Warp(), all = a.heads + 2 * a.kvHeads, token = BlockX();
  if (head >= all || token >= a.step->tokens) return;
  bool isQuery = head < a.heads, isValue = head >= a.heads + a.kvHeads;
  float* x = a.qkv + ((u64)token * all + head) * a.size;
  float* own = heads[Warp()];
  const float* norm = isQuery ? a.queryNorm : isValue ? 0 : a.keyNorm;
  float sum = 0;
  for (u32 i = Lane(); i < a.size; i += WarpSize) {
    own[i] = x[i];
    sum = __builtin_fmaf(x[i], x[i], sum);
  }
  if (norm) {
    float scale = 1 / __builtin_sqrtf(WarpSum(sum) / a.size + a.normEpsilon);
    for (u32 i = Lane(); i < a.size; i += WarpSize) own[i] = own[i] * scale * norm[i];
  }
  WarpBarrier();
  if (!isValue) {
    const float* cosines = a.step->rotations[a.rope] + (u64)token * 2 * a.pairs;
    for (u32 i = Lane(); i < a.pairs; i += WarpSize) {
      u32 first = a.interleaved ? 2 * i : i, second = a.interleaved ? 2 * i + 1 : i + a.pairs;
      float c = cosines[i], s = cosines[a.pairs + i], u = own[first], v = own[second];
      own[first] = u * c - v * s;
      own[second] = v * c + u * s;
    }
    WarpBarrier();
  }
  u32 kvHead = isValue ? head - a.heads - a.kvHeads : head - a.heads;
  u8* row = isQuery ? 0 : (isValue ? a.values : a.keys) + RowOf<Type>(a, a.step->slots[token], kvHead);
  for (u32 i = Lane(); i < (a.size + 31) / 32 * 32; i += WarpSize) {
    float value = i < a.size ? own[i] : 0;
    if (!isQuery) Type::Store(row, a.size, i, value);
    else if (i < a.size) x[i] = value;
  }
}

// One part of one row's head.
template <typename Type> DEVICE void AttendPart(const Attention& a) {
  SHARED static float queries[AttendWarps][256];
  u32 token = a.first + BlockX(), head = BlockY(), part = __nvvm_read_ptx_sreg_ctaid_z() * AttendWarps + Warp();
  if (token >= a.step->tokens) return;
  u32 end = a.step->positions[token] + 1, begin = a.window && end > a.window ? end - a.window : 0;
  u32 from = part * Part, to = from + Part < end ? from + Part : end;
  if (part >= a.parts || from >= end || to <= begin) return;
  const float* q = a.qkv + ((u64)token * (a.heads + 2 * a.kvHeads) + head) * a.size;
  float* query = queries[Warp()];
  for (u32 i = Lane(); i < a.size; i += WarpSize) query[i] = q[i] * a.scale;
  WarpBarrier();
  const int* table = a.step->tables + a.step->tableStarts[a.step->sequences[token]];
  u32 kvHead = head / (a.heads / a.kvHeads);
  float sums[MostElements] = {}, most = -__builtin_inff(), weights = 0;
  for (u32 first = from; first < to; first += WarpSize) {
    if (first + WarpSize <= begin) continue;
    u32 position = first + Lane();
    bool sees = position >= begin && position < to;
    u32 slot = sees ? table[position / a.blockSize] * a.blockSize + position % a.blockSize : 0;
    float logit = -__builtin_inff();
    if (sees) {
      const u8* key = a.keys + RowOf<Type>(a, slot, kvHead);
      float dot = 0;
      for (u32 i = 0; i < a.size; i++) dot = __builtin_fmaf(query[i], Type::Load(key, a.size, i), dot);
      logit = a.softCap > 0 ? a.softCap * Tanh(dot / a.softCap) : dot;
    }
    WarpBarrier();
    float greatest = WarpMax(logit);
    if (greatest == -__builtin_inff()) continue;
    greatest = greatest > most ? greatest : most;
    float rescale = Exp(most - greatest), weight = sees ? Exp(logit - greatest) : 0;
    weights = weights * rescale + WarpSum(weight);
    most = greatest;
#pragma unroll
    for (int e = 0; e < MostElements; e++) sums[e] *= rescale;
    for (u32 lane = 0; lane < WarpSize; lane++) {
      float w = Shuffle(weight, lane);
      u32 other = Shuffle(slot, lane);
      if (first + lane < begin || first + lane >= to) continue;
      const u8* value = a.values + RowOf<Type>(a, other, kvHead);
#pragma unroll
      for (int e = 0; e < MostElements; e++) {
        u32 i = e * WarpSize + Lane();
        if (i < a.size) sums[e] = __builtin_fmaf(w, Type::Load(value, a.size, i), sums[e]);
      }
    }
  }
  float* partial = a.partials + (((u64)BlockX() * a.heads + head) * a.parts + part) * (a.size + 2);
#pragma unroll
  for (int e = 0; e < MostElements; e++)
    if (e * WarpSize + Lane() < a.size) partial[e * WarpSize + Lane()] = sums[e];
  if (Lane() == 0) {
    partial[a.size] = most;
    partial[a.size + 1] = weights;
  }
}

// Adds a row's parts, a block for each row and head.
KERNEL(256) Combine(Attention a) {
  u32 token = a.first + BlockX(), head = BlockY(), i = Thread();
  if (i >= a.size || token >= a.step->tokens) return;
  u32 end = a.step->positions[token] + 1, begin = a.window && end > a.window ? end - a.window : 0;
  float sum = 0, most = -__builtin_inff(), weights = 0;
  for (u32 part = begin / Part; part * Part < end; part++) {
    const float* partial = a.partials + (((u64)BlockX() * a.heads + head) * a.parts + part) * (a.size + 2);
    float other = partial[a.size], greatest = other > most ? other : most;
    float mine = Exp(most - greatest), its = Exp(other - greatest);
    sum = sum * mine + partial[i] * its;
    weights = weights * mine + partial[a.size + 1] * its;
    most = greatest;
  }
  a.y[((u64)token * a.heads + head) * a.size + i] = sum / weights;
}

#define CACHE(Type)                                                        \
  KERNEL(128) Store##Type(Attention a) { StoreHead<Type>(a); }             \
  KERNEL(128) Attend##Type(Attention a) { AttendPart<Type>(a); }

CACHE(F32)
CACHE(F16)
CACHE(BF16)
CACHE(Q8_0)
#if __CUDA_ARCH__ >= 890
CACHE(FP8)
#endif

// Copies blocks of one layer's keys and values, in order: a later copy may read what an earlier one wrote, so one block
// of threads does all of a place within the cache's block.
KERNEL(256) CopyBlocks(u8* keys, u8* values, u64 blockBytes, const int* copies, u32 count) {
  u64 at = ((u64)BlockX() * Threads() + Thread()) * 2; // head rows of Q8_0 have an odd number of words
  if (at >= blockBytes) return;
  u8* cache = BlockY() == 0 ? keys : values;
  for (u32 i = 0; i < count; i++)
    *(u16*)(cache + copies[2 * i + 1] * blockBytes + at) = *(const u16*)(cache + copies[2 * i] * blockBytes + at);
}
