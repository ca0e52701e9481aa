// AttentionWeight: the first layer of DIN's attention for the events of one user, in 8-bit integers.
//
//   weight(d, s) = round((keys(s, d) of_product(d) + of_query(d)) / unit)     [H]
//   unit         = the largest magnitude of all, over 127
//
// Only processors with VNNI run it, which add products of 8 bits in 32; the standard operators have 64 levels for those
// that add pairs in 16 (recsys/export/int8.py).
//
// The standard operators write these D x S x H numbers to memory as float32 and read them four times: 1 MB for the
// 256 kB that are wanted. Here they are computed twice instead, for the unit and for the weights.
//
// Legend: D width, S events, H units of the layer.

#if defined(__x86_64__)

#include "operator.h"
#include "vectors.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

enum { kKeys, kFolded, kInputs };  // [S, D]; of_product and of_query, [D, 2, H]

constexpr float kSmallest = 0x1p-100f;  // of what the unit is made of: no division by zero

INLINE __m512 folded(const float* key, const float* pair, int64_t H, int64_t h) {
  return _mm512_fmadd_ps(_mm512_set1_ps(*key), load(pair + h, H - h), load(pair + H + h, H - h));
}

VNNI float unit_of(const float* keys, const float* pairs, int64_t S, int64_t D, int64_t H) {
  __m512i most = magnitude(_mm512_set1_ps(kSmallest));
  for (int64_t d = 0; d < D; d++)
    for (int64_t h = 0; h < H; h += kLanes)
      for (int64_t s = 0; s < S; s++) most = larger(most, folded(keys + s * D + d, pairs + d * 2 * H, H, h));
  return largest_of(most) / 127.0f;
}

VNNI void fold(const float* keys, const float* pairs, int64_t S, int64_t D, int64_t H, float unit, int8_t* weight) {
  const __m512 levels = _mm512_set1_ps(1.0f / unit);
  for (int64_t d = 0; d < D; d++)
    for (int64_t s = 0; s < S; s++, weight += H)
      for (int64_t h = 0; h < H; h += kLanes) {
        const __m512 whole = _mm512_mul_ps(folded(keys + s * D + d, pairs + d * 2 * H, H, h), levels);
        _mm_mask_storeu_epi8(weight + h, places(H - h), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(whole)));
      }
}

struct AttentionWeight {
  static constexpr const char* kName = "AttentionWeight";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 2;
  static int input_type(size_t) { return ort::kFloat; }
  static int output_type(size_t i) { return i == 0 ? ort::kInt8 : ort::kFloat; }

  AttentionWeight(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    const Tensor keys = read_input(api, context, kKeys), pairs = read_input(api, context, kFolded);
    const int64_t S = keys.sizes[0], D = keys.sizes[1], H = pairs.sizes[2];
    if (!keys.is({S, D}) || !pairs.is({D, 2, H})) throw std::invalid_argument("weights do not fit the keys");
    int8_t* weight = static_cast<int8_t*>(make_output(api, context, 0, {D, S, H}));
    float* unit = static_cast<float*>(make_output(api, context, 1, {}));
    *unit = unit_of(keys.floats(), pairs.floats(), S, D, H);
    fold(keys.floats(), pairs.floats(), S, D, H, *unit, weight);
  }
};

}  // namespace

const ort::Operator kAttentionWeight = make_operator<AttentionWeight>();

}  // namespace recsys

#endif
