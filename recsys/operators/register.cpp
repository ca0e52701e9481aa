// What ONNX Runtime calls when it loads this library, and what recsys asks before that.

#include <atomic>

#include "operator.h"

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

// Lets no read or write pass from one side of the call to the other, as processes need that share memory without a lock.
EXPORTED void recsys_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

EXPORTED ort::Status* RegisterCustomOps(ort::Options* options, const ort::ApiBase* base) {
  const ort::Api api = base->get_api(ort::kVersion);
  return recsys::guarded(api, "operators", [&] {
    static ort::Domain* const domain = [&] {  // one for all sessions
      ort::Domain* made = nullptr;
      ort::create_domain(api, "recsys", &made);
      for (const ort::Operator* one : {&recsys::kIdRows, &recsys::kStackedIdRows, &recsys::kBucketInterest,
                                       &recsys::kTopItems, &recsys::kTopItemsByBits, &recsys::kTopScores})
        ort::add_operator(api, made, one);
#if defined(__x86_64__)
      if (recsys_has_vnni())
        for (const ort::Operator* one : {&recsys::kTargetAttention, &recsys::kAttentionWeight, &recsys::kHead})
          ort::add_operator(api, made, one);
#endif
      return made;
    }();
    ort::add_domain(api, options, domain);
  });
}
