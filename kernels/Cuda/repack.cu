// From a file's blocks to the layouts of matmul.cu, bit for bit as CudaRepack.cs defines it: a block of threads takes a
// row, first its integers, four to a word, then its groups' scales.
#include "native.cuh"

static const int RowThreads = 128;

// Rows as the file has them, and where they go.
struct Repacking {
  const u8* rows;  // [rows, blocks of the format]; of floats [rows, columns]
  u8* weights;     // [rows, columns]
  float2* groups;  // [rows, columns / group]
  u32* refused;    // the complement of the least row that has what is not finite; 0 while there is none
  u32 columns, first; // `first` is the first row's number
};

// A group's scale and minimum: halves, and what they are multiplied with.
struct Scales {
  u16 scale, min;
  int scaleFactor, minFactor;
};

// Blocks have an even number of bytes, 18 or 34 say, and their fields begin at even ones: halves are aligned in every
// format, words are not.
DEVICE u16 Half(const u8* at) { return *(const u16*)at; }
DEVICE u32 Word(const u8* at) { return Half(at) | (u32)Half(at + 2) << 16; }

// Four fields of some bits, one of each byte.
DEVICE u32 Fields(const u8* at, u32 shift, u32 mask) { return Word(at) >> shift & mask * 0x01010101; }

// Integers k to k + 3 of 32: the first 16 are the lower halves of 16 bytes, the others the upper ones.
DEVICE u32 Nibbles(const u8* at, u32 k) { return Fields(at + k % 16, k < 16 ? 0 : 4, 15); }

// Bits k to k + 3 of a word, each as the fifth of a byte.
DEVICE u32 FifthBits(u32 word, u32 k) { return ((word >> k & 15) * 0x00204081 & 0x01010101) << 4; }

// Bytes less an offset of at most 64, without borrowing from each other; they are at most 127.
DEVICE u32 Minus(u32 bytes, u32 offset) {
  return offset == 0 ? bytes : (bytes | 0x80808080) - offset * 0x01010101 ^ 0x80808080;
}

// The levels of IQ4_NL for four bytes of four bits. A permutation takes its indices as nibbles side by side.
DEVICE u32 Levels(u32 bytes) {
  u32 pairs = (bytes | bytes >> 4) & 0x00ff00ff, indices = (pairs | pairs >> 8) & 0x7777;
  u32 lower = __nvvm_prmt(0xbfad9881, 0xf6eaddcf, indices), upper = __nvvm_prmt(0x26190d01, 0x71594535, indices);
  u32 isUpper = __nvvm_prmt(bytes << 4, 0, 0xba98); // of each byte its sign, eight times
  return (lower & ~isUpper) | (upper & isUpper);
}

// A format has blocks of so many columns and bytes; Four is the integers of four columns, a byte each, and ScalesOf the
// scales of a group of columns.
template <int Columns_, int Bytes_, int Group_, int Offset_, bool Nibbles_> struct Format {
  static const int Columns = Columns_, Bytes = Bytes_, Group = Group_, Offset = Offset_;
  static const bool IsInt4 = Nibbles_;
};

struct Q4_0 : Format<32, 18, 32, 8, true> {
  DEVICE u32 Four(const u8* b, u32 k) { return Nibbles(b + 2, k); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), 0, 1, 1}; }
};

struct Q4_1 : Format<32, 20, 32, 0, true> {
  DEVICE u32 Four(const u8* b, u32 k) { return Nibbles(b + 4, k); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), Half(b + 2), 1, 1}; }
};

struct Q5_0 : Format<32, 22, 32, 16, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Nibbles(b + 6, k) | FifthBits(Word(b + 2), k); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), 0, 1, 1}; }
};

struct Q5_1 : Format<32, 24, 32, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Nibbles(b + 8, k) | FifthBits(Word(b + 4), k); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), Half(b + 2), 1, 1}; }
};

struct Q8_0 : Format<32, 34, 32, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Word(b + 2 + k); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), 0, 1, 1}; }
};

struct IQ4_NL : Format<32, 18, 32, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Levels(Nibbles(b + 2, k)); }
  DEVICE Scales ScalesOf(const u8* b, u32) { return {Half(b), 0, 1, 1}; }
};

struct IQ4_XS : Format<256, 136, 32, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Levels(Nibbles(b + 8 + k / 32 * 16, k % 32)); }
  DEVICE Scales ScalesOf(const u8* b, u32 group) {
    int low = b[4 + group / 2] >> group % 2 * 4 & 15, high = Half(b + 2) >> 2 * group & 3;
    return {Half(b), 0, (low | high << 4) - 32, 1};
  }
};

// Of 256 columns each half has 32 bytes with two bits for every 32 columns.
DEVICE u32 Pairs(const u8* at, u32 k) { return Fields(at + k / 128 * 32 + k % 32, k % 128 / 32 * 2, 3); }

// Of 256 columns 32 bytes have a bit for every 32 columns.
DEVICE u32 Bits(const u8* at, u32 k) { return Fields(at + k % 32, k / 32, 1); }

