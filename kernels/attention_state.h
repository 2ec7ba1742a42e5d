// What attention keeps of each row, one query head of one query, while it goes over a context.
//
// A context is cut into sections. Each is summed from a state of its own, and states become one in the order of their
// sections (split-KV, Flash-Decoding, Dao et al. 2023): the result has the same bits whether one thread computes them
// all or each its own.
#pragma once

#include <algorithm>
#include <cstddef>

namespace tiercel::kernels {

inline constexpr float kMasked = -1e30f;  // a score whose weight is 0, and no NaN when two are subtracted

struct AttentionState {
  // At `base`, a multiple of 64 bytes; padded_dim a multiple of 16.
  AttentionState(float* base, std::size_t row_count, std::size_t padded_row)
      : rows(row_count), padded_dim(padded_row), sums(base) {
    maxima = sums + rows * padded_dim;
    totals = maxima + padded(rows);
  }
  static std::size_t floats(std::size_t rows, std::size_t padded_dim) { return rows * padded_dim + 2 * padded(rows); }

  void clear() const {
    std::fill_n(sums, rows * padded_dim, 0.0f);
    std::fill_n(maxima, rows, kMasked);
    std::fill_n(totals, rows, 0.0f);
  }

  // Takes in the next section. `power(x)` is what weights are of scores, for x <= 0. A row that sees nothing of that
  // section stays as it is, to the bit.
  template <class Power>
  void merge(const AttentionState& next, const Power& power) const {
    for (std::size_t r = 0; r < rows; ++r) {
      if (next.totals[r] == 0) continue;
      const float difference = next.maxima[r] - maxima[r];
      const float keep = difference > 0 ? power(-difference) : 1, take = difference < 0 ? power(difference) : 1;
      float* to = sums + r * padded_dim;
      const float* from = next.sums + r * padded_dim;
      for (std::size_t i = 0; i < padded_dim; ++i) to[i] = to[i] * keep + from[i] * take;
      totals[r] = totals[r] * keep + next.totals[r] * take;
      maxima[r] = std::max(maxima[r], next.maxima[r]);
    }
  }

  // Takes in the states of sections 1 to `sections` - 1, which lie behind this one, section 0's.
  template <class Power>
  void merge_following(std::size_t sections, const Power& power) const {
    for (std::size_t i = 1; i < sections; ++i) {
      merge(AttentionState(sums + i * floats(rows, padded_dim), rows, padded_dim), power);
    }
  }

  std::size_t rows, padded_dim;
  float* sums;    // [row][padded_dim]: sum of weight times value
  float* maxima;  // [row]: largest score
  float* totals;  // [row]: sum of weights, relative to the largest score

 private:
  static std::size_t padded(std::size_t rows) { return (rows + 15) / 16 * 16; }
};

}  // namespace tiercel::kernels
