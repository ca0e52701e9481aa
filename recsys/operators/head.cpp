// Head: two hidden layers and a number, in 8-bit integers.
//
//   hidden(c) = act1(x(c) weight + bias)               [H]
//   logit(c)  = last . act2(hidden(c) second + b2) + b3
//
// The standard operators quantise all rows with one scale, which takes a pass over them before each layer.
//
// Legend: C candidates, K inputs, H and N units of the two layers.

#if defined(__x86_64__)

#include "layers.h"
#include "operator.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

constexpr int kBlock = 64;   // candidates that go through the layers together
constexpr int kTogether = 5; // vectors of units, at most

// Some units of the first layer for a block, in their columns of `to` [count, units].
template <int vectors>
VNNI void some_units(const Rows& x, int count, const Layer& layer, int first_unit, const float* unit, const float* bias,
                     float slope, float* to) {
  constexpr int rows = rows_at_once(vectors);
  for (int c = 0; c < count; c += rows) {
    __m512i sums[rows][vectors];
    multiply<vectors, rows>(x.bytes.at(size_t(c) * x.inputs), layer, first_unit, sums);
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < vectors; v++) {
        const int at = first_unit + v * kLanes;
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(*x.unit.at(c + r)), _mm512_load_ps(unit + at));
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), scale, _mm512_load_ps(bias + at));
        _mm512_store_ps(to + size_t(c + r) * layer.units + at, leaky_relu(sum, _mm512_set1_ps(slope)));
      }
  }
}

using SomeUnits = decltype(&some_units<1>);
constexpr SomeUnits kSome[kTogether] = {some_units<1>, some_units<2>, some_units<3>, some_units<4>, some_units<5>};

// Inputs by number.
enum { kX, kWeight, kUnit, kBias, kSecondWeight, kSecondUnit, kSecondBias, kLastWeight, kLastBias, kInputs };

void score(const Tensor (&in)[kInputs], const Slopes& slopes, float* logits) {
  const int64_t C = in[kX].sizes[0], K = in[kX].sizes[1], H = in[kWeight].sizes[1];
  const Layer first(K, H);
  pack(in[kWeight].bytes(), K, H, H, first);
  const Second second(in[kSecondWeight], in[kSecondUnit], in[kSecondBias], in[kLastWeight], in[kLastBias],
                      slopes.second);
  const Buffer<float> unit(first.units), bias(first.units), units(size_t(kBlock) * first.units), scores(kBlock);
  std::memcpy(unit.at(0), in[kUnit].data, H * sizeof(float));
  std::memcpy(bias.at(0), in[kBias].data, H * sizeof(float));
  const Rows x(first.inputs, kBlock), hidden(second.layer.inputs, kBlock);
  for (int64_t begin = 0; begin < C; begin += kBlock) {
    const int count = int(C - begin < kBlock ? C - begin : kBlock);
    for (int c = 0; c < count; c++)
      *x.unit.at(c) = quantise(in[kX].floats() + (begin + c) * K, K, x.bytes.at(size_t(c) * x.inputs));
    for (int at = 0; at < first.units; at += kTogether * kLanes) {
      const int left = (first.units - at) / kLanes, vectors = left < kTogether ? left : kTogether;
      kSome[vectors - 1](x, count, first, at, unit.at(0), bias.at(0), slopes.first, units.at(0));
    }
    for (int c = 0; c < count; c++)
      *hidden.unit.at(c) =
          quantise(units.at(size_t(c) * first.units), first.units, hidden.bytes.at(size_t(c) * hidden.inputs));
    kSecond[second.layer.units / kLanes - 1](hidden, count, second, scores.at(0), 1);
    std::memcpy(logits + begin, scores.at(0), count * sizeof(float));
  }
}

bool fit(const Tensor (&in)[kInputs]) {
  if (in[kX].rank != 2 || in[kWeight].rank != 2) return false;
  const int64_t K = in[kX].sizes[1], H = in[kWeight].sizes[1];
  return K > 0 && H > 0 && in[kWeight].is({K, H}) && in[kUnit].is({H}) && in[kBias].is({H}) &&
         Second::fit(in[kSecondWeight], in[kSecondUnit], in[kSecondBias], in[kLastWeight], in[kLastBias], H);
}

struct Head {
  static constexpr const char* kName = "Head";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 1;
  static int input_type(size_t i) { return i == kWeight || i == kSecondWeight ? ort::kInt8 : ort::kFloat; }
  static int output_type(size_t) { return ort::kFloat; }

  Head(ort::Api api, const ort::Info* info) : slopes(api, info) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    if (!fit(in)) throw std::invalid_argument(kLayersDoNotFit);
    score(in, slopes, static_cast<float*>(make_output(api, context, 0, {in[kX].sizes[0], 1})));
  }

  Slopes slopes;
};

}  // namespace

const ort::Operator kHead = make_operator<Head>();

}  // namespace recsys

#endif
