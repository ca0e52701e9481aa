// The tensors of one run of an operator.

#pragma once

#include <initializer_list>
#include <stdexcept>

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
  const bool readable = tensor.rank <= kMostSizes;
  if (readable) onnxruntime_v1::sizes_of(api, shape, tensor.sizes, tensor.rank);
  onnxruntime_v1::release(api, shape);
  if (!readable) throw std::invalid_argument("an input has too many dimensions");
  return tensor;
}

template <size_t count>
void read_inputs(onnxruntime_v1::Api api, const onnxruntime_v1::Context* context, Tensor (&in)[count]) {
  for (size_t i = 0; i < count; i++) in[i] = read_input(api, context, i);
}

inline void* make_output(onnxruntime_v1::Api api, onnxruntime_v1::Context* context, size_t number,
                         const int64_t* sizes, size_t rank) {
  return onnxruntime_v1::data_of(api, onnxruntime_v1::output(api, context, number, sizes, rank));
}

inline void* make_output(onnxruntime_v1::Api api, onnxruntime_v1::Context* context, size_t number,
                         std::initializer_list<int64_t> sizes) {
  return make_output(api, context, number, sizes.begin(), sizes.size());
}

}  // namespace recsys
