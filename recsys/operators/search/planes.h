// Products of rows of bits with a user's vector of small integers.
//
// A row's code has B bits a column, c = 2 u - (2^B - 1) for the number u of these bits, so that one bit says -1 or 1. It
// is stored in B planes of P bits, the lowest first; bit d % 8 of byte d / 8 is column d's. A plane's product with the
// user's numbers is read four columns at a time from tables of the 16 sums that there can be (as FAISS's fast scan does
// with products of other codes: Andre et al., "Cache locality is not enough", VLDB 2015).
//
// Legend: P columns of codes, a multiple of kColumns.

#pragma once

#include "scan.h"

namespace recsys {

constexpr int64_t kColumns = 64;
constexpr int kMostNumber = 31;           // of the user's numbers: four of them, and kBias, fit in 8 bits
constexpr int kBias = 4 * kMostNumber;    // is added to the sums in tables
constexpr int64_t kMostPlanes = 8;

// Tables of the sums, 16 of each four columns, [P / 4, 16]. A row's order is scale * (unit * product + norm).
struct PlaneQuery {
  const uint8_t* tables;
  float unit, norm;
};

struct Planes {
  const uint8_t* codes;  // [R, count, P / 8]
  int64_t count, P;
  int64_t row_bytes() const { return count * (P / 8); }
};

// order[i] = what row i is ordered by; the larger of that and what is there if `more`. products[i], too, is written.
using PlaneOrder = void (*)(const Planes& planes, const float* scales, const int64_t* rows, int64_t begin, int64_t count,
                            const PlaneQuery& query, bool more, int32_t* products, float* order);

namespace scans {

// What is no number can be anything.
__attribute__((always_inline)) static inline void order_of(const float* scales, const int64_t* rows, int64_t begin,
                                                           int64_t count, const PlaneQuery& query, bool more,
                                                           const int32_t* products, float* order) {
  constexpr float kAnything = std::numeric_limits<float>::infinity();
  const float unit = query.unit, norm = query.norm;
  if (rows == nullptr && !more) {
    for (int64_t i = 0; i < count; i++) {
      const float value = scales[begin + i] * (unit * float(products[i]) + norm);
      order[i] = value == value ? value : kAnything;
    }
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    float value = scales[row_at(rows, begin, i)] * (unit * float(products[i]) + norm);
    value = value == value ? value : kAnything;
    order[i] = more ? std::max(order[i], value) : value;
  }
}

// What kBias adds to a product.
inline int32_t all_bias(const Planes& planes) {
  return int32_t(((int64_t(1) << planes.count) - 1) * (planes.P / 4) * kBias);
}

inline void products_plain(const Planes& planes, const int64_t* rows, int64_t begin, int64_t count,
                           const uint8_t* tables, int32_t* out) {
  const int64_t plane_bytes = planes.P / 8;
  for (int64_t i = 0; i < count; i++) {
    const uint8_t* row = planes.codes + row_at(rows, begin, i) * planes.row_bytes();
    int32_t product = 0;
    for (int64_t b = 0; b < planes.count; b++) {
      int32_t sum = 0;
      for (int64_t j = 0; j < plane_bytes; j++) {
        const uint8_t byte = row[b * plane_bytes + j];
        sum += tables[32 * j + (byte & 15)] + tables[32 * j + 16 + (byte >> 4)];
      }
      product += sum << b;
    }
    out[i] = product - all_bias(planes);
  }
}

inline void order_plain(const Planes& planes, const float* scales, const int64_t* rows, int64_t begin, int64_t count,
                        const PlaneQuery& query, bool more, int32_t* products, float* order) {
  products_plain(planes, rows, begin, count, query.tables, products);
  order_of(scales, rows, begin, count, query, more, products, order);
}

#if defined(__x86_64__)

// From eight registers of rows, eight bytes each, to eight of which each has one byte of all rows: each round turns the
// bits of a byte's place, three of the register and those in it, by one.
WITH_AVX2 __attribute__((always_inline)) static inline void turn(__m256i (&of)[8]) {
  for (int round = 0; round < 4; round++) {
    __m256i turned[8];
    for (int i = 0; i < 4; i++) {
      turned[2 * i] = _mm256_unpacklo_epi8(of[i], of[i + 4]);
      turned[2 * i + 1] = _mm256_unpackhi_epi8(of[i], of[i + 4]);
    }
    for (int i = 0; i < 8; i++) of[i] = turned[i];
  }
}

WITH_AVX2 __attribute__((always_inline)) static inline __m128i two_words(const uint8_t* first, const uint8_t* second) {
  return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(first)),
                            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second)));
}

