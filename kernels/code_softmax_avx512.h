// The softmax of a span's scores as weights of 8 or 12 bits, relative to the largest of their row in the span. A score
// has the logarithm of its value's scale in it, so a weight has that scale, and the sum of weights takes it out again.
#pragma once

#include <type_traits>

#include "kernels/kv_codes_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

inline constexpr std::size_t kCodeSpanTokens = 128;

// The largest weight. With values of that size a span's sums of 32 bits hold words too.
template <class Code>
inline constexpr float kLargestWeight = sizeof(Code) == 1 ? 255.0f : 4095.0f;

// What becomes of a few rows in a span.
template <class Code>
struct FewRows {
  float* scores;                        // [row][token]
  std::make_unsigned_t<Code>* weights;  // [row][token]
  const float* value_inverses;          // [token]: 1 / the scale of its value
};

// kLargest * 2^x for x <= 0, within 1e-4 of it; no code where it is far below. As in PowerOfTwo(), but for the whole
// part, which is added to the exponent: by other units of the processor than multiply.
template <class Code>
HWY_INLINE __m512 WeightOf(__m512 x) {
  constexpr float kLargest = kLargestWeight<Code>;
  const __m512 shift = _mm512_set1_ps(0x1.8p23f);  // a sum with it has the whole part in its lowest bits
  x = _mm512_max_ps(x, _mm512_set1_ps(-120.0f));
  const __m512 shifted = _mm512_add_ps(x, shift);
  const __m512 part = _mm512_sub_ps(x, _mm512_sub_ps(shifted, shift));
  __m512 power = _mm512_set1_ps(kLargest * 0.05500893f);
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(kLargest * 0.24221096f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(kLargest * 0.69328293f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(kLargest));
  const __m512i whole = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), whole));
}

// What earlier sums, and those of a span, are multiplied with, a lane for each row.
struct Factors {
  __m512 earlier, span;
};

// The span's largest scores into the state.
template <std::size_t kRows>
HWY_INLINE Factors TakeMaxima(const AttentionState& state, std::size_t row, __m512 maxima) {
  const __m512 before = _mm512_maskz_loadu_ps(kLanesOfRows<kRows>, state.maxima + row),
               now = _mm512_max_ps(before, maxima), least = _mm512_set1_ps(-200.0f);
  _mm512_mask_storeu_ps(state.maxima + row, kLanesOfRows<kRows>, now);
  return {PowerOfTwo(_mm512_max_ps(_mm512_sub_ps(before, now), least)),
          PowerOfTwo(_mm512_max_ps(_mm512_sub_ps(maxima, now), least))};
}

// And the sums of its weights.
template <std::size_t kRows>
HWY_INLINE void TakeTotals(const AttentionState& state, std::size_t row, const __m512 (&totals)[kRows],
                           const Factors& factors) {
  const __m512 before = _mm512_maskz_loadu_ps(kLanesOfRows<kRows>, state.totals + row);
  _mm512_mask_storeu_ps(state.totals + row, kLanesOfRows<kRows>,
                        _mm512_fmadd_ps(before, factors.earlier, _mm512_mul_ps(FoldRows<Sum>(totals), factors.span)));
}

// Four, or two, vectors of weights as one of codes, in their order.
HWY_INLINE __m512i Pack(const __m512i (&weights)[4]) {
  // In each quarter four of each vector.
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packus_epi32(weights[0], weights[1]), _mm512_packus_epi32(weights[2], weights[3]));
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}
HWY_INLINE __m512i Pack(const __m512i (&weights)[2]) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                  _mm512_packus_epi32(weights[0], weights[1]));
}

// As many as one vector has codes.
template <class Code>
inline constexpr std::size_t kPieceTokens = kCodes<Code>;

// A piece of a row's scores, from token `first` on, into weights relative to the row's largest, which are added to the
// total.
template <class Code>
HWY_INLINE void WeighPiece(const FewRows<Code>& few, std::size_t row, std::size_t first, __m512 maximum,
                           __m512& total) {
  constexpr std::size_t kVectors = kPieceTokens<Code> / kLanes;
  const std::size_t place = row * kCodeSpanTokens + first;
  __m512i weights[kVectors];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m512 weight = WeightOf<Code>(_mm512_sub_ps(_mm512_load_ps(few.scores + place + v * kLanes), maximum));
    weights[v] = _mm512_cvtps_epi32(weight);
    total = _mm512_fmadd_ps(weight, _mm512_load_ps(few.value_inverses + first + v * kLanes), total);
  }
  _mm512_store_si512(few.weights + place, Pack(weights));
}

// Turns the scores of kRows rows into weights, up to `padded` tokens, a multiple of kPieceTokens. kWholeSpan: all rows
// see all of its tokens. Else those at and after visible(r) get weight 0.
template <std::size_t kRows, bool kWholeSpan, class Code, class Visible>
HWY_INLINE Factors Softmax(const FewRows<Code>& few, const AttentionState& state, std::size_t row, std::size_t padded,
                           const Visible& visible, const __m512 (&largest_seen)[kRows]) {
  const __m512 maxima = LargestScores<kRows, kWholeSpan>(few.scores, kCodeSpanTokens, padded, visible, largest_seen);
  const Factors factors = TakeMaxima<kRows>(state, row, maxima);
  __m512 totals[kRows];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    totals[r] = _mm512_setzero_ps();
    const __m512 maximum = SpreadLane(maxima, r);
    for (std::size_t t = 0; t < padded; t += kPieceTokens<Code>) WeighPiece(few, r, t, maximum, totals[r]);
  }
  TakeTotals<kRows>(state, row, totals, factors);
  return factors;
}

// The softmax of rows that see a whole span, piece by piece. (Sums are in memory: what products are summed up in takes
// all registers.)
template <std::size_t kRows, class Code>
class WholeSoftmax {
 public:
  explicit WholeSoftmax(const FewRows<Code>& few) : few_(few) {}

  HWY_INLINE void begin(const AttentionState& state, std::size_t row, const __m512 (&largest)[kRows]) {
    const __m512 maxima = FoldRows<Largest>(largest);
    factors_ = TakeMaxima<kRows>(state, row, maxima);
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      _mm512_store_ps(maxima_[r], SpreadLane(maxima, r));
      _mm512_store_ps(totals_[r], _mm512_setzero_ps());
    }
    next_ = 0;
  }
  HWY_INLINE void do_piece() {
    if (next_ == kPieces) return;
    const std::size_t r = next_ / kPiecesOfRow;
    __m512 total = _mm512_load_ps(totals_[r]);
    WeighPiece(few_, r, next_ % kPiecesOfRow * kPieceTokens<Code>, _mm512_load_ps(maxima_[r]), total);
    _mm512_store_ps(totals_[r], total);
    ++next_;
  }
  HWY_INLINE Factors end(const AttentionState& state, std::size_t row) {
    while (next_ < kPieces) do_piece();
    __m512 totals[kRows];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) totals[r] = _mm512_load_ps(totals_[r]);
    TakeTotals<kRows>(state, row, totals, factors_);
    return factors_;
  }

 private:
  static constexpr std::size_t kPiecesOfRow = kCodeSpanTokens / kPieceTokens<Code>, kPieces = kRows * kPiecesOfRow;
  const FewRows<Code>& few_;
  Factors factors_;
  alignas(64) float maxima_[kRows][kLanes];
  alignas(64) float totals_[kRows][kLanes];
  std::size_t next_ = kPieces;
};

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
