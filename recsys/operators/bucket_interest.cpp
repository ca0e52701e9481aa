// BucketInterest: SDIM's attention of candidates to sums of events by signature (models/ranking/signatures.py).
//
//   bucket(c, g)  = the number whose bits are the signs of products(c, g)
//   interest(c)   = sum over g of sums(g, bucket(c, g))                     [D]
//
// The standard operators make a one-hot row of all buckets and multiply it with all sums.
//
// Legend: C candidates, D width, G signatures of B bits.

#include <algorithm>
#include <vector>

#include "operator.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

// products [C, G B]; the bits of each bucket, as 1 and -1, [B, 2^B], and one less their number, [2^B], of which only
// the sizes matter here; sums [G 2^B, D].
enum { kProducts, kBits, kOthers, kSums, kInputs };

constexpr int64_t kTogether = 16;  // numbers that are added up in registers

void add_up(const double* products, const float* sums, int64_t C, int64_t D, int64_t G, int64_t B, float* interest) {
  std::vector<const float*> chosen(G);
  for (int64_t c = 0; c < C; c++) {
    for (int64_t g = 0; g < G; g++) {
      int64_t bucket = g << B;
      for (int64_t b = 0; b < B; b++) bucket |= int64_t(*products++ > 0.0) << b;
      chosen[g] = sums + bucket * D;
    }
    int64_t d = 0;
    for (; d + kTogether <= D; d += kTogether) {
      float total[kTogether] = {};
      for (const float* sum : chosen)
        for (int64_t i = 0; i < kTogether; i++) total[i] += sum[d + i];
      std::copy_n(total, kTogether, interest + d);
    }
    for (; d < D; d++) {
      interest[d] = 0.0f;
      for (const float* sum : chosen) interest[d] += sum[d];
    }
    interest += D;
  }
}

struct BucketInterest {
  static constexpr const char* kName = "BucketInterest";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 1;
  static int input_type(size_t i) { return i == kProducts ? ort::kDouble : ort::kFloat; }
  static int output_type(size_t) { return ort::kFloat; }

  BucketInterest(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    const int64_t C = in[kProducts].sizes[0], D = in[kSums].sizes[1], B = in[kBits].sizes[0];
    const int64_t G = B > 0 ? in[kProducts].sizes[1] / B : 0;
    const bool fit = B > 0 && B < 31 && in[kProducts].is({C, G * B}) && in[kBits].is({B, int64_t{1} << B}) &&
                     in[kOthers].is({int64_t{1} << B}) && in[kSums].is({G << B, D});
    if (!fit) throw std::invalid_argument("the sums do not fit the signatures");
    float* interest = static_cast<float*>(make_output(api, context, 0, {C, D}));
    add_up(in[kProducts].doubles(), in[kSums].floats(), C, D, G, B, interest);
  }
};

}  // namespace

const ort::Operator kBucketInterest = make_operator<BucketInterest>();

}  // namespace recsys
