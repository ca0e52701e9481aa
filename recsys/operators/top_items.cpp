// TopItems and TopScores: the best rows that are allowed and not left out (export/retrieval/top_items.py).
//
// TopItems reads 8-bit codes of the rows first. A row is x = scale * code + dx, the user's vector q = unit * numbers + dq,
// and their product lies within |dx| |q| + |scale * code| |dq| of the integers' one. Each row whose upper bound reaches
// the k-th best lower bound is scored by its float32 numbers; no other can be among the k best. So the list is that of
// scoring all, but for rows whose scores differ by no more than rounding does. Where there are no codes, or q is not
// of finite numbers, all are scored.
//
// Legend: M + 1 rows of the table, D columns, Q vectors of the user, A added items, k to find.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include "operator.h"
#include "scan.h"

namespace recsys {
namespace {

namespace ort = onnxruntime_v1;

constexpr int64_t kBlock = 1024;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// What a search keeps of the rows it met: those that may be among the k best, by bounds of their scores.
struct Candidate {
  int64_t row;
  float lower, upper;  // equal if the score is known
  float addition;
};

// The k-th best lower bound is what an upper bound must reach. It is found again whenever twice as many were met as were
// left the last time, so that a row costs the same however many there are.
class Candidates {
 public:
  explicit Candidates(int64_t k) : k_(k), room_(std::max<int64_t>(4 * k, 1024)) {}

  // Whoever cannot reach this is not among the best.
  float least() const { return least_; }

  void offer(int64_t row, float lower, float upper, float addition) {
    if (!(upper >= least_)) return;
    kept_.push_back({row, lower, upper, addition});
    if (int64_t(kept_.size()) >= room_) {
      drop();
      room_ = std::max<int64_t>(room_, 2 * kept_.size());
    }
  }

  // All that may be among the best.
  std::vector<Candidate>& left() {
    drop();
    return kept_;
  }

 private:
  void drop() {
    if (k_ == 0) return kept_.clear();
    if (int64_t(kept_.size()) <= k_) return;
    // What is no number is below all.
    const auto more = [](const Candidate& a, const Candidate& b) { return key(a) > key(b); };
    std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end(), more);
    least_ = std::max(least_, key(kept_[k_ - 1]));
    kept_.erase(std::remove_if(kept_.begin(), kept_.end(), [&](const Candidate& one) { return one.upper < least_; }),
                kept_.end());
  }

  static float key(const Candidate& one) {
    return one.lower == one.lower ? one.lower : -std::numeric_limits<float>::infinity();
  }

  int64_t k_, room_;
  float least_ = std::numeric_limits<float>::lowest();
  std::vector<Candidate> kept_;
};

std::atomic<int> chosen_scan{-1};

// Rows whose numbers the last search in this thread had to read.
thread_local int64_t rows_scored = 0;

int scan_number() {
  const int chosen = chosen_scan.load();
  return chosen >= 0 ? chosen : best_scan();
}

// Rows to look at: all, those of a list, or those of a mask; without those that are left out.
struct Which {
  enum { kAll, kList, kMask };
  int64_t table_rows, added;
  int64_t kind;
  const int64_t* list;
  int64_t length;
  const uint8_t* mask;
  int64_t mask_bits;
  std::vector<int64_t> out;  // ascending, with row 0

  bool has_bit(int64_t row) const { return row < mask_bits && (mask[row / 8] >> (row % 8) & 1); }

