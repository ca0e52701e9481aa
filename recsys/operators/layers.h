// Layers in 8-bit integers, for rows that stay in the cache.
//
// Rows are quantised one by one to [-127, 127] and stored plus 128, because the processor multiplies unsigned by signed
// bytes; the sums start at what takes that off again.

#pragma once

#include <cstdlib>
#include <cstring>
#include <new>

#include "tensors.h"
#include "vectors.h"

namespace recsys {

constexpr int kMostVectors = 8;  // of the units that are computed together: 128

inline int up_to(int64_t size, int multiple) { return int((size + multiple - 1) / multiple * multiple); }

// Rows multiplied together. Few: the processor then begins the next ones while it quantises these. It divides blocks.
constexpr int rows_at_once(int vectors) { return vectors <= 3 ? 4 : 2; }

template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t count) : data_(static_cast<T*>(std::aligned_alloc(64, count * sizeof(T) / 64 * 64 + 64))) {
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, count * sizeof(T));
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* at(size_t place) const { return data_ + place; }

 private:
  T* data_;
};

// A layer's weights as the instruction reads them, [inputs / 4, units, 4], both sizes filled up with zeros.
struct Layer {
  Layer(int64_t inputs, int64_t units)
      : inputs(up_to(inputs, 4)), units(up_to(units, kLanes)), weight(size_t(this->inputs) * this->units),
        start(this->units) {}
  int inputs, units;
  Buffer<int8_t> weight;
  Buffer<int32_t> start;  // -128 times the sum of a unit's weights
};

// Fill a layer from weights [inputs, units], whose rows are `stride` apart.
VNNI inline void pack(const int8_t* weight, int64_t inputs, int64_t units, int64_t stride, const Layer& layer) {
  for (int64_t unit = 0; unit < units; unit += kLanes) {
    const __mmask16 given = places(units - unit);
    __m512i sums = _mm512_setzero_si512();
    for (int64_t row = 0; row < inputs; row += 4) {
      __m128i rows[4];
      for (int i = 0; i < 4; i++)
        rows[i] = _mm_maskz_loadu_epi8(row + i < inputs ? given : 0, weight + (row + i) * stride + unit);
      const __m128i low01 = _mm_unpacklo_epi8(rows[0], rows[1]), high01 = _mm_unpackhi_epi8(rows[0], rows[1]);
      const __m128i low23 = _mm_unpacklo_epi8(rows[2], rows[3]), high23 = _mm_unpackhi_epi8(rows[2], rows[3]);
      __m512i fours = _mm512_castsi128_si512(_mm_unpacklo_epi16(low01, low23));
      fours = _mm512_inserti32x4(fours, _mm_unpackhi_epi16(low01, low23), 1);
      fours = _mm512_inserti32x4(fours, _mm_unpacklo_epi16(high01, high23), 2);
      fours = _mm512_inserti32x4(fours, _mm_unpackhi_epi16(high01, high23), 3);
      _mm512_store_si512(layer.weight.at((row / 4 * layer.units + unit) * 4), fours);
      sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), fours);
    }
    _mm512_store_si512(layer.start.at(unit), _mm512_mullo_epi32(sums, _mm512_set1_epi32(-128)));
  }
}

// The products of rows of bytes with some units of a layer.
template <int vectors, int rows>
INLINE void multiply(const uint8_t* row, const Layer& layer, int first_unit, __m512i (&sums)[rows][vectors]) {
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) sums[r][v] = _mm512_load_si512(layer.start.at(first_unit + v * kLanes));
  const int8_t* fours = layer.weight.at(first_unit * 4);
#pragma GCC unroll 4
  for (int k = 0; k < layer.inputs; k += 4, fours += layer.units * 4) {
    __m512i weight[vectors];
    for (int v = 0; v < vectors; v++) weight[v] = _mm512_load_si512(fours + v * kLanes * 4);
    for (int r = 0; r < rows; r++) {
      int32_t four;
      std::memcpy(&four, row + r * layer.inputs + k, 4);
      for (int v = 0; v < vectors; v++)
        sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], _mm512_set1_epi32(four), weight[v]);
    }
  }
}

// The sums of two vectors, in the first two places.
INLINE __m128 sums_of_two(__m512 a, __m512 b) {
  const __m512 pairs = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(pairs), _mm512_extractf32x8_ps(pairs, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  return _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
}

INLINE __m512 leaky_relu(__m512 x, __m512 slope) {
  return _mm512_mask_mul_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), x, slope);
}

inline float levels_of(float largest) { return largest > 0.0f ? 127.0f / largest : 0.0f; }

