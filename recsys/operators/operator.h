// An operator for ONNX Runtime, of a class.
//
// The class has: kName; kInputs, how many, and kOutputs; input_type(i) and output_type(i); a constructor from the node
// (Api, Info); and run(Api, Context), which throws std::exception for inputs that it cannot compute anything of.

#pragma once

#include <exception>
#include <string>

#include "tensors.h"

namespace recsys {

// Do something that may throw, for a caller in C.
template <typename Work>
onnxruntime_v1::Status* guarded(onnxruntime_v1::Api api, const char* name, Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const onnxruntime_v1::Failed& failed) {
    return failed.status;
  } catch (const std::exception& error) {
    try {
      return onnxruntime_v1::make_status(api, ("recsys." + std::string(name) + ": " + error.what()).c_str());
    } catch (const std::exception&) {
      return onnxruntime_v1::make_status(api, "recsys: out of memory");
    }
  }
}

template <typename Kernel>
struct Held {
  onnxruntime_v1::Api api;
  Kernel kernel;
};

template <typename Kernel>
constexpr onnxruntime_v1::Operator make_operator() {
  namespace ort = onnxruntime_v1;
  ort::Operator made{};
  made.version = ort::kVersion;
  made.name = [](const ort::Operator*) { return Kernel::kName; };
  made.provider = [](const ort::Operator*) -> const char* { return nullptr; };  // on the processor
  made.input_type = [](const ort::Operator*, size_t i) { return Kernel::input_type(i); };
  made.input_count = [](const ort::Operator*) -> size_t { return Kernel::kInputs; };
  made.output_type = [](const ort::Operator*, size_t i) { return Kernel::output_type(i); };
  made.output_count = [](const ort::Operator*) -> size_t { return Kernel::kOutputs; };
  made.input_is = [](const ort::Operator*, size_t) { return 0; };  // required
  made.output_is = [](const ort::Operator*, size_t) { return 0; };
  made.input_memory = [](const ort::Operator*, size_t) { return 0; };
  made.create = [](const ort::Operator*, ort::Api api, const ort::Info* info, void** kernel) {
    return guarded(api, Kernel::kName, [&] { *kernel = new Held<Kernel>{api, Kernel(api, info)}; });
  };
  made.compute = [](void* held, ort::Context* context) {
    const auto* of = static_cast<const Held<Kernel>*>(held);
    return guarded(of->api, Kernel::kName, [&] { of->kernel.run(of->api, context); });
  };
  made.destroy = [](void* held) { delete static_cast<Held<Kernel>*>(held); };
  return made;
}

extern const onnxruntime_v1::Operator kIdRows, kStackedIdRows, kBucketInterest, kTopItems, kTopItemsByBits, kTopScores,
    kTargetAttention, kAttentionWeight, kHead;

}  // namespace recsys