  bool allows(int64_t row) const {
    if (std::binary_search(out.begin(), out.end(), row)) return false;
    if (kind == kList) return std::binary_search(list, list + length, row);
    return kind == kAll || has_bit(row);
  }
};

Which read_which(const Tensor& left_out, const Tensor& allowed, const Tensor& rows, const Tensor& mask,
                 int64_t table_rows, int64_t added) {
  Which which{table_rows, added, allowed.longs()[0], rows.longs(), rows.count(),
              static_cast<const uint8_t*>(mask.data), 8 * mask.count(), {}};
  const auto check = [&](int64_t row) {
    if (row < 0 || row >= table_rows + added) throw std::invalid_argument("there is no such row");
  };
  which.out.assign(left_out.longs(), left_out.longs() + left_out.count());
  std::for_each(which.out.begin(), which.out.end(), check);
  which.out.push_back(0);
  std::sort(which.out.begin(), which.out.end());
  which.out.erase(std::unique(which.out.begin(), which.out.end()), which.out.end());
  if (which.kind == Which::kList) {
    std::for_each(which.list, which.list + which.length, check);
    if (!std::is_sorted(which.list, which.list + which.length)) throw std::invalid_argument("rows are not ascending");
  }
  if (which.kind == Which::kMask && which.mask_bits < table_rows + added)
    throw std::invalid_argument("the mask is shorter than the rows are many");
  return which;
}

// Show a scorer's rows of the table to the candidates, but for those of `skip`, ascending.
//
// A scorer has: bounds(rows or null, begin, count), the most that they can be, [count]; lower(i), of the last ones.
template <typename Scorer>
void scan_table(Scorer& scorer, const Which& which, const std::vector<int64_t>& skip, Candidates& found) {
  auto next = skip.begin();
  int64_t chosen[kBlock];
  const auto show = [&](const int64_t* rows, int64_t begin, int64_t count) {
    float* upper = scorer.bounds(rows, begin, count);
    for (; rows == nullptr && next != skip.end() && *next < begin + count; ++next) upper[*next - begin] = kNever;
    constexpr int64_t kGroup = 32;
    for (int64_t first = 0; first < count; first += kGroup) {
      const int64_t end = std::min(first + kGroup, count);
      int any = 0;
      for (int64_t i = first; i < end; i++) any |= upper[i] >= found.least();
      for (int64_t i = first; any && i < end; i++)
        if (upper[i] >= found.least()) found.offer(row_at(rows, begin, i), scorer.lower(i), upper[i], 0.0f);
    }
  };
  if (which.kind == Which::kAll) {
    for (int64_t begin = 0; begin < which.table_rows; begin += kBlock)
      show(nullptr, begin, std::min(kBlock, which.table_rows - begin));
    return;
  }
  int64_t count = 0;
  const auto choose = [&](int64_t row) {
    while (next != skip.end() && *next < row) ++next;
    if (next != skip.end() && *next == row) return;
    chosen[count++] = row;
    if (count == kBlock) {
      show(chosen, 0, count);
      count = 0;
    }
  };
  if (which.kind == Which::kList) {
    for (int64_t i = 0; i < which.length && which.list[i] < which.table_rows; i++) choose(which.list[i]);
  } else {
    for (int64_t byte = 0; 8 * byte < which.table_rows; byte++)
      for (unsigned bits = which.mask[byte]; bits; bits &= bits - 1) {
        const int64_t row = 8 * byte + __builtin_ctz(bits);
        if (row < which.table_rows) choose(row);
      }
  }
  if (count) show(chosen, 0, count);
}

void offer_added(const float* scores, const Which& which, Candidates& found) {
  if (which.kind == Which::kList) {
    const int64_t* begin = std::lower_bound(which.list, which.list + which.length, which.table_rows);
    for (; begin != which.list + which.length; ++begin)
      if (!std::binary_search(which.out.begin(), which.out.end(), *begin)) {
        const float score = scores[*begin - which.table_rows];
        found.offer(*begin, score, score, 0.0f);
      }
    return;
  }
  for (int64_t a = 0; a < which.added; a++)
    if (scores[a] >= found.least() && which.allows(which.table_rows + a))
      found.offer(which.table_rows + a, scores[a], scores[a], 0.0f);
}

struct Found {
  float score;
  int64_t row;
  bool operator<(const Found& other) const { return score != other.score ? score > other.score : row < other.row; }
};

// The outputs: of those that are left the k best by their scores, equal ones by their rows.
template <typename Score>
void write(ort::Api api, ort::Context* context, Candidates& candidates, int64_t k, Score score) {
  std::vector<Found> found;
  for (const Candidate& one : candidates.left()) {
    const float value = score(one);
    if (value > kNever) found.push_back({value, one.row});  // what is no number is never found
  }
  const int64_t count = std::min<int64_t>(k, found.size());
  std::partial_sort(found.begin(), found.begin() + count, found.end());
  int64_t* rows = static_cast<int64_t*>(make_output(api, context, 0, {count}));
  float* scores = static_cast<float*>(make_output(api, context, 1, {count}));
  for (int64_t i = 0; i < count; i++) {
    rows[i] = found[i].row;
    scores[i] = found[i].score;
  }
}

int64_t read_k(const Tensor& k) {
  if (k.longs()[0] < 0) throw std::invalid_argument("k is negative");
  return k.longs()[0];
}

struct GivenScores {
  const float* scores;
  float upper[kBlock];

