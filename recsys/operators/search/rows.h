// Rows of the item table, scored by their float32 numbers.

#pragma once

#include "candidates.h"

namespace recsys {

// Vectors of the user, [D, Q], one after another.
struct Vectors {
  Vectors(const float* user, int64_t D, int64_t Q) : D(D), Q(Q), numbers(D * Q) {
    for (int64_t q = 0; q < Q; q++)
      for (int64_t d = 0; d < D; d++) {
        numbers[q * D + d] = user[d * Q + q];
        is_finite = is_finite && std::isfinite(user[d * Q + q]);
      }
  }
  const float* of(int64_t q) const { return numbers.data() + q * D; }

  int64_t D, Q;
  bool is_finite = true;
  std::vector<float> numbers;
};

// A scorer of scan_table whose scores are known.
struct ScoredRows {
  const Scan scan;
  const float* items;
  const Vectors& user;
  float scores[kBlock];

  ScoredRows(const float* items, const Vectors& user) : scan(scan_of(scan_number())), items(items), user(user) {}

  float score(int64_t row) const {
    const float* numbers = items + row * user.D;
    float best = scan.dot(numbers, user.of(0), user.D);
    for (int64_t q = 1; q < user.Q; q++) {
      const float other = scan.dot(numbers, user.of(q), user.D);
      best = best == best && !(best > other) ? other : best;  // what is no number stays
    }
    return best;
  }

  // A row's numbers are asked for ahead: its place in memory is not foreseen by the processor.
  void ask_for(int64_t row) const {
    const float* numbers = items + row * user.D;
    for (int64_t d = 0; d < std::min<int64_t>(user.D, 64); d += 16) __builtin_prefetch(numbers + d);
  }

  float* bounds(const int64_t* rows, int64_t begin, int64_t count) {
    rows_scored += count;
    for (int64_t i = 0; i < count; i++) {
      if (rows && i + 8 < count) ask_for(rows[i + 8]);
      scores[i] = score(row_at(rows, begin, i));
    }
    return scores;
  }
  float lower(int64_t i) const { return scores[i]; }
};

}  // namespace recsys
