// TopItems and TopScores: the best rows that are allowed and not left out (export/retrieval/top_items.py).
//
// TopItems reads 8-bit codes of the rows first. A row is x = scale * code + dx, the user's vector q = unit * numbers + dq,
// and their product lies within |dx| |q| + |scale * code| |dq| of the integers' one. Each row whose upper bound reaches
// the k-th best lower bound is scored by its float32 numbers; no other can be among the k best. So the list is that of
// scoring all, but for rows whose scores differ by no more than rounding does. Where there are no codes, or q is not
// of finite numbers, all are scored.
//
// Legend: M + 1 rows of the table, D columns, Q vectors of the user, A added items, k to find.

#include <memory>

#include "candidates.h"
#include "rows.h"

namespace recsys {
namespace {

struct GivenScores {
  const float* scores;
  float upper[kBlock];

  float* bounds(const int64_t* rows, int64_t begin, int64_t count) {
    for (int64_t i = 0; i < count; i++) upper[i] = scores[row_at(rows, begin, i)];
    return upper;
  }
  float lower(int64_t i) const { return upper[i]; }
};

// The user's vectors as 16-bit numbers.
class User {
 public:
  User(const float* user, int64_t D, int64_t Q, int64_t P) : vectors(user, D, Q), numbers(P * Q) {
    // 127 times D such numbers are added up in 32 bits.
    const double most = std::min(32767.0, std::floor(2147483647.0 / (127.0 * std::max<int64_t>(P, 1))));
    for (int64_t q = 0; q < Q && vectors.is_finite; q++) {
      const float* vector = vectors.of(q);
      double largest = 0.0, squares = 0.0, all = 0.0, missing = 0.0;
      for (int64_t d = 0; d < D; d++) {
        largest = std::max(largest, std::fabs(double(vector[d])));
        squares += double(vector[d]) * vector[d];
        all += std::fabs(double(vector[d]));
      }
      const float unit = float(largest / most);
      for (int64_t d = 0; d < D; d++) {
        const double number = vector[d];
        const double rounded = unit > 0.0f ? std::max(-most, std::min(most, std::nearbyint(number / unit))) : 0.0;
        if (P) numbers[q * P + d] = int16_t(rounded);
        missing += (number - rounded * unit) * (number - rounded * unit);
      }
      // The codes' norm is at most 127 sqrt(D). Beside it what rounding to float32 makes of sums and products.
      constexpr double kRounding = 1.0 / (1 << 20);
      const double spread = 127.0 * (std::sqrt(double(D) * missing) + kRounding * all);
      const double norm = std::sqrt(squares) * (1.0 + kRounding);
      queries.push_back({numbers.data() + q * P, unit, float(spread), float(norm)});
      has_bounds = has_bounds && std::isfinite(queries.back().spread) && std::isfinite(queries.back().norm);
    }
    has_bounds = has_bounds && vectors.is_finite;
  }

  Vectors vectors;
  bool has_bounds = true;
  std::vector<int16_t> numbers;
  std::vector<Query> queries;
};

struct Items {
  const int8_t* codes;  // null: all are scored
  int64_t P;
  const float* scales;
  const User& user;
  ScoredRows exact;
  std::vector<int32_t> sums;
  float upper[kBlock];
  const int64_t* rows = nullptr;
  int64_t begin = 0;

  Items(const float* items, const int8_t* codes, int64_t P, const float* scales, const User& user)
      : codes(codes), P(P), scales(scales), user(user), exact(items, user.vectors),
        sums(codes ? kBlock * user.vectors.Q : 0) {}

  float* bounds(const int64_t* of, int64_t first, int64_t count) {
    if (codes == nullptr) return exact.bounds(of, first, count);
    rows = of;
    begin = first;
    for (int64_t q = 0; q < user.vectors.Q; q++)
      exact.scan.bounds(codes, P, scales, of, first, count, user.queries[q], q > 0, sums.data() + q * kBlock, upper);
    return upper;
  }

  float lower(int64_t i) const {
    if (codes == nullptr) return exact.lower(i);
    const float* of = scales + 2 * row_at(rows, begin, i);
    float best = kNever;
    for (int64_t q = 0; q < user.vectors.Q; q++) {
      const Query& query = user.queries[q];
      best = std::max(best, of[0] * (query.unit * float(sums[q * kBlock + i]) - query.spread) - of[1] * query.norm);
    }
    return best;
  }
};

struct TopItems {
  static constexpr const char* kName = "TopItems";
  enum { kItems, kCodes, kScales, kUser, kAdditionRows, kAdditions, kAddedScores, kLeftOut, kAllowed, kRows, kMask, kK };
  static constexpr size_t kInputs = kK + 1, kOutputs = 2;
  static int input_type(size_t i) {
    if (i == kCodes) return ort::kInt8;
    if (i == kMask) return ort::kUint8;
    const bool is_float = i == kItems || i == kScales || i == kUser || i == kAdditions || i == kAddedScores;
    return is_float ? ort::kFloat : ort::kInt64;
  }
  static int output_type(size_t i) { return i == 0 ? ort::kInt64 : ort::kFloat; }