WITH_AVX2 __attribute__((always_inline)) static inline __m256i sums_of(const uint8_t* table, __m256i bits) {
  const __m128i sums = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(sums), bits);
}

// The products of one word of 32 rows: 16-bit sums, of rows 0 to 7, 8 to 15, 16 to 23 and 24 to 31.
WITH_AVX2 __attribute__((always_inline)) static inline void word_sums(__m256i (&of)[8], const uint8_t* table,
                                                                      __m128i (&sums)[4]) {
  turn(of);
  const __m256i nibble = _mm256_set1_epi8(15);
  // Of even rows with 256 times those of odd ones on top, and of odd rows.
  __m256i both = _mm256_setzero_si256(), odd = both;
  for (int j = 0; j < 8; j++, table += 32) {
    const __m256i low = sums_of(table, _mm256_and_si256(of[j], nibble));
    const __m256i high = sums_of(table + 16, _mm256_and_si256(_mm256_srli_epi16(of[j], 4), nibble));
    both = _mm256_add_epi16(both, _mm256_add_epi16(low, high));
    odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8)));
  }
  const __m256i even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
  const __m256i outer = _mm256_unpacklo_epi16(even, odd), inner = _mm256_unpackhi_epi16(even, odd);
  sums[0] = _mm256_castsi256_si128(outer);
  sums[1] = _mm256_castsi256_si128(inner);
  sums[2] = _mm256_extracti128_si256(outer, 1);
  sums[3] = _mm256_extracti128_si256(inner, 1);
}

// 32 rows at a time, of which the lower halves of registers have the first 16.
WITH_AVX2 inline void products_avx2(const Planes& planes, const int64_t* rows, int64_t begin, int64_t count,
                                    const uint8_t* tables, int32_t* out) {
  constexpr int64_t kRows = 32;
  const int64_t row_bytes = planes.row_bytes(), words = planes.P / kColumns;
  const __m256i bias = _mm256_set1_epi32(all_bias(planes));
  int64_t first = 0;
  if (rows == nullptr && row_bytes == 8) {  // one word a row, one after another
    for (; first + kRows <= count; first += kRows) {
      const __m128i* at = reinterpret_cast<const __m128i*>(planes.codes + 8 * (begin + first));
      __m256i of[8];
      for (int i = 0; i < 8; i++)
        of[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at + i)), _mm_loadu_si128(at + 8 + i), 1);
      __m128i sums[4];
      word_sums(of, tables, sums);
      for (int i = 0; i < 4; i++)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + first) + i,
                            _mm256_sub_epi32(_mm256_cvtepu16_epi32(sums[i]), bias));
    }
  }
  for (; first + kRows <= count; first += kRows) {
    const uint8_t* row[kRows];
    for (int64_t i = 0; i < kRows; i++) row[i] = planes.codes + row_at(rows, begin, first + i) * row_bytes;
    for (int64_t i = first + kRows; rows && i < std::min(first + 2 * kRows, count); i++)
      __builtin_prefetch(planes.codes + rows[i] * row_bytes);
    __m256i totals[4] = {};
    for (int64_t b = 0; b < planes.count; b++)
      for (int64_t word = 0; word < words; word++) {
        const int64_t at = 8 * (b * words + word);
        __m256i of[8];
        for (int i = 0; i < 8; i++) {
          const __m128i early = two_words(row[2 * i] + at, row[2 * i + 1] + at);
          const __m128i late = two_words(row[16 + 2 * i] + at, row[17 + 2 * i] + at);
          of[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(early), late, 1);
        }
        __m128i sums[4];
        word_sums(of, tables + 4 * kColumns * word, sums);
        for (int i = 0; i < 4; i++)
          totals[i] = _mm256_add_epi32(totals[i], _mm256_slli_epi32(_mm256_cvtepu16_epi32(sums[i]), int(b)));
      }
    for (int i = 0; i < 4; i++)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + first) + i, _mm256_sub_epi32(totals[i], bias));
  }
  products_plain(planes, rows ? rows + first : nullptr, begin + first, count - first, tables, out + first);
}

