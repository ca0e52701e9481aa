// Scans of an item table: products of 8-bit codes, or of float32 rows, with a user's vector.
//
// One set of functions for each kind of processor; all give the same integers. `products` has 16-bit numbers for the
// user's vector, so that its rounding costs next to nothing, and the codes' 8 bits are what memory is read for.
//
// Legend: D columns, P columns of codes, a multiple of kTogether of which those beyond D are zeros.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace recsys {

constexpr int64_t kTogether = 16;

// The row's number, of a list or one after another.
inline int64_t row_at(const int64_t* rows, int64_t begin, int64_t i) { return rows ? rows[i] : begin + i; }

// A vector of the user as 16-bit numbers, and what bounds a row's product with it: the product is
// scale * (unit * integers +- spread) +- error * norm.
struct Query {
  const int16_t* numbers;
  float unit, spread, norm;
};

struct Scan {
  // out[i] = sum of codes[row i] * query, and upper[i] = the most that the row's product can be; the larger of that and
  // what is there if `more`.
  void (*bounds)(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows, int64_t begin, int64_t count,
                 const Query& query, bool more, int32_t* out, float* upper);
  float (*dot)(const float* a, const float* b, int64_t D);
  // Tests if any of up to kGroup numbers is no less.
  bool (*any_reach)(const float* numbers, int64_t count, float least);
};

constexpr int64_t kGroup = 32;

namespace scans {

#define ALWAYS __attribute__((always_inline)) static inline

// scales holds a row's scale and error. What is no number can be anything.
ALWAYS void most(const float* scales, const int64_t* rows, int64_t begin, int64_t count, const Query& query, bool more,
                 const int32_t* out, float* upper) {
  constexpr float kAnything = std::numeric_limits<float>::infinity();
  const float unit = query.unit, spread = query.spread, norm = query.norm;
  if (rows == nullptr && !more) {
    const float* of = scales + 2 * begin;
    for (int64_t i = 0; i < count; i++) {
      const float value = of[2 * i] * (unit * float(out[i]) + spread) + of[2 * i + 1] * norm;
      upper[i] = value == value ? value : kAnything;
    }
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    const float* of = scales + 2 * row_at(rows, begin, i);
    float value = of[0] * (unit * float(out[i]) + spread) + of[1] * norm;
    value = value == value ? value : kAnything;
    upper[i] = more ? std::max(upper[i], value) : value;
  }
}

// 32 sums side by side, which a compiler keeps in registers, and whose order is the same on all processors but for FMA.
ALWAYS float sum_of_products(const float* a, const float* b, int64_t D) {
  constexpr int64_t kSums = 32;
  float sums[kSums] = {};
  int64_t d = 0;
  for (; d + kSums <= D; d += kSums)
    for (int64_t i = 0; i < kSums; i++) sums[i] += a[d + i] * b[d + i];
  for (int64_t i = 0; d + i < D; i++) sums[i] += a[d + i] * b[d + i];
  for (int64_t half = kSums / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; i++) sums[i] += sums[i + half];
  return sums[0];
}

ALWAYS bool one_reaches(const float* numbers, int64_t count, float least) {
  int any = 0;
  if (count == kGroup)
    for (int64_t i = 0; i < kGroup; i++) any |= numbers[i] >= least;
  else
    for (int64_t i = 0; i < count; i++) any |= numbers[i] >= least;
  return any;
}

inline void bounds_plain(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows, int64_t begin,
                         int64_t count, const Query& query, bool more, int32_t* out, float* upper) {
  for (int64_t i = 0; i < count; i++) {
    const int8_t* row = codes + row_at(rows, begin, i) * P;
    int32_t sum = 0;
    for (int64_t p = 0; p < P; p++) sum += int32_t(row[p]) * query.numbers[p];
    out[i] = sum;
  }
  most(scales, rows, begin, count, query, more, out, upper);
}

inline float dot_plain(const float* a, const float* b, int64_t D) { return sum_of_products(a, b, D); }

inline bool reach_plain(const float* numbers, int64_t count, float least) { return one_reaches(numbers, count, least); }

#if defined(__x86_64__)

#define WITH_AVX2 __attribute__((target("avx2,fma")))
#define WITH_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

WITH_AVX2 __attribute__((always_inline)) static inline __m256i product_16(__m256i query, const int8_t* codes) {
  return _mm256_madd_epi16(query, _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
}

WITH_AVX2 __attribute__((always_inline)) static inline int32_t sum_of(__m256i sums) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

// How many rows ahead a list's are asked for: their places in memory are not foreseen by the processor.
constexpr int64_t kAhead = 16;

ALWAYS void ask_ahead(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows, int64_t count,
                      int64_t i) {
  for (int64_t j = i + kAhead; rows && j < std::min(i + kAhead + 4, count); j++) {
    for (int64_t p = 0; p < P; p += 64) __builtin_prefetch(codes + rows[j] * P + p);
    __builtin_prefetch(scales + 2 * rows[j]);
  }
}

WITH_AVX2 inline void bounds_avx2(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows,
                                  int64_t begin, int64_t count, const Query& query, bool more, int32_t* out,
                                  float* upper) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    ask_ahead(codes, P, scales, rows, count, i);
    const int8_t* row[4];
    for (int j = 0; j < 4; j++) row[j] = codes + row_at(rows, begin, i + j) * P;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t p = 0; p < P; p += kTogether) {
      const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query.numbers + p));
      a = _mm256_add_epi32(a, product_16(numbers, row[0] + p));
      b = _mm256_add_epi32(b, product_16(numbers, row[1] + p));
      c = _mm256_add_epi32(c, product_16(numbers, row[2] + p));
      d = _mm256_add_epi32(d, product_16(numbers, row[3] + p));
    }
    const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
  }
  for (; i < count; i++) {
    const int8_t* row = codes + row_at(rows, begin, i) * P;
    __m256i sums = _mm256_setzero_si256();
    for (int64_t p = 0; p < P; p += kTogether) {
      const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query.numbers + p));
      sums = _mm256_add_epi32(sums, product_16(numbers, row + p));
    }
    out[i] = sum_of(sums);
  }
  most(scales, rows, begin, count, query, more, out, upper);
}

