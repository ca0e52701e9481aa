// Vectors of 16 numbers, of processors with AVX-512.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define INLINE VNNI __attribute__((always_inline)) static inline

namespace recsys {

constexpr int kLanes = 16;

// Which of 16 places are there if `count` numbers are left.
inline __mmask16 places(int64_t count) { return count >= kLanes ? 0xFFFF : (1u << count) - 1; }

INLINE __m512 load(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(places(count), from); }

// Numbers without their signs, as bits: these are in the order of the magnitudes, with infinity and NaN the largest, so
// that they are not lost.
INLINE __m512i magnitude(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)); }

// The larger magnitude, in each place.
INLINE __m512i larger(__m512i most, __m512 x) { return _mm512_max_epu32(most, magnitude(x)); }

// The largest magnitude of all.
INLINE float largest_of(__m512i most) {
  const uint32_t bits = _mm512_reduce_max_epu32(most);
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  return largest;
}

}  // namespace recsys
