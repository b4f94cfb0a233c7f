// y = W x for weights of any format: a warp computes one row of W for a few rows of x. What a row of x adds up, and in
// which order, depends on the columns alone: each lane adds its columns in ascending order, and the lanes' sums are
// added in pairs. So a row has the same bits alone and in any batch.
#include "native.cuh"

static const int MatMulWarps = 8; // rows of W a block
static const int RowTile = 4;     // rows of x a warp keeps sums for

// What a product takes. W has one plane for its integers or floats, and one for scales: of each group of columns what
// to multiply with and what to add then. A normalized row is x * scale * norm: norm goes to the weights, where it is
// multiplied once for all rows, and scale to the sum.
struct Product {
  const float* x;       // [tokens, columns]
  const float* scales;  // [tokens], or null
  const float* norm;    // [columns], with scales
  const u8* weights;    // [rows, columns]
  const float2* groups; // [rows, columns / group]
  const float* bias;    // [rows], or null
  float* y;             // [tokens, stride]
  u32 tokens, rows, columns, stride;
  u32 ending; // of MatMul: 1 adds to y. Of MatMulGate: 1 is GELU.
};

// Four-bit integers: of 32 columns 16 bytes, the first 16 columns in their lower halves. Scales for 32 columns.
struct Int4 {
  static const int Columns = 4;
  DEVICE void Load(const Product& p, u32 row, u32 column, float* w) {
    u64 group = ((u64)row * p.columns + column) / 32;
    u32 within = column % 32, word = *(const u32*)(p.weights + group * 16 + within % 16) >> (within < 16 ? 0 : 4);
    float2 scale = p.groups[group];
    for (int i = 0; i < 4; i++) w[i] = __builtin_fmaf((float)(word >> (8 * i) & 15), scale.x, scale.y);
  }
};

// Signed bytes, with scales for 32 or 16 columns.
template <int Group> struct Int8 {
  static const int Columns = 4;
  DEVICE void Load(const Product& p, u32 row, u32 column, float* w) {
    u64 at = (u64)row * p.columns + column;
    u32 word = *(const u32*)(p.weights + at);
    float2 scale = p.groups[at / Group];
    for (int i = 0; i < 4; i++) w[i] = __builtin_fmaf((float)(s8)(word >> (8 * i)), scale.x, scale.y);
  }
};

// Floats. A lane takes one column at a time: rows need be a multiple of nothing.
template <typename T, int Kind> struct Floats {
  static const int Columns = 1;
  DEVICE void Load(const Product& p, u32 row, u32 column, float* w) {
    T bits = ((const T*)p.weights)[(u64)row * p.columns + column];
    w[0] = Kind == 0 ? FromBits((u32)bits) : Kind == 1 ? FromHalf((u16)bits) : FromBFloat((u16)bits);
  }
};

template <int Columns> DEVICE void LoadFloats(const float* at, float* values) {
  if (Columns == 4) {
    float4 all = *(const float4*)at;
    for (int i = 0; i < 4; i++) values[i] = all[i];
  } else values[0] = *at;
}

// The products of one row of W with the rows of x from `first` on, of which there are `count`; in every lane.
template <typename W> DEVICE void Dot(const Product& p, u32 row, u32 first, u32 count, float* sums) {
#pragma unroll
  for (int t = 0; t < RowTile; t++) sums[t] = 0;
  const float* start = p.x + (u64)first * p.columns;
#pragma clang loop unroll(disable)
  for (u32 column = W::Columns * Lane(); column < p.columns; column += W::Columns * WarpSize) {
    float w[W::Columns], x[W::Columns];
    W::Load(p, row, column, w);
    if (p.norm) {
      LoadFloats<W::Columns>(p.norm + column, x);
      for (int i = 0; i < W::Columns; i++) w[i] *= x[i];
    }
#pragma unroll
    for (int t = 0; t < RowTile; t++) {
      if (t >= count) break;
      LoadFloats<W::Columns>(start + (u64)t * p.columns + column, x);
      for (int i = 0; i < W::Columns; i++) sums[t] = __builtin_fmaf(w[i], x[i], sums[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < RowTile; t++) {
    sums[t] = WarpSum(sums[t]);
    if (p.scales && t < count) sums[t] *= p.scales[first + t];
  }
}

// Lane t has the sum of row t: what each lane writes.
DEVICE float Own(const float* sums) {
  float own = sums[0];
#pragma unroll
  for (int t = 1; t < RowTile; t++) own = Lane() == t ? sums[t] : own;
  return own;
}

template <typename W> DEVICE void MatMul(const Product& p) {
  u32 row = BlockX() * MatMulWarps + Warp(), first = BlockY() * RowTile;
  if (row >= p.rows) return;
  u32 count = p.tokens - first < RowTile ? p.tokens - first : RowTile;
  float sums[RowTile];
  Dot<W>(p, row, first, count, sums);
  if (Lane() >= count) return;
  float sum = Own(sums) + (p.bias ? p.bias[row] : 0);
  float* y = p.y + (u64)(first + Lane()) * p.stride + row;
  *y = p.ending ? *y + sum : sum;
}

// y[t][i] = activation(g[i]) * g[n + i], n being half of the rows.
template <typename W> DEVICE void MatMulGate(const Product& p) {
  u32 half = p.rows / 2, row = BlockX() * MatMulWarps + Warp(), first = BlockY() * RowTile;
  if (row >= half) return;
  u32 count = p.tokens - first < RowTile ? p.tokens - first : RowTile;
  float gates[RowTile], ups[RowTile];
  Dot<W>(p, row, first, count, gates);
  Dot<W>(p, half + row, first, count, ups);
  if (Lane() >= count) return;
  float gate = Own(gates) + (p.bias ? p.bias[row] : 0), up = Own(ups) + (p.bias ? p.bias[half + row] : 0);
  p.y[(u64)(first + Lane()) * p.stride + row] = Activate(gate, p.ending) * up;
}

// y[t] = W[ids[t]] * scale: rows of W as they are.
template <typename W> DEVICE void Embed(const Product& p, const Step* step, float scale) {
  if (BlockX() >= step->tokens) return;
  int id = step->ids[BlockX()];
  if (id < 0) id = step->last[step->places[BlockX()]];
  if (id < 0) id = 0; // a row that found no token: its sequence has ended
  for (u32 column = W::Columns * Thread(); column < p.columns; column += W::Columns * Threads()) {
    float w[W::Columns];
    W::Load(p, id, column, w);
    for (int i = 0; i < W::Columns; i++) p.y[(u64)BlockX() * p.stride + column + i] = w[i] * scale;
  }
}

#define PRODUCTS(name, W)                                                                             \
  KERNEL(256) MatMul##name(Product p) { MatMul<W>(p); }                                               \
  KERNEL(256) MatMulGate##name(Product p) { MatMulGate<W>(p); }                                       \
  KERNEL(256) Embed##name(Product p, const Step* step, float scale) { Embed<W>(p, step, scale); }

typedef Int8<32> Int8By32;
typedef Int8<16> Int8By16;
typedef Floats<u32, 0> F32;
typedef Floats<u16, 1> F16;
typedef Floats<u16, 2> BF16;

PRODUCTS(Int4, Int4)
PRODUCTS(Int8By32, Int8By32)
PRODUCTS(Int8By16, Int8By16)
PRODUCTS(F32, F32)
PRODUCTS(F16, F16)
PRODUCTS(BF16, BF16)