WITH_AVX2 inline float dot_avx2(const float* a, const float* b, int64_t D) { return sum_of_products(a, b, D); }

WITH_AVX2 inline bool reach_avx2(const float* numbers, int64_t count, float least) {
  return one_reaches(numbers, count, least);
}

WITH_AVX512 inline void bounds_avx512(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows,
                                      int64_t begin, int64_t count, const Query& query, bool more, int32_t* out,
                                      float* upper) {
  for (int64_t i = 0; i < count; i++) {
    if (i % 4 == 0) ask_ahead(codes, P, scales, rows, count, i);
    const int8_t* row = codes + row_at(rows, begin, i) * P;
    __m512i sums = _mm512_setzero_si512();
    int64_t p = 0;
    for (; p + 2 * kTogether <= P; p += 2 * kTogether) {
      const __m512i numbers = _mm512_loadu_si512(query.numbers + p);
      const __m256i of = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + p));
      sums = _mm512_dpwssd_epi32(sums, _mm512_cvtepi8_epi16(of), numbers);
    }
    int32_t sum = _mm512_reduce_add_epi32(sums);
    if (p < P) {
      const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query.numbers + p));
      const __m128i of = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + p));
      const __m256i rest = _mm256_dpwssd_epi32(_mm256_setzero_si256(), _mm256_cvtepi8_epi16(of), numbers);
      __m128i half = _mm_add_epi32(_mm256_castsi256_si128(rest), _mm256_extracti128_si256(rest, 1));
      half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
      sum += _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
    }
    out[i] = sum;
  }
  most(scales, rows, begin, count, query, more, out, upper);
}

WITH_AVX512 inline float dot_avx512(const float* a, const float* b, int64_t D) { return sum_of_products(a, b, D); }

#elif defined(__aarch64__)

inline void bounds_neon(const int8_t* codes, int64_t P, const float* scales, const int64_t* rows, int64_t begin,
                        int64_t count, const Query& query, bool more, int32_t* out, float* upper) {
  for (int64_t i = 0; i < count; i++) {
    const int8_t* row = codes + row_at(rows, begin, i) * P;
    int32x4_t sums = vdupq_n_s32(0);
    for (int64_t p = 0; p < P; p += kTogether) {
      const int8x16_t of = vld1q_s8(row + p);
      const int16x8_t low = vmovl_s8(vget_low_s8(of)), high = vmovl_s8(vget_high_s8(of));
      const int16x8_t low_query = vld1q_s16(query.numbers + p), high_query = vld1q_s16(query.numbers + p + 8);
      sums = vmlal_s16(sums, vget_low_s16(low), vget_low_s16(low_query));
      sums = vmlal_s16(sums, vget_high_s16(low), vget_high_s16(low_query));
      sums = vmlal_s16(sums, vget_low_s16(high), vget_low_s16(high_query));
      sums = vmlal_s16(sums, vget_high_s16(high), vget_high_s16(high_query));
    }
    out[i] = vaddvq_s32(sums);
  }
  most(scales, rows, begin, count, query, more, out, upper);
}

#endif

#undef ALWAYS

}  // namespace scans

// By number: 0 for any processor, and on x86 1 for AVX2 and 2 for AVX-512 with VNNI; on ARM 1 for NEON.
inline int best_scan() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    return 2;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
#elif defined(__aarch64__)
  return 1;
#else
  return 0;
#endif
}

inline Scan scan_of(int number) {
#if defined(__x86_64__)
  if (number == 2) return {scans::bounds_avx512, scans::dot_avx512, scans::reach_avx2};
  if (number == 1) return {scans::bounds_avx2, scans::dot_avx2, scans::reach_avx2};
#elif defined(__aarch64__)
  if (number == 1) return {scans::bounds_neon, scans::dot_plain, scans::reach_plain};
#endif
  return {scans::bounds_plain, scans::dot_plain, scans::reach_plain};
}

}  // namespace recsys
