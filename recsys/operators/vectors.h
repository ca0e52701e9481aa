// Vectors of 16 numbers, of processors with AVX-512.

#pragma once

#include <immintrin.h>

#include <cstdint>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define INLINE VNNI __attribute__((always_inline)) static inline

namespace recsys {

constexpr int kLanes = 16;

// Which of 16 places are there if `count` numbers are left.
inline __mmask16 places(int64_t count) { return count >= kLanes ? 0xFFFF : (1u << count) - 1; }

INLINE __m512 load(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(places(count), from); }

// The larger magnitude of two numbers, in each place.
INLINE __m512 larger_magnitude(__m512 a, __m512 b) { return _mm512_range_ps(a, b, 11); }

}  // namespace recsys
