// What the kernels share: types, threads, and sums in a fixed order. clang compiles it without CUDA's headers.
#pragma once

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef float float4 __attribute__((ext_vector_type(4)));
typedef float float2 __attribute__((ext_vector_type(2)));

#define DEVICE __attribute__((device, always_inline)) static inline
#define SHARED __attribute__((shared))
#define KERNEL(threads) extern "C" __attribute__((global, launch_bounds(threads))) void

static const int WarpSize = 32;

DEVICE u32 Thread() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 Threads() { return __nvvm_read_ptx_sreg_ntid_x(); }
DEVICE u32 Lane() { return Thread() % WarpSize; }
DEVICE u32 Warp() { return Thread() / WarpSize; }
DEVICE u32 BlockX() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 BlockY() { return __nvvm_read_ptx_sreg_ctaid_y(); }
DEVICE u32 BlocksX() { return __nvvm_read_ptx_sreg_nctaid_x(); }
DEVICE void Barrier() { __nvvm_bar_sync(0); }

DEVICE float FromBits(u32 bits) { return __builtin_bit_cast(float, bits); }
DEVICE u32 ToBits(float x) { return __builtin_bit_cast(u32, x); }

// e^x by the hardware's 2^x: 2 ulp of error.
DEVICE float Exp(float x) { return __nvvm_ex2_approx_f(x * 1.44269504f); }

// The natural logarithm by the hardware's of 2: an error of 2^-22 near 1.
DEVICE float Log(float x) { return __nvvm_lg2_approx_f(x) * 0.693147182f; }

// The halves of fp16 and bfloat16, as their bits.
DEVICE float FromHalf(u16 bits) { return (float)__builtin_bit_cast(_Float16, bits); }
DEVICE u16 ToHalf(float x) { return __builtin_bit_cast(u16, (_Float16)x); }
DEVICE float FromBFloat(u16 bits) { return FromBits((u32)bits << 16); }
DEVICE u16 ToBFloat(float x) { // to nearest, ties to even; a NaN stays one
  u32 bits = ToBits(x);
  return x != x ? 0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE float ShuffleXor(float x, int mask) { return __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, mask, 31); }

DEVICE float Shuffle(float x, int lane) { return __nvvm_shfl_sync_idx_f32(0xffffffffu, x, lane, 31); }
DEVICE u32 Shuffle(u32 x, int lane) { return __nvvm_shfl_sync_idx_i32(0xffffffffu, x, lane, 31); }
DEVICE void WarpBarrier() { __nvvm_bar_warp_sync(0xffffffffu); }

// The sum over the lanes of a warp, the same in each: pairs 16 apart first.
DEVICE float WarpSum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += ShuffleXor(x, mask);
  return x;
}

DEVICE float WarpMax(float x) {
  for (int mask = 16; mask > 0; mask /= 2) {
    float other = ShuffleXor(x, mask);
    x = x > other ? x : other;
  }
  return x;
}

// The sum over a block of up to 1024 threads, the same in each: warps in ascending order. `partial` has 32 floats.
DEVICE float BlockSum(float x, float* partial) {
  x = WarpSum(x);
  if (Lane() == 0) partial[Warp()] = x;
  Barrier();
  float sum = 0;
  for (u32 warp = 0; warp < Threads() / WarpSize; warp++) sum += partial[warp];
  Barrier(); // or the next sum would overwrite what others still read
  return sum;
}

// By its series where it is small, else by e^2|x|: exact to 5 ulp, where tanh.approx has 11 bits.
DEVICE float Tanh(float x) {
  float size = __builtin_fabsf(x), square = x * x;
  float series = 62.0f / 2835;
  series = __builtin_fmaf(series, square, -17.0f / 315);
  series = __builtin_fmaf(series, square, 2.0f / 15);
  series = __builtin_fmaf(series, square, -1.0f / 3);
  float tanh = size > 20 ? 1 : 1 - 2 / (Exp(2 * size) + 1);
  return size < 0.25f ? __builtin_fmaf(x * square, series, x) : x < 0 ? -tanh : tanh;
}

// SiLU, or GELU in its tanh form: x (1 + tanh u) / 2 is x / (1 + e^-2u).
DEVICE float Activate(float x, bool gelu) {
  float u = gelu ? 2 * 0.7978845608f * (x + 0.044715f * x * x * x) : x;
  return x / (1 + Exp(-u));
}

// As RowSampling, and SampledToken, TokenLogprob and TokenBias, lie in memory.
struct RowSampling {
  float temperature;
  u32 topK;
  float topP, minP, repetition, presence, frequency;
  u64 seed;
  u32 position, targetPlusOne, alternatives, alternativesStart, historyStart, historyPrompt, historyLength, biasStart,
      biasLength;
  u8 masked;
  u32 maskStart;
};
struct TokenValue {
  int token;
  float value;
};

// What a step's kernels read that is another in each step: it lies at one address, so that a recorded graph finds it
// there. Rows beyond its counts are there because a graph was recorded for more of them; they compute nothing.
struct Step {
  const int* ids;           // [tokens]; -1 is what the row's place sampled last
  const int* places;        // by row, where an id is -1
  const int* positions;     // [tokens]
  const int* slots;         // [tokens]: block * block size + offset
  const int* sequences;     // [tokens]: whose block table
  const int* tables;        // blocks of each sequence in order, one table after the other
  const int* tableStarts;   // [sequences + 1]
  const int* sampledRows;   // [sampleRows]
  const int* sampledPlaces; // [sampleRows]: whose last token this is, -1 for none
  const int* counters;      // [sampleRows]: 0 for none; counts of tokens i as i + 1, or as -(i + 1) if they begin anew
  const RowSampling* sampling;
  const int* history;
  const TokenValue* biases;
  const u32* masks;
  const float* rotations[4]; // [tokens, 2, pairs] by table: cosines, sines
  int* last;                 // by place
  TokenValue* results;       // [sampleRows], then the alternatives
  u32 tokens, sampleRows;
};
