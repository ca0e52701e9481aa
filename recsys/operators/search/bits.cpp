// TopItemsByBits: the best rows that are allowed and not left out, of those that codes of few bits say may be among them
// (export/retrieval/bits.py).
//
// Rows are put in order by scale * (unit * product + |q|): the product of the row's code with the turned user's vector,
// and |q| for what the code misses, about one and a half of its standard deviations. The first R of these are scored
// by their float32 numbers, and the k best are found among them, rows of which all is known, and none besides. So the
// list is right with a probability, which an export measures; R goes by k (`reranked`), and where it says nothing of
// a k, where no more than R rows are allowed, or where the user's vector is not of finite numbers, all are scored.
//
// Legend: M + 1 rows of the table, D columns, P columns of codes, B bits, Q vectors of the user, A added items, k to find.

#include <memory>

#include "candidates.h"
#include "planes.h"
#include "rows.h"

namespace recsys {
namespace {

// The user's vectors, turned, as tables of sums.
class TurnedUser {
 public:
  TurnedUser(const Vectors& user, const float* rotation, int64_t P) : tables(4 * P * user.Q) {
    std::vector<double> turned(P);
    std::vector<int> numbers(P);
    for (int64_t q = 0; q < user.Q; q++) {
      double largest = 0.0, squares = 0.0;
      for (int64_t p = 0; p < P; p++) {
        double sum = 0.0;
        for (int64_t d = 0; d < user.D; d++) sum += double(rotation[p * user.D + d]) * user.of(q)[d];
        turned[p] = sum;
        largest = std::max(largest, std::fabs(sum));
        squares += sum * sum;
      }
      for (int64_t p = 0; p < P; p++)
        numbers[p] = largest > 0.0 ? int(std::nearbyint(turned[p] / largest * kMostNumber)) : 0;
      uint8_t* table = tables.data() + q * 4 * P;
      for (int64_t four = 0; four < P / 4; four++)
        for (int bits = 0; bits < 16; bits++) {
          int sum = kBias;
          for (int i = 0; i < 4; i++) sum += (bits >> i & 1) ? numbers[4 * four + i] : -numbers[4 * four + i];
          table[16 * four + bits] = uint8_t(sum);
        }
      queries.push_back({table, float(largest / kMostNumber), float(std::sqrt(squares))});
    }
  }

  std::vector<uint8_t> tables;
  std::vector<PlaneQuery> queries;
};

// A scorer of scan_table that knows the rows' order.
struct OrderedRows {
  const PlaneOrder order_rows;
  const Planes planes;
  const float* scales;
  const TurnedUser& user;
  int32_t products[kBlock];
  float order[kBlock];

  OrderedRows(const Planes& planes, const float* scales, const TurnedUser& user)
      : order_rows(plane_order_of(scan_number())), planes(planes), scales(scales), user(user) {}

  float* bounds(const int64_t* rows, int64_t begin, int64_t count) {
    for (const PlaneQuery& query : user.queries)
      order_rows(planes, scales, rows, begin, count, query, &query != user.queries.data(), products, order);
    return order;
  }
  float lower(int64_t i) const { return order[i]; }
};

// Rows to score for a list of k: those of the shortest list, of the ascending ones in [S, 2], that is no shorter; all, a
// negative number, for longer ones.
int64_t rows_to_score(const Tensor& reranked, int64_t k) {
  for (int64_t s = 0; s < reranked.sizes[0]; s++)
    if (reranked.longs()[2 * s] >= k) return std::max(k, reranked.longs()[2 * s + 1]);
  return -1;
}

struct TopItemsByBits {
  static constexpr const char* kName = "TopItemsByBits";
  enum {
    kItems, kCodes, kScales, kRotation, kReranked, kUser, kAdditionRows, kAdditions, kAddedScores, kLeftOut, kAllowed,
    kRows, kMask, kK
  };
  static constexpr size_t kInputs = kK + 1, kOutputs = 2;
  static int input_type(size_t i) {
    if (i == kCodes || i == kMask) return ort::kUint8;
    const bool is_float = i == kItems || i == kScales || i == kRotation || i == kUser || i == kAdditions || i == kAddedScores;
    return is_float ? ort::kFloat : ort::kInt64;
  }
  static int output_type(size_t i) { return i == 0 ? ort::kInt64 : ort::kFloat; }