  float* bounds(const int64_t* rows, int64_t begin, int64_t count) {
    for (int64_t i = 0; i < count; i++) upper[i] = scores[row_at(rows, begin, i)];
    return upper;
  }
  float lower(int64_t i) const { return upper[i]; }
};

// Vectors of the user, [D, Q], one after another, as float32 and as 16-bit numbers.
class User {
 public:
  User(const float* user, int64_t D, int64_t Q, int64_t P) : D(D), Q(Q), vectors(D * Q), numbers(P * Q) {
    // 127 times D such numbers are added up in 32 bits.
    const double most = std::min(32767.0, std::floor(2147483647.0 / (127.0 * std::max<int64_t>(P, 1))));
    for (int64_t q = 0; q < Q; q++) {
      double largest = 0.0, squares = 0.0, all = 0.0, missing = 0.0;
      for (int64_t d = 0; d < D; d++) {
        const float number = vectors[q * D + d] = user[d * Q + q];
        is_finite = is_finite && std::isfinite(number);
        largest = std::max(largest, std::fabs(double(number)));
        squares += double(number) * number;
        all += std::fabs(double(number));
      }
      if (!is_finite) return;
      const float unit = float(largest / most);
      for (int64_t d = 0; d < D; d++) {
        const double number = vectors[q * D + d];
        const double rounded = unit > 0.0f ? std::max(-most, std::min(most, std::nearbyint(number / unit))) : 0.0;
        if (P) numbers[q * P + d] = int16_t(rounded);
        missing += (number - rounded * unit) * (number - rounded * unit);
      }
      // The codes' norm is at most 127 sqrt(D). Beside it what rounding to float32 makes of sums and products.
      constexpr double kRounding = 1.0 / (1 << 20);
      const double spread = 127.0 * (std::sqrt(double(D) * missing) + kRounding * all);
      const double norm = std::sqrt(squares) * (1.0 + kRounding);
      queries.push_back({numbers.data() + q * P, unit, float(spread), float(norm)});
      is_finite = is_finite && std::isfinite(queries.back().spread) && std::isfinite(queries.back().norm);
    }
  }

  int64_t D, Q;
  bool is_finite = true;
  std::vector<float> vectors;
  std::vector<int16_t> numbers;
  std::vector<Query> queries;
};

struct Items {
  const Scan scan;
  const float* items;
  const int8_t* codes;  // null: all are scored
  int64_t P;
  const float* scales;
  const User& user;
  std::vector<int32_t> sums;
  float upper[kBlock];
  const int64_t* rows = nullptr;
  int64_t begin = 0;

  Items(const float* items, const int8_t* codes, int64_t P, const float* scales, const User& user)
      : scan(scan_of(scan_number())), items(items), codes(codes), P(P), scales(scales), user(user),
        sums(codes ? kBlock * user.Q : 0) {}

  float score(int64_t row) const {
    const float* numbers = items + row * user.D;
    float best = scan.dot(numbers, user.vectors.data(), user.D);
    for (int64_t q = 1; q < user.Q; q++) {
      const float other = scan.dot(numbers, user.vectors.data() + q * user.D, user.D);
      best = best == best && !(best > other) ? other : best;  // what is no number stays
    }
    return best;
  }

  float* bounds(const int64_t* of, int64_t first, int64_t count) {
    rows = of;
    begin = first;
    if (codes == nullptr) {
      rows_scored += count;
      for (int64_t i = 0; i < count; i++) {
        if (of && i + 8 < count) __builtin_prefetch(items + of[i + 8] * user.D);
        upper[i] = score(row_at(of, first, i));
      }
      return upper;
    }
    for (int64_t q = 0; q < user.Q; q++)
      scan.bounds(codes, P, scales, of, first, count, user.queries[q], q > 0, sums.data() + q * kBlock, upper);
    return upper;
  }

  float lower(int64_t i) const {
    if (codes == nullptr) return upper[i];
    const float* of = scales + 2 * row_at(rows, begin, i);
    float best = kNever;
    for (int64_t q = 0; q < user.Q; q++) {
      const Query& query = user.queries[q];
      best = std::max(best, of[0] * (query.unit * float(sums[q * kBlock + i]) - query.spread) - of[1] * query.norm);
    }
    return best;
  }
};

// What is added to rows' scores, each row once, ascending.
std::vector<Candidate> sum_up(const int64_t* rows, const float* additions, int64_t count, int64_t table_rows) {
  std::vector<Candidate> sums(count);
  for (int64_t i = 0; i < count; i++) {
    if (rows[i] < 0 || rows[i] >= table_rows) throw std::invalid_argument("something is added to no row");
    sums[i] = {rows[i], 0.0f, 0.0f, additions[i]};
  }
  std::stable_sort(sums.begin(), sums.end(), [](const Candidate& a, const Candidate& b) { return a.row < b.row; });
  size_t kept = 0;
  for (size_t i = 0; i < sums.size(); i++)
    if (kept && sums[kept - 1].row == sums[i].row)
      sums[kept - 1].addition += sums[i].addition;
    else
      sums[kept++] = sums[i];
  sums.resize(kept);
  return sums;
}

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
    const int8_t* codes = has_codes && user.is_finite && !few ? in[kCodes].bytes() : nullptr;
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
      return items->score(one.row) + one.addition;
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

// Rows whose numbers were read by the last TopItems that this thread ran: those that the codes did not rule out.
extern "C" __attribute__((visibility("default"))) int64_t recsys_rows_scored() { return recsys::rows_scored; }
