// What ONNX Runtime calls when it loads this library, and what recsys asks before that.

#include "tensors.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace ort = onnxruntime_v1;

// Whether this processor has what operators in 8-bit integers need.
EXPORTED int recsys_has_vnni() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return 0;
#endif
}

EXPORTED ort::Status* RegisterCustomOps(ort::Options* options, const ort::ApiBase* base) {
  const ort::Api api = base->get_api(ort::kVersion);
  ort::Domain* domain = nullptr;
  if (ort::Status* failed = ort::create_domain(api, "recsys", &domain)) return failed;
  for (const ort::Operator* one : {&recsys::kIdRows, &recsys::kBucketInterest})
    if (ort::Status* failed = ort::add_operator(api, domain, one)) return failed;
#if defined(__x86_64__)
  if (recsys_has_vnni())
    for (const ort::Operator* one : {&recsys::kTargetAttention, &recsys::kAttentionWeight, &recsys::kHead})
      if (ort::Status* failed = ort::add_operator(api, domain, one)) return failed;
#endif
  return ort::add_domain(api, options, domain);
}