struct Q2_K : Format<256, 84, 16, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Pairs(b + 16, k); }
  DEVICE Scales ScalesOf(const u8* b, u32 group) {
    return {Half(b + 80), (u16)(Half(b + 82) ^ 0x8000), b[group] & 15, b[group] >> 4};
  }
};

struct Q3_K : Format<256, 110, 16, 4, false> {
  DEVICE u32 Four(const u8* b, u32 k) { return Pairs(b + 32, k) | Bits(b, k) << 2; }
  DEVICE Scales ScalesOf(const u8* b, u32 group) {
    int low = b[96 + group % 8] >> group / 8 * 4 & 15, high = b[104 + group % 4] >> group / 4 * 2 & 3;
    return {Half(b + 108), 0, (low | high << 4) - 32, 1};
  }
};

// The scales and minimums of Q4_K and Q5_K, six bits each of twelve bytes. A minimum is subtracted: its sign turns.
DEVICE Scales SixBits(const u8* b, u32 group) {
  const u8* at = b + 4 + group;
  int scale = group < 4 ? at[0] & 63 : (at[4] & 15) | at[-4] >> 6 << 4;
  int min = group < 4 ? at[4] & 63 : at[4] >> 4 | at[0] >> 6 << 4;
  return {Half(b), (u16)(Half(b + 2) ^ 0x8000), scale, min};
}

struct Q4_K : Format<256, 144, 32, 0, true> {
  DEVICE u32 Four(const u8* b, u32 k) { return Fields(b + 16 + k / 64 * 32 + k % 32, k / 32 % 2 * 4, 15); }
  DEVICE Scales ScalesOf(const u8* b, u32 group) { return SixBits(b, group); }
};

struct Q5_K : Format<256, 176, 32, 0, false> {
  DEVICE u32 Four(const u8* b, u32 k) {
    return Fields(b + 48 + k / 64 * 32 + k % 32, k / 32 % 2 * 4, 15) | Bits(b + 16, k) << 4;
  }
  DEVICE Scales ScalesOf(const u8* b, u32 group) { return SixBits(b, group); }
};

struct Q6_K : Format<256, 210, 16, 32, false> {
  DEVICE u32 Four(const u8* b, u32 k) {
    return Fields(b + k / 128 * 64 + k % 64, k % 128 / 64 * 4, 15) | Pairs(b + 128, k) << 4;
  }
  DEVICE Scales ScalesOf(const u8* b, u32 group) { return {Half(b + 208), 0, (s8)b[192 + group], 1}; }
};

DEVICE bool IsFinite(u16 half) { return (half & 0x7c00) != 0x7c00; }

DEVICE void Refuse(const Repacking& p) { __nvvm_atom_max_gen_ui(p.refused, ~(p.first + BlockX())); }

template <typename F> DEVICE void Repack(const Repacking& p) {
  const u8* row = p.rows + (u64)BlockX() * (p.columns / F::Columns) * F::Bytes;
  u32 count = p.columns / (F::IsInt4 ? 8 : 4);
  u32* words = (u32*)p.weights + (u64)BlockX() * count;
  for (u32 i = Thread(); i < count; i += RowThreads) {
    u32 column = F::IsInt4 ? i / 4 * 32 + i % 4 * 4 : i * 4, k = column % F::Columns;
    const u8* block = row + column / F::Columns * F::Bytes;
    words[i] = F::IsInt4 ? F::Four(block, k) | F::Four(block, k + 16) << 4 : Minus(F::Four(block, k), F::Offset);
  }
  count = p.columns / F::Group;
  float2* groups = p.groups + (u64)BlockX() * count;
  for (u32 i = Thread(); i < count; i += RowThreads) {
    const int each = F::Columns / F::Group;
    Scales s = F::ScalesOf(row + i / each * F::Bytes, i % each);
    float scale = FromHalf(s.scale) * s.scaleFactor, min = FromHalf(s.min) * s.minFactor;
    groups[i] = {scale, F::IsInt4 ? min - scale * F::Offset : min};
    if (!IsFinite(s.scale) || !IsFinite(s.min)) Refuse(p);
  }
}

// Floats are where they belong already.
template <typename T> DEVICE void CheckFinite(const Repacking& p, T exponent) {
  const T* row = (const T*)p.rows + (u64)BlockX() * p.columns;
  bool isFinite = true;
  for (u32 i = Thread(); i < p.columns; i += RowThreads) isFinite &= (row[i] & exponent) != exponent;
  if (!isFinite) Refuse(p);
}

KERNEL(128) CheckF32(Repacking p) { CheckFinite<u32>(p, 0x7f800000); }
KERNEL(128) CheckF16(Repacking p) { CheckFinite<u16>(p, 0x7c00); }
KERNEL(128) CheckBF16(Repacking p) { CheckFinite<u16>(p, 0x7f80); }

#define REPACK(F) KERNEL(128) Repack##F(Repacking p) { Repack<F>(p); }

REPACK(Q4_0)
REPACK(Q4_1)
REPACK(Q5_0)
REPACK(Q5_1)
REPACK(Q8_0)
REPACK(Q2_K)
REPACK(Q3_K)
REPACK(Q4_K)
REPACK(Q5_K)
REPACK(Q6_K)
REPACK(IQ4_NL)
REPACK(IQ4_XS)