  TopItemsByBits(ort::Api, const ort::Info*) {}

  void run(ort::Api api, ort::Context* context) const {
    Tensor in[kInputs];
    read_inputs(api, context, in);
    const int64_t M1 = in[kItems].sizes[0], D = in[kItems].sizes[1], Q = in[kUser].sizes[1], T = in[kAdditions].count();
    const int64_t A = in[kAddedScores].sizes[0], k = read_k(in[kK]), P = in[kRotation].sizes[0];
    const int64_t B = in[kCodes].rank == 3 ? in[kCodes].sizes[1] : 0;
    const bool fit = in[kItems].is({M1, D}) && in[kUser].is({D, Q}) && Q > 0 && in[kAdditionRows].is({T}) &&
                     in[kAdditions].is({T}) && in[kAddedScores].is({A, 1}) && B > 0 && B <= kMostPlanes && P > 0 &&
                     P % kColumns == 0 && in[kCodes].is({M1, B, P / 8}) && in[kScales].is({M1, 1}) &&
                     in[kRotation].is({P, D}) && in[kReranked].rank == 2 && in[kReranked].sizes[1] == 2;
    if (!fit) throw std::invalid_argument("the tables and the user's vectors do not fit");
    const Which which = read_which(in[kLeftOut], in[kAllowed], in[kRows], in[kMask], M1, A);
    const Vectors user(in[kUser].floats(), D, Q);
    auto exact = std::make_unique<ScoredRows>(in[kItems].floats(), user);
    const auto sums = sum_up(in[kAdditionRows].longs(), in[kAdditions].floats(), T, M1);
    std::vector<int64_t> skip = which.out;
    for (const Candidate& sum : sums) skip.push_back(sum.row);
    std::sort(skip.begin(), skip.end());

    rows_scored = 0;
    Candidates found(k);
    offer_added(in[kAddedScores].floats(), which, found);
    const auto score = [&](int64_t row, float addition) {
      rows_scored++;
      const float value = exact->score(row) + addition;
      found.offer(row, value, value, 0.0f);
    };
    const int64_t most = rows_to_score(in[kReranked], k);
    if (most < 0 || !user.is_finite || (which.kind == Which::kList ? which.length : M1) <= most) {
      for (const Candidate& sum : sums)
        if (which.allows(sum.row)) score(sum.row, sum.addition);
      scan_table(*exact, which, skip, found);
    } else {
      const TurnedUser turned(user, in[kRotation].floats(), P);
      const Planes planes{static_cast<const uint8_t*>(in[kCodes].data), B, P};
      auto ordered = std::make_unique<OrderedRows>(planes, in[kScales].floats(), turned);
      Candidates first(most);
      for (const Candidate& sum : sums) {
        if (!which.allows(sum.row)) continue;
        const float order = *ordered->bounds(&sum.row, 0, 1) + sum.addition;
        first.offer(sum.row, order, order == order ? order : -kNever, sum.addition);
      }
      scan_table(*ordered, which, skip, first);
      const std::vector<Candidate>& chosen = first.left();
      for (size_t i = 0; i < chosen.size(); i++) {
        if (i + 8 < chosen.size()) exact->ask_for(chosen[i + 8].row);
        score(chosen[i].row, chosen[i].addition);
      }
    }
    write(api, context, found, k, [](const Candidate& one) { return one.upper; });
  }
};

}  // namespace

const ort::Operator kTopItemsByBits = make_operator<TopItemsByBits>();

}  // namespace recsys