  TopItems(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    const int64_t M1 = in[kItems].sizes[0], D = in[kItems].sizes[1], Q = in[kUser].sizes[1], T = in[kAdditions].count();
    const int64_t P = in[kCodes].sizes[1], A = in[kAddedScores].sizes[0], k = read_k(in[kK]);
    const bool has_codes = P > 0;
    const bool fit = in[kItems].is({M1, D}) && in[kUser].is({D, Q}) && Q > 0 && in[kAdditionRows].is({T}) &&
                     in[kAdditions].is({T}) && in[kAddedScores].is({A, 1}) &&
                     (!has_codes || (in[kCodes].is({M1, P}) && P >= D && P % kTogether == 0 && in[kScales].is({M1, 2})));
    if (!fit) throw std::invalid_argument("the tables and the user's vectors do not fit");
    const Which which = read_which(in[kLeftOut], in[kAllowed], in[kRows], in[kMask], M1, A);
    const User user(in[kUser].floats(), D, Q, P);
    // Of few rows the numbers are read at once.
    const bool few = which.kind == Which::kList && which.length <= 2 * k;
    const int8_t* codes = has_codes && user.has_bounds && !few ? in[kCodes].bytes() : nullptr;
    auto items = std::make_unique<Items>(in[kItems].floats(), codes, P, in[kScales].floats(), user);

    rows_scored = 0;
    Candidates found(k);
    std::vector<int64_t> skip = which.out;
    for (const Candidate& sum :
         sum_up(in[kAdditionRows].longs(), in[kAdditions].floats(), T, M1)) {  // bounded by themselves
      if (!which.allows(sum.row)) continue;
      const float upper = *items->bounds(&sum.row, 0, 1) + sum.addition, lower = items->lower(0) + sum.addition;
      // Rounding of the sum, too.
      const float slack = (std::fabs(upper) + std::fabs(sum.addition)) * 1e-6f;
      const bool is_number = upper + slack == upper + slack;
      found.offer(sum.row, lower - slack, is_number ? upper + slack : -kNever, sum.addition);
      skip.push_back(sum.row);
    }
    std::sort(skip.begin(), skip.end());
    offer_added(in[kAddedScores].floats(), which, found);
    scan_table(*items, which, skip, found);
    write(api, context, found, k, [&](const Candidate& one) {
      if (one.row >= M1) return one.upper;
      rows_scored += items->codes != nullptr;
      return items->exact.score(one.row) + one.addition;
    });
  }
};

struct TopScores {
  static constexpr const char* kName = "TopScores";
  enum { kScores, kAddedScores, kLeftOut, kAllowed, kRows, kMask, kK };
  static constexpr size_t kInputs = kK + 1, kOutputs = 2;
  static int input_type(size_t i) {
    return i == kMask ? ort::kUint8 : i <= kAddedScores ? ort::kFloat : ort::kInt64;
  }
  static int output_type(size_t i) { return i == 0 ? ort::kInt64 : ort::kFloat; }

  TopScores(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    const int64_t M1 = in[kScores].sizes[0], A = in[kAddedScores].sizes[0], k = read_k(in[kK]);
    if (!in[kScores].is({M1, 1}) || !in[kAddedScores].is({A, 1})) throw std::invalid_argument("scores are no column");
    const Which which = read_which(in[kLeftOut], in[kAllowed], in[kRows], in[kMask], M1, A);
    Candidates found(k);
    offer_added(in[kAddedScores].floats(), which, found);
    GivenScores scores{in[kScores].floats(), {}};
    scan_table(scores, which, which.out, found);
    write(api, context, found, k, [](const Candidate& one) { return one.upper; });
  }
};

}  // namespace

const ort::Operator kTopItems = make_operator<TopItems>();
const ort::Operator kTopScores = make_operator<TopScores>();

}  // namespace recsys

// Scan by the functions of this number (scan.h), or, if -1, by the best that run here; the best number.
extern "C" __attribute__((visibility("default"))) int recsys_choose_scan(int number) {
  const int best = recsys::best_scan();
  if (number <= best) recsys::chosen_scan.store(number);
  return best;
}

// Rows whose numbers were read by the last search that this thread ran: those that the codes did not rule out.
extern "C" __attribute__((visibility("default"))) int64_t recsys_rows_scored() { return recsys::rows_scored; }