// Numbers as bytes plus 128, in their order. Four vectors are narrowed together: half the instructions.
template <int vectors>
INLINE void store_bytes(const __m512 (&x)[vectors], float largest, uint8_t* to) {
  const __m512 levels = _mm512_set1_ps(levels_of(largest));
  __m512i whole[vectors];
  for (int v = 0; v < vectors; v++) whole[v] = _mm512_cvtps_epi32(_mm512_mul_ps(x[v], levels));
  constexpr int fours = vectors / 4 * 4;
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int v = 0; v < fours; v += 4) {
    const __m512i low = _mm512_packs_epi32(whole[v], whole[v + 1]), high = _mm512_packs_epi32(whole[v + 2], whole[v + 3]);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
    _mm512_storeu_si512(to + v * kLanes, _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)));
  }
  for (int v = fours; v < vectors; v++) {
    const __m128i bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(whole[v]), _mm_set1_epi8(-128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + v * kLanes), bytes);
  }
}

// A row of any length as bytes; returns their unit, which is no finite number if the row has one that is not. Writes up
// to a multiple of 16.
VNNI inline float quantise(const float* row, int64_t count, uint8_t* to) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += kLanes) most = larger(most, load(row + i, count - i));
  const float largest = largest_of(most);
  for (int64_t i = 0; i < count; i += kLanes) {
    const __m512 x[] = {load(row + i, count - i)};
    store_bytes<1>(x, largest, to + i);
  }
  return largest / 127.0f;
}

// A block's rows as bytes, and the unit of each row.
struct Rows {
  Rows(int inputs, int count) : inputs(inputs), bytes(size_t(count) * inputs + kLanes), unit(count) {}
  int inputs;
  Buffer<uint8_t> bytes;
  Buffer<float> unit;
};

constexpr const char* kLayersDoNotFit = "the inputs' shapes do not fit each other, or a layer is too large";

// Of both layers' LeakyReLU.
struct Slopes {
  Slopes(onnxruntime_v1::Api api, const onnxruntime_v1::Info* info)
      : first(onnxruntime_v1::attribute(api, info, "first_slope")),
        second(onnxruntime_v1::attribute(api, info, "second_slope")) {}
  float first, second;
};

// The second layer, of N units, and the last one, of one.
struct Second {
  // weight [H, N] and its units [N], bias [N], last [1, N], last_bias [1].
  Second(const Tensor& weight, const Tensor& of_weight, const Tensor& bias, const Tensor& last, const Tensor& last_bias,
         float slope)
      : layer(up_to(weight.sizes[0], kLanes), weight.sizes[1]), unit(layer.units), bias(layer.units),
        last(layer.units), last_bias(*last_bias.floats()), slope(slope) {
    const int64_t H = weight.sizes[0], N = weight.sizes[1];
    pack(weight.bytes(), H, N, N, layer);
    std::memcpy(unit.at(0), of_weight.data, N * sizeof(float));
    std::memcpy(this->bias.at(0), bias.data, N * sizeof(float));
    std::memcpy(this->last.at(0), last.data, N * sizeof(float));
  }

  static bool fit(const Tensor& weight, const Tensor& of_weight, const Tensor& bias, const Tensor& last,
                  const Tensor& last_bias, int64_t H) {
    const int64_t N = weight.rank == 2 ? weight.sizes[1] : 0;
    return 0 < N && N <= kMostVectors * kLanes && weight.is({H, N}) && of_weight.is({N}) && bias.is({N}) &&
           last.is({1, N}) && last_bias.is({1});
  }

  Layer layer;
  Buffer<float> unit, bias, last;
  float last_bias, slope;
};

// What the last layer makes of a block's hidden rows, `stride` apart.
template <int vectors>
VNNI void second_layer(const Rows& hidden, int count, const Second& second, float* scores, int64_t stride) {
  constexpr int rows = rows_at_once(vectors);
  for (int c = 0; c < count; c += rows) {
    __m512i sums[rows][vectors];
    multiply<vectors, rows>(hidden.bytes.at(size_t(c) * hidden.inputs), second.layer, 0, sums);
    __m512 score[rows];
    for (int r = 0; r < rows; r++) {
      const __m512 row_unit = _mm512_set1_ps(*hidden.unit.at(c + r));
      score[r] = _mm512_setzero_ps();
      for (int v = 0; v < vectors; v++) {
        const __m512 unit = _mm512_mul_ps(row_unit, _mm512_load_ps(second.unit.at(v * kLanes)));
        const __m512 bias = _mm512_load_ps(second.bias.at(v * kLanes));
        const __m512 x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), unit, bias);
        const __m512 last = _mm512_load_ps(second.last.at(v * kLanes));
        score[r] = _mm512_fmadd_ps(leaky_relu(x, _mm512_set1_ps(second.slope)), last, score[r]);
      }
    }
    for (int r = 0; r < rows; r += 2) {
      float two[4];
      _mm_storeu_ps(two, sums_of_two(score[r], score[r + 1]));
      for (int i = 0; i < 2; i++) scores[(c + r + i) * stride] = two[i] + second.last_bias;
    }
  }
}

using SecondLayer = decltype(&second_layer<1>);
constexpr SecondLayer kSecond[kMostVectors] = {second_layer<1>, second_layer<2>, second_layer<3>, second_layer<4>,
                                               second_layer<5>, second_layer<6>, second_layer<7>, second_layer<8>};

}  // namespace recsys
