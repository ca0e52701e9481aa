// IdRows: rows of ids, by a two-choice bucketed hash table (embeddings/row_maps/id_table.py).
//
// A key is in one of W slots of one of two buckets. A bucket is the keys of its slots, then their rows; empty slots
// have a key that no id has. The row of a key that is in neither is 0.
//
// The standard operators visit the table once for all keys, and what they found five times. Here all buckets are
// asked for before the first is read, so that the waits for memory fall together.

#include "operator.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

// The hash functions' coefficients are [2, 1, ..]: one number a function. The table is [T, 2 W].
enum { kKeys, kOfLow, kOfFolded, kOffset, kCount, kFirst, kSlots, kInputs };

constexpr uint64_t kPrime = (uint64_t{1} << 31) - 1;
constexpr int64_t kBatch = 256;  // keys whose buckets are asked for together
constexpr int kChoices = 2;

struct Hash {
  uint64_t of_low, of_folded, offset;
  int64_t count, first;

  // features/hashing.py has the definition; both products are below 2^62.
  int64_t bucket(int64_t key) const {
    const int64_t rest = key % int64_t(kPrime);
    const uint64_t low = uint64_t(key) & kPrime, folded = rest < 0 ? rest + kPrime : rest;
    return first + int64_t((low * of_low + folded * of_folded + offset) % kPrime % uint64_t(count));
  }
};

int64_t row_in(const int64_t* bucket, int64_t slots, int64_t key) {
  int64_t row = 0;
  for (int64_t slot = 0; slot < slots; slot++) row += bucket[slot] == key ? bucket[slots + slot] : 0;
  return row;
}

void look_up(const int64_t* keys, int64_t count, const Hash (&hashes)[kChoices], const int64_t* table, int64_t slots,
             int64_t* rows) {
  for (int64_t begin = 0; begin < count; begin += kBatch) {
    const int64_t size = count - begin < kBatch ? count - begin : kBatch;
    const int64_t* buckets[kBatch][kChoices];
    for (int64_t i = 0; i < size; i++)
      for (int choice = 0; choice < kChoices; choice++) {
        buckets[i][choice] = table + hashes[choice].bucket(keys[begin + i]) * 2 * slots;
        for (int64_t line = 0; line < 2 * slots; line += 8) __builtin_prefetch(buckets[i][choice] + line);
      }
    for (int64_t i = 0; i < size; i++) {
      rows[begin + i] = 0;
      for (int choice = 0; choice < kChoices; choice++)
        rows[begin + i] += row_in(buckets[i][choice], slots, keys[begin + i]);
    }
  }
}

bool fit(const Tensor (&in)[kInputs], Hash (&hashes)[kChoices]) {
  if (in[kSlots].rank != 2 || in[kSlots].sizes[1] % 2) return false;
  for (int i = kOfLow; i <= kFirst; i++)
    if (in[i].rank == 0 || in[i].sizes[0] != kChoices || in[i].count() != kChoices) return false;
  for (int choice = 0; choice < kChoices; choice++) {
    const auto of = [&](int number) { return in[number].longs()[choice]; };
    hashes[choice] = {uint64_t(of(kOfLow)), uint64_t(of(kOfFolded)), uint64_t(of(kOffset)), of(kCount), of(kFirst)};
    const int64_t buckets = in[kSlots].sizes[0];
    if (of(kFirst) < 0 || of(kFirst) > buckets || of(kCount) <= 0 || of(kCount) > buckets - of(kFirst)) return false;
  }
  return true;
}

struct IdRows {
  static constexpr const char* kName = "IdRows";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 1;
  static int input_type(size_t) { return ort::kInt64; }
  static int output_type(size_t) { return ort::kInt64; }

  IdRows(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    Hash hashes[kChoices];
    if (!fit(in, hashes)) throw std::invalid_argument("the table does not fit its hashes");
    const Tensor& keys = in[kKeys];
    int64_t* rows = static_cast<int64_t*>(make_output(api, context, 0, keys.sizes, keys.rank));
    look_up(keys.longs(), keys.count(), hashes, in[kSlots].longs(), in[kSlots].sizes[1] / 2, rows);
  }
};

}  // namespace

const ort::Operator kIdRows = make_operator<IdRows>();

}  // namespace recsys
