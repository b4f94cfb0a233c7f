// One row a block, or one element a thread: what has no product in it.
#include "native.cuh"

static const int RowThreads = 256;

// y[r] = x[rows[r]] / sqrt(mean(x^2) + epsilon) * weight; rows null means r itself. y may be x then.
KERNEL(256) RmsNorm(const float* x, const int* rows, const float* weight, float epsilon, float* y, u32 columns) {
  SHARED static float partial[32];
  u64 row = rows ? rows[BlockX()] : BlockX();
  x += row * columns;
  y += (u64)BlockX() * columns;
  float sum = 0;
  for (u32 i = Thread(); i < columns; i += RowThreads) sum = __builtin_fmaf(x[i], x[i], sum);
  float scale = 1 / __builtin_sqrtf(BlockSum(sum, partial) / columns + epsilon);
  for (u32 i = Thread(); i < columns; i += RowThreads) y[i] = x[i] * scale * weight[i];
}

// scales[r] = 1 / sqrt(mean(x[r]^2) + epsilon), for products that normalize what they read.
KERNEL(256) RmsScale(const float* x, float epsilon, float* scales, u32 columns) {
  SHARED static float partial[32];
  x += (u64)BlockX() * columns;
  float sum = 0;
  for (u32 i = Thread(); i < columns; i += RowThreads) sum = __builtin_fmaf(x[i], x[i], sum);
  sum = BlockSum(sum, partial);
  if (Thread() == 0) scales[BlockX()] = 1 / __builtin_sqrtf(sum / columns + epsilon);
}

// x += delta.
KERNEL(256) Add(float* x, const float* delta, u64 count) {
  u64 i = (u64)BlockX() * Threads() + Thread();
  if (i < count) x[i] += delta[i];
}

// x = cap * tanh(x / cap).
KERNEL(256) SoftCap(float* x, float cap, u64 count) {
  u64 i = (u64)BlockX() * Threads() + Thread();
  if (i < count) x[i] = cap * Tanh(x[i] / cap);
}

// y[r] = x[sampledRows[first + r]].
KERNEL(256) Gather(const Step* step, u32 first, const float* x, float* y, u32 columns) {
  if (first + BlockX() >= step->sampleRows) return;
  x += (u64)step->sampledRows[first + BlockX()] * columns;
  y += (u64)BlockX() * columns;
  for (u32 i = Thread(); i < columns; i += RowThreads) y[i] = x[i];
}

// y[t][i] = activation(g[t][i]) * g[t][n + i], for gates whose parts have different formats.
KERNEL(256) Gate(const float* gates, float* y, u32 columns, u32 gelu) {
  gates += (u64)BlockX() * 2 * columns;
  y += (u64)BlockX() * columns;
  for (u32 i = Thread(); i < columns; i += RowThreads) y[i] = Activate(gates[i], gelu) * gates[columns + i];
}