WITH_AVX2 inline void order_avx2(const Planes& planes, const float* scales, const int64_t* rows, int64_t begin,
                                 int64_t count, const PlaneQuery& query, bool more, int32_t* products, float* order) {
  products_avx2(planes, rows, begin, count, query.tables, products);
  order_of(scales, rows, begin, count, query, more, products, order);
}

#elif defined(__aarch64__)

// As of AVX2 (above): the same rounds.
__attribute__((always_inline)) static inline void turn(uint8x16_t (&of)[8]) {
  for (int round = 0; round < 4; round++) {
    uint8x16_t turned[8];
    for (int i = 0; i < 4; i++) {
      turned[2 * i] = vzip1q_u8(of[i], of[i + 4]);
      turned[2 * i + 1] = vzip2q_u8(of[i], of[i + 4]);
    }
    for (int i = 0; i < 8; i++) of[i] = turned[i];
  }
}

// 16 rows at a time.
inline void products_neon(const Planes& planes, const int64_t* rows, int64_t begin, int64_t count,
                          const uint8_t* tables, int32_t* out) {
  constexpr int64_t kRows = 16;
  const int64_t plane_bytes = planes.P / 8, row_bytes = planes.row_bytes(), words = planes.P / kColumns;
  const uint8x16_t nibble = vdupq_n_u8(15);
  const int32x4_t bias = vdupq_n_s32(all_bias(planes));
  int64_t first = 0;
  for (; first + kRows <= count; first += kRows) {
    const uint8_t* row[kRows];
    for (int64_t i = 0; i < kRows; i++) row[i] = planes.codes + row_at(rows, begin, first + i) * row_bytes;
    int32x4_t totals[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int64_t b = 0; b < planes.count; b++)
      for (int64_t word = 0; word < words; word++) {
        const int64_t at = b * plane_bytes + 8 * word;
        uint8x16_t of[8];
        for (int i = 0; i < 8; i++) of[i] = vcombine_u8(vld1_u8(row[2 * i] + at), vld1_u8(row[2 * i + 1] + at));
        turn(of);
        uint16x8_t low = vdupq_n_u16(0), high = low;
        for (int j = 0; j < 8; j++) {
          const uint8_t* table = tables + 4 * kColumns * word + 32 * j;
          const uint8x16_t first_sums = vqtbl1q_u8(vld1q_u8(table), vandq_u8(of[j], nibble));
          const uint8x16_t second_sums = vqtbl1q_u8(vld1q_u8(table + 16), vshrq_n_u8(of[j], 4));
          low = vaddw_u8(vaddw_u8(low, vget_low_u8(first_sums)), vget_low_u8(second_sums));
          high = vaddw_u8(vaddw_u8(high, vget_high_u8(first_sums)), vget_high_u8(second_sums));
        }
        const uint16x4_t sums[4] = {vget_low_u16(low), vget_high_u16(low), vget_low_u16(high), vget_high_u16(high)};
        const int32x4_t by_plane = vdupq_n_s32(int32_t(b));
        for (int i = 0; i < 4; i++)
          totals[i] = vaddq_s32(totals[i], vshlq_s32(vreinterpretq_s32_u32(vmovl_u16(sums[i])), by_plane));
      }
    for (int i = 0; i < 4; i++) vst1q_s32(out + first + 4 * i, vsubq_s32(totals[i], bias));
  }
  products_plain(planes, rows ? rows + first : nullptr, begin + first, count - first, tables, out + first);
}

inline void order_neon(const Planes& planes, const float* scales, const int64_t* rows, int64_t begin, int64_t count,
                       const PlaneQuery& query, bool more, int32_t* products, float* order) {
  products_neon(planes, rows, begin, count, query.tables, products);
  order_of(scales, rows, begin, count, query, more, products, order);
}

#endif

}  // namespace scans

// By the numbers of scan_of (scan.h). AVX-512 has the functions of AVX2: memory is slower than these are.
inline PlaneOrder plane_order_of(int number) {
#if defined(__x86_64__)
  if (number >= 1) return scans::order_avx2;
#elif defined(__aarch64__)
  if (number == 1) return scans::order_neon;
#endif
  return scans::order_plain;
}

}  // namespace recsys
