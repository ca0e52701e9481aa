// IdRows: rows of ids, by a two-choice bucketed hash table (embeddings/row_maps/id_table.py).
// StackedIdRows: the same of several tables that lie in one tensor; the keys' first dimension is over them.
//
// A key is in one of W slots of one of two buckets. A bucket is the keys of its slots, then their rows; empty slots
// have a key that no id has. The row of a key that is in neither is 0.
//
// The standard operators visit the table once for all keys, and what they found five times. Here all buckets are
// asked for before the first is read, so that the waits for memory fall together.

#include <vector>

#include "operator.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

// The hash functions' coefficients are [2, 1, ..]: one number a function; of M tables [2, M, ..]. The table is [T, 2 W].
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

struct Hashes {
  Hash of[kChoices];
};

// Of every `per_table` keys the next table's hashes.
void look_up(const int64_t* keys, int64_t count, int64_t per_table, const Hashes* hashes, const int64_t* table,
             int64_t slots, int64_t* rows) {
  int64_t left = per_table;
  for (int64_t begin = 0; begin < count; begin += kBatch) {
    const int64_t size = count - begin < kBatch ? count - begin : kBatch;
    const int64_t* buckets[kBatch][kChoices];
    for (int64_t i = 0; i < size; i++) {
      if (left-- == 0) {
        hashes++;
        left = per_table - 1;
      }
      for (int choice = 0; choice < kChoices; choice++) {
        buckets[i][choice] = table + hashes->of[choice].bucket(keys[begin + i]) * 2 * slots;
        for (int64_t line = 0; line < 2 * slots; line += 8) __builtin_prefetch(buckets[i][choice] + line);
      }
    }
    for (int64_t i = 0; i < size; i++) {
      rows[begin + i] = 0;
      for (int choice = 0; choice < kChoices; choice++)
        rows[begin + i] += row_in(buckets[i][choice], slots, keys[begin + i]);
    }
  }
}

// The hashes of as many tables; none if they do not fit what they are given with.
std::vector<Hashes> read_hashes(const Tensor (&in)[kInputs], int64_t tables) {
  if (in[kSlots].rank != 2 || in[kSlots].sizes[1] % 2) return {};
  for (int i = kOfLow; i <= kFirst; i++)
    if (in[i].rank == 0 || in[i].sizes[0] != kChoices || in[i].count() != kChoices * tables) return {};
  std::vector<Hashes> hashes(tables);
  for (int64_t place = 0; place < kChoices * tables; place++) {
    const auto of = [&](int number) { return in[number].longs()[place]; };
    Hash& hash = hashes[place % tables].of[place / tables];
    hash = {uint64_t(of(kOfLow)), uint64_t(of(kOfFolded)), uint64_t(of(kOffset)), of(kCount), of(kFirst)};
    const int64_t buckets = in[kSlots].sizes[0];
    if (of(kFirst) < 0 || of(kFirst) > buckets || of(kCount) <= 0 || of(kCount) > buckets - of(kFirst)) return {};
  }
  return hashes;
}

template <bool stacked>
struct IdRows {
  static constexpr const char* kName = stacked ? "StackedIdRows" : "IdRows";
  static constexpr size_t kInputs = ::recsys::kInputs, kOutputs = 1;
  static int input_type(size_t) { return ort::kInt64; }
  static int output_type(size_t) { return ort::kInt64; }

  IdRows(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    const Tensor& keys = in[kKeys];
    const int64_t tables = stacked ? (keys.rank ? keys.sizes[0] : 0) : 1;
    const std::vector<Hashes> hashes = read_hashes(in, tables);
    if (hashes.empty()) throw std::invalid_argument("the table does not fit its hashes");
    int64_t* rows = static_cast<int64_t*>(make_output(api, context, 0, keys.sizes, keys.rank));
    const int64_t count = keys.count(), slots = in[kSlots].sizes[1] / 2;
    look_up(keys.longs(), count, count / tables, hashes.data(), in[kSlots].longs(), slots, rows);
  }
};

}  // namespace

const ort::Operator kIdRows = make_operator<IdRows<false>>();
const ort::Operator kStackedIdRows = make_operator<IdRows<true>>();

}  // namespace recsys
