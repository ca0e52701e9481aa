// The tensors of one run of an operator.

#pragma once

#include <initializer_list>
#include <limits>

#include "onnxruntime_v1.h"

namespace recsys {

constexpr size_t kMostSizes = 8;

struct Tensor {
  void* data;
  int64_t sizes[kMostSizes];
  size_t rank;

  bool is(std::initializer_list<int64_t> wanted) const {
    if (rank != wanted.size()) return false;
    const int64_t* size = sizes;
    for (int64_t one : wanted)
      if (*size++ != one) return false;
    return true;
  }
  int64_t count() const {
    int64_t product = 1;
    for (size_t i = 0; i < rank; i++) product *= sizes[i];
    return product;
  }
  float* floats() const { return static_cast<float*>(data); }
  double* doubles() const { return static_cast<double*>(data); }
  int64_t* longs() const { return static_cast<int64_t*>(data); }
  int8_t* bytes() const { return static_cast<int8_t*>(data); }
};

inline Tensor read_input(onnxruntime_v1::Api api, const onnxruntime_v1::Context* context, size_t number) {
  const onnxruntime_v1::Value* value = onnxruntime_v1::input(api, context, number);
  onnxruntime_v1::Shape* shape = onnxruntime_v1::shape_of(api, value);
  Tensor tensor{onnxruntime_v1::data_of(api, value), {}, onnxruntime_v1::rank_of(api, shape)};
  if (tensor.rank > kMostSizes) tensor.rank = 0;  // fits nothing
  onnxruntime_v1::sizes_of(api, shape, tensor.sizes, tensor.rank);
  onnxruntime_v1::release(api, shape);
  return tensor;
}

inline void* make_output(onnxruntime_v1::Api api, onnxruntime_v1::Context* context, size_t number,
                         const int64_t* sizes, size_t rank) {
  return onnxruntime_v1::data_of(api, onnxruntime_v1::output(api, context, number, sizes, rank));
}

inline void* make_output(onnxruntime_v1::Api api, onnxruntime_v1::Context* context, size_t number,
                         std::initializer_list<int64_t> sizes) {
  return make_output(api, context, number, sizes.begin(), sizes.size());
}

// For inputs that do not fit each other: an operator of this version cannot fail. A bundle is run when it is opened,
// and refused for answers that are no numbers.
inline void no_numbers(float* data, int64_t count) {
  for (int64_t i = 0; i < count; i++) data[i] = std::numeric_limits<float>::quiet_NaN();
}

extern const onnxruntime_v1::Operator kIdRows, kBucketInterest, kTargetAttention, kAttentionWeight, kHead;

}  // namespace recsys
