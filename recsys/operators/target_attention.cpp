// TargetAttention: DIN's attention of all candidates to all events of one user, in 8-bit integers, without leaving the
// core's own cache.
//
//   hidden(c, s)   = act1(query(c) weight(s) + bias(s))              [H]
//   score(c, s)    = last . act2(hidden(c, s) second + b2) + b3
//   interest(c)    = sum over s of score(c, s) keys(s)               [D]
//
// The standard operators write the C x S rows of hidden units to memory and read them three times. Here a block of
// candidates goes through both layers for one event at a time: 50 kB in all.
//
// Legend: C candidates, D width, S events, H and N units of the two layers.

#if defined(__x86_64__)

#include "layers.h"
#include "operator.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

constexpr int kBlock = 256;  // candidates that go through the layers together

// The hidden units of a block for one event.
template <int vectors>
VNNI void first_layer(const Rows& query, int count, const Layer& layer, float weight_unit, const float* bias,
                      float slope, const Rows& hidden) {
  constexpr int rows = rows_at_once(vectors);
  for (int c = 0; c < count; c += rows) {
    __m512i sums[rows][vectors];
    multiply<vectors, rows>(query.bytes.at(size_t(c) * query.inputs), layer, 0, sums);
    for (int r = 0; r < rows; r++) {
      const __m512 unit = _mm512_set1_ps(*query.unit.at(c + r) * weight_unit);
      __m512 x[vectors];
      __m512i most = _mm512_setzero_si512();
      for (int v = 0; v < vectors; v++) {
        x[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), unit, _mm512_load_ps(bias + v * kLanes));
        x[v] = leaky_relu(x[v], _mm512_set1_ps(slope));
        most = larger(most, x[v]);
      }
      const float largest = largest_of(most);
      store_bytes<vectors>(x, largest, hidden.bytes.at(size_t(c + r) * hidden.inputs));
      *hidden.unit.at(c + r) = largest / 127.0f;
    }
  }
}

// interest [count, D] = scores [count, S] keys [S, D].
VNNI void weigh(const float* scores, int count, int64_t stride, const float* keys, int64_t S, int64_t D,
                float* interest) {
  for (int64_t d = 0; d < D; d += kLanes) {
    const __mmask16 given = places(D - d);
    for (int c = 0; c < count; c += 4) {
      __m512 sums[4] = {};
      for (int64_t s = 0; s < S; s++) {
        const __m512 key = _mm512_maskz_loadu_ps(given, keys + s * D + d);
        for (int r = 0; r < 4; r++)
          sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(scores[(c + r) * stride + s]), key, sums[r]);
      }
      for (int r = 0; r < 4 && c + r < count; r++) _mm512_mask_storeu_ps(interest + (c + r) * D + d, given, sums[r]);
    }
  }
}

using FirstLayer = decltype(&first_layer<1>);
constexpr FirstLayer kFirst[kMostVectors] = {first_layer<1>, first_layer<2>, first_layer<3>, first_layer<4>,
                                             first_layer<5>, first_layer<6>, first_layer<7>, first_layer<8>};

// Inputs by number.
enum { kQuery, kWeight, kWeightUnit, kBias, kSecondWeight, kSecondUnit, kSecondBias, kLastWeight, kLastBias, kKeys,
       kInputs };

void attend(const Tensor (&in)[kInputs], const Slopes& slopes, float* interest) {
  const int64_t C = in[kQuery].sizes[0], D = in[kQuery].sizes[1], S = in[kWeight].sizes[1], H = in[kWeight].sizes[2];
  const Layer first(D, H);
  const Second second(in[kSecondWeight], in[kSecondUnit], in[kSecondBias], in[kLastWeight], in[kLastBias],
                      slopes.second);
  const Rows query(first.inputs, kBlock), hidden(second.layer.inputs, kBlock);
  const Buffer<float> bias(first.units), scores(size_t(kBlock) * S);
  const FirstLayer run_first = kFirst[first.units / kLanes - 1];
  const SecondLayer run_second = kSecond[second.layer.units / kLanes - 1];
  for (int64_t begin = 0; begin < C; begin += kBlock) {
    const int count = int(C - begin < kBlock ? C - begin : kBlock);
    for (int c = 0; c < count; c++)
      *query.unit.at(c) = quantise(in[kQuery].floats() + (begin + c) * D, D, query.bytes.at(size_t(c) * query.inputs));
    for (int64_t s = 0; s < S; s++) {
      pack(in[kWeight].bytes() + s * H, D, H, S * H, first);
      std::memcpy(bias.at(0), in[kBias].floats() + s * H, H * sizeof(float));
      run_first(query, count, first, *in[kWeightUnit].floats(), bias.at(0), slopes.first, hidden);
      run_second(hidden, count, second, scores.at(s), S);
    }
    weigh(scores.at(0), count, S, in[kKeys].floats(), S, D, interest + begin * D);
  }
}

bool fit(const Tensor (&in)[kInputs]) {
  if (in[kQuery].rank != 2 || in[kWeight].rank != 3) return false;
  const int64_t D = in[kQuery].sizes[1], S = in[kWeight].sizes[1], H = in[kWeight].sizes[2];
  return D > 0 && S > 0 && H > 0 && H <= kMostVectors * kLanes && in[kWeight].is({D, S, H}) && in[kWeightUnit].is({}) &&
         in[kBias].is({S, H}) && in[kKeys].is({S, D}) &&
         Second::fit(in[kSecondWeight], in[kSecondUnit], in[kSecondBias], in[kLastWeight], in[kLastBias], H);
}

struct TargetAttention {
  static constexpr const char* kName = "TargetAttention";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 1;
  static int input_type(size_t i) { return i == kWeight || i == kSecondWeight ? ort::kInt8 : ort::kFloat; }
  static int output_type(size_t) { return ort::kFloat; }

  TargetAttention(ort::Api api, const ort::Info* info) : slopes(api, info) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    if (!fit(in)) throw std::invalid_argument(kLayersDoNotFit);
    const int64_t C = in[kQuery].sizes[0], D = in[kQuery].sizes[1];
    attend(in, slopes, static_cast<float*>(make_output(api, context, 0, {C, D})));
  }

  Slopes slopes;
};

}  // namespace

const ort::Operator kTargetAttention = make_operator<TargetAttention>();

}  // namespace recsys

#endif
