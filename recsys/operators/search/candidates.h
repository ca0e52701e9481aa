// What every search does: which rows it looks at, which of them may be among the best, and the list of these.
//
// Legend: M + 1 rows of the table, D columns, Q vectors of the user, A added items, k to find.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "../operator.h"
#include "scan.h"

namespace recsys {

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

inline std::atomic<int> chosen_scan{-1};

// Rows whose numbers the last search in this thread had to read.
inline thread_local int64_t rows_scored = 0;

inline int scan_number() {
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

inline Which read_which(const Tensor& left_out, const Tensor& allowed, const Tensor& rows, const Tensor& mask,
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
  if (which.kind < Which::kAll || which.kind > Which::kMask) throw std::invalid_argument("allowed is none of 0, 1, 2");
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
  const auto any_reach = scan_of(scan_number()).any_reach;
  auto next = skip.begin();
  int64_t chosen[kBlock];
  const auto show = [&](const int64_t* rows, int64_t begin, int64_t count) {
    float* upper = scorer.bounds(rows, begin, count);
    for (; rows == nullptr && next != skip.end() && *next < begin + count; ++next) upper[*next - begin] = kNever;
    for (int64_t first = 0; first < count; first += kGroup) {
      const int64_t end = std::min(first + kGroup, count);
      if (!any_reach(upper + first, end - first, found.least())) continue;
      for (int64_t i = first; i < end; i++)
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

inline void offer_added(const float* scores, const Which& which, Candidates& found) {
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

inline int64_t read_k(const Tensor& k) {
  if (k.longs()[0] < 0) throw std::invalid_argument("k is negative");
  return k.longs()[0];
}

// What is added to rows' scores, each row once, ascending.
inline std::vector<Candidate> sum_up(const int64_t* rows, const float* additions, int64_t count, int64_t table_rows) {
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

}  // namespace recsys
