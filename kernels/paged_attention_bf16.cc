// Attention over bf16 or int8 KV for processors with AVX512-BF16: queries, and the softmax weights of a span, are
// rounded to bf16, so that both products run at the speed of VDPBF16PS; everything else is float32. Codes of int8 are
// exact in bf16; the keys' scales are applied to scores, and the values' to weights before they are rounded. Keys are
// transposed and values interleaved; what is done with a span: span_attention.h.
//
// Where VDPBF16PS is slower than products of float32 (prefers_int16_products()), nothing is rounded: keys and values
// are widened as they are multiplied, and values are read from their blocks, where two dims lie side by side.
#include "kernels/group_linear.h"
#include "kernels/paged_attention.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <utility>

#include "kernels/span_attention.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

constexpr std::size_t kSpanTokens = 128;

std::size_t bf16_padded_dim(const KvLayout& layout) { return round_up(layout.head_dim, 2 * kLanes); }

// Two neighbours of 16 bits in each lane, and how they are multiplied by two of a row.
struct Bf16Pairs {
  using Element = std::uint16_t;  // of queries and weights
  using Operand = __m512bh;
  static constexpr Products kProducts = Products::Bf16;
  static constexpr std::size_t kMostVectors = 4;  // beside each other, for six rows
  static constexpr bool kReadsBlocks = false;     // values as they lie there

  static HWY_INLINE Operand Load(const float* pairs) { return (__m512bh)_mm512_load_ps(pairs); }
  static HWY_INLINE __m512 Multiply(__m512 sum, Operand pairs, const Element* two) {
    return _mm512_dpbf16_ps(sum, pairs, (__m512bh)Broadcast(two));
  }
  // Stores 32, and adds them to the total as they are stored.
  static HWY_INLINE __m512 Store(__m512 low, __m512 high, Element* to, __m512 total = _mm512_setzero_ps()) {
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(to, (__m512i)both);
    return _mm512_dpbf16_ps(total, both, (__m512bh)_mm512_set1_epi16(0x3f80));
  }
};

struct WidenedPairs {
  using Element = float;
  struct Operand {
    __m512 first, second;
  };
  static constexpr Products kProducts = Products::F32;
  static constexpr std::size_t kMostVectors = 2;  // which take two registers each
  static constexpr bool kReadsBlocks = true;

  static HWY_INLINE Operand Load(const float* pairs) { return Widen(_mm512_load_si512(pairs)); }
  // 32 dims of a value: the even ones, and the odd ones.
  static HWY_INLINE Operand Load(const std::uint16_t* row, __mmask32 mask) {
    return Widen(_mm512_maskz_loadu_epi16(mask, row));
  }
  static HWY_INLINE Operand Load(const std::int8_t* row, __mmask32 mask) {
    const __m512i both = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, row));
    return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(both, 16), 16)),
            _mm512_cvtepi32_ps(_mm512_srai_epi32(both, 16))};
  }
  static HWY_INLINE __m512 Multiply(__m512 sum, const Operand& pairs, const Element* two) {
    return _mm512_fmadd_ps(pairs.second, _mm512_set1_ps(two[1]),
                           _mm512_fmadd_ps(pairs.first, _mm512_set1_ps(two[0]), sum));
  }
  static HWY_INLINE __m512 Store(__m512 low, __m512 high, Element* to, __m512 total = _mm512_setzero_ps()) {
    _mm512_storeu_ps(to, low);
    _mm512_storeu_ps(to + kLanes, high);
    return _mm512_add_ps(total, _mm512_add_ps(low, high));
  }

 private:
  static HWY_INLINE Operand Widen(__m512i both) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(_mm512_and_si512(both, upper))};
  }
};

template <class Pairs>
struct Scratch {
  using Element = typename Pairs::Element;
  Scratch(float* base, const KvLayout& layout, std::size_t row_count)
      : rows(row_count), dim(layout.head_dim), padded_dim(bf16_padded_dim(layout)) {
    const auto take = [&](std::size_t floats) { return std::exchange(base, base + round_up(floats, kLanes)); };
    keys = take(padded_dim / 2 * kSpanTokens);
    values = take(Pairs::kReadsBlocks ? 0 : kSpanTokens / 2 * padded_dim);
    queries = reinterpret_cast<Element*>(take(rows * padded_dim * sizeof(Element) / 4));
    for (float*& state : states) state = take(AttentionState::floats(rows, padded_dim));
    scores = take(kRowsAtOnce * kSpanTokens);
    weights = reinterpret_cast<Element*>(take(kRowsAtOnce * kSpanTokens * sizeof(Element) / 4));
    key_scales = take(kSpanTokens);
    value_scales = take(kSpanTokens);
    value_rows = reinterpret_cast<const void**>(take(kSpanTokens / 8 * sizeof(void*) / 4));
    end = base;
  }

  std::size_t rows, dim, padded_dim;
  float* keys;        // [pair of dims][token]: two bf16
  float* values;      // [pair of tokens][dim]: two bf16; dims of 32 in the order that unpacking leaves
  Element* queries;   // [row][dim], scaled, zero beyond head_dim
  float* states[2];   // AttentionState: of the sections so far, and of the next
  float* scores;      // [row of a few][token]
  Element* weights;   // [row of a few][token]
  float* key_scales;  // [token], 0 beyond the last; of int8
  float* value_scales;
  const void** value_rows;  // where eight tokens' values lie
  float* end;
};

HWY_INLINE __m512i ToBf16(__m512i elements) { return elements; }
HWY_INLINE __m512i ToBf16(__m256i codes) {  // exact: codes have 7 bits and a sign
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// 32 elements; those that `mask` leaves out are not read.
HWY_INLINE __m512i LoadElements(const std::uint16_t* row) { return _mm512_loadu_si512(row); }
HWY_INLINE __m256i LoadElements(const std::int8_t* row) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
}
HWY_INLINE __m512i LoadElements(const std::uint16_t* row, __mmask32 mask) {
  return _mm512_maskz_loadu_epi16(mask, row);
}
HWY_INLINE __m256i LoadElements(const std::int8_t* row, __mmask32 mask) { return _mm256_maskz_loadu_epi8(mask, row); }

// 32 dims of a token's row as bf16. kWhole: of rows that are whole.
template <bool kWhole, class Element>
HWY_INLINE __m512i Load(const TokenRows<Element>& rows, std::size_t token, std::size_t first_dim) {
  const Element* row = rows.row(token) + first_dim;
  if constexpr (kWhole) return ToBf16(LoadElements(row));
  return token < rows.tokens ? ToBf16(LoadElements(row, DimMask(rows.dim, first_dim))) : _mm512_setzero_si512();
}

// Keys into the token columns first .. first + 15.
template <bool kWhole, class Pairs, class Element>
HWY_INLINE void TransposeKeys(const Scratch<Pairs>& s, const TokenRows<Element>& keys, std::size_t first) {
  for (std::size_t d = 0; d < keys.dim; d += 2 * kLanes) {
    __m512i rows[kLanes];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kLanes; ++t) rows[t] = Load<kWhole>(keys, t, d);
    Transpose(rows);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) _mm512_store_si512(s.keys + (d / 2 + i) * kSpanTokens + first, rows[i]);
  }
}

// Values as pairs of tokens, from token `first` on.
template <bool kWhole, class Pairs, class Element>
HWY_INLINE void InterleaveValues(const Scratch<Pairs>& s, const TokenRows<Element>& values, std::size_t first) {
  float* pairs = s.values + first / 2 * s.padded_dim;
  for (std::size_t d = 0; d < values.dim; d += 2 * kLanes) {
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kLanes; t += 2) {
      const __m512i even = Load<kWhole>(values, t, d), odd = Load<kWhole>(values, t + 1, d);
      _mm512_store_si512(pairs + t / 2 * s.padded_dim + d, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(pairs + t / 2 * s.padded_dim + d + kLanes, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

// scores[r][t] = queries[row + r] . key[t], for tokens in steps of 16 * kVectors.
template <bool kScaledKeys, std::size_t kRows, std::size_t kVectors, class Pairs>
HWY_INLINE void ScoresOfRows(const Scratch<Pairs>& s, std::size_t row, std::size_t tokens, __m512 (&largest)[kRows]) {
  for (std::size_t t = 0; t < tokens; t += kVectors * kLanes) {
    __m512 sums[kRows][kVectors];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    for (std::size_t pair = 0; pair < s.padded_dim / 2; ++pair) {
      typename Pairs::Operand keys[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) keys[v] = Pairs::Load(s.keys + pair * kSpanTokens + t + v * kLanes);
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const auto* query = s.queries + (row + r) * s.padded_dim + 2 * pair;
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = Pairs::Multiply(sums[r][v], keys[v], query);
      }
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        if constexpr (kScaledKeys) {
          sums[r][v] = _mm512_mul_ps(sums[r][v], _mm512_load_ps(s.key_scales + t + v * kLanes));
        }
        _mm512_store_ps(s.scores + r * kSpanTokens + t + v * kLanes, sums[r][v]);
        largest[r] = _mm512_max_ps(largest[r], sums[r][v]);
      }
    }
  }
}

// Turns the scores of kRows rows into weights relative to each row's running maximum, up to `padded` tokens, a
// multiple of 32. kWholeSpan: all rows see all of its tokens. Else those at and after visible(r) get weight 0. Returns
// what earlier sums are multiplied with, a lane for each row.
template <bool kScaledValues, std::size_t kRows, bool kWholeSpan, class Pairs, class Visible>
HWY_INLINE __m512 Softmax(const Scratch<Pairs>& s, const AttentionState& state, std::size_t row, std::size_t padded,
                          const Visible& visible, const __m512 (&largest_seen)[kRows]) {
  const __m512 maxima = LargestScores<kRows, kWholeSpan>(s.scores, kSpanTokens, padded, visible, largest_seen);
  const __m512 before = _mm512_maskz_loadu_ps(kLanesOfRows<kRows>, state.maxima + row);
  const __m512 now = _mm512_max_ps(before, maxima);
  const __m512 kept = PowerOfTwo(_mm512_max_ps(_mm512_sub_ps(before, now), _mm512_set1_ps(-200.0f)));
  _mm512_mask_storeu_ps(state.maxima + row, kLanesOfRows<kRows>, now);
  __m512 totals[kRows];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    const float* scores = s.scores + r * kSpanTokens;
    auto* weights = s.weights + r * kSpanTokens;
    const __m512 maximum = SpreadLane(now, r);
    totals[r] = _mm512_setzero_ps();
    for (std::size_t t = 0; t < padded; t += 2 * kLanes) {
      const __m512 low = PowerOfTwo(_mm512_sub_ps(_mm512_load_ps(scores + t), maximum));
      const __m512 high = PowerOfTwo(_mm512_sub_ps(_mm512_load_ps(scores + t + kLanes), maximum));
      if constexpr (kScaledValues) {
        totals[r] = _mm512_add_ps(totals[r], _mm512_add_ps(low, high));
        Pairs::Store(_mm512_mul_ps(low, _mm512_load_ps(s.value_scales + t)),
                     _mm512_mul_ps(high, _mm512_load_ps(s.value_scales + t + kLanes)), weights + t);
      } else {
        totals[r] = Pairs::Store(low, high, weights + t, totals[r]);
      }
    }
  }
  const __m512 sums = _mm512_maskz_loadu_ps(kLanesOfRows<kRows>, state.totals + row);
  _mm512_mask_storeu_ps(state.totals + row, kLanesOfRows<kRows>, _mm512_fmadd_ps(sums, kept, FoldRows<Sum>(totals)));
  return kept;
}

// sums[row + r] = sums[row + r] * lane r of `keep` + sum over tokens of weight * value, kVectors vectors of dims from
// `column` on.
template <std::size_t kRows, std::size_t kVectors, class Pairs>
HWY_INLINE void AccumulateStrip(const Scratch<Pairs>& s, const AttentionState& state, std::size_t row,
                                std::size_t column, std::size_t tokens, __m512 keep) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = _mm512_mul_ps(_mm512_load_ps(state.sums + (row + r) * s.padded_dim + column + v * kLanes),
                                 SpreadLane(keep, r));
    }
  }
  for (std::size_t t = 0; t < tokens; t += 2) {
    typename Pairs::Operand values[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      values[v] = Pairs::Load(s.values + t / 2 * s.padded_dim + column + v * kLanes);
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto* weights = s.weights + r * kSpanTokens + t;
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = Pairs::Multiply(sums[r][v], values[v], weights);
    }
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      _mm512_store_ps(state.sums + (row + r) * s.padded_dim + column + v * kLanes, sums[r][v]);
    }
  }
}

// The same with values as they lie in their blocks: 32 * kChunks dims from `column` on, of each 32 the even ones and
// then the odd ones.
template <class Element, std::size_t kRows, std::size_t kChunks, class Pairs>
HWY_INLINE void AccumulateChunks(const Scratch<Pairs>& s, const AttentionState& state, std::size_t row,
                                 std::size_t column, std::size_t tokens, __m512 keep) {
  __m512 sums[kRows][2 * kChunks];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 2 * kChunks; ++v) {
      sums[r][v] = _mm512_mul_ps(_mm512_load_ps(state.sums + (row + r) * s.padded_dim + column + v * kLanes),
                                 SpreadLane(keep, r));
    }
  }
  const __mmask32 last_mask = DimMask(s.dim, column + 32 * (kChunks - 1));
  for (std::size_t first = 0; first < tokens; first += 8) {
    const auto* values = static_cast<const Element*>(s.value_rows[first / 8]) + column;
    const float* weights = s.weights + first;
    for (std::size_t t = std::min<std::size_t>(8, tokens - first); t > 0; --t, values += s.dim, ++weights) {
      typename Pairs::Operand operands[kChunks];
#pragma GCC unroll 2
      for (std::size_t c = 0; c < kChunks; ++c) {
        operands[c] = Pairs::Load(values + 32 * c, c + 1 == kChunks ? last_mask : 0xffffffffu);
      }
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512 weight = _mm512_set1_ps(weights[r * kSpanTokens]);
#pragma GCC unroll 2
        for (std::size_t c = 0; c < kChunks; ++c) {
          sums[r][2 * c] = _mm512_fmadd_ps(operands[c].first, weight, sums[r][2 * c]);
          sums[r][2 * c + 1] = _mm512_fmadd_ps(operands[c].second, weight, sums[r][2 * c + 1]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 2 * kChunks; ++v) {
      _mm512_store_ps(state.sums + (row + r) * s.padded_dim + column + v * kLanes, sums[r][v]);
    }
  }
}

template <class Pairs>
struct PairProducts {
  using Scratch = kernels::Scratch<Pairs>;
  static constexpr std::size_t kSpanTokens = kernels::kSpanTokens;
  static std::size_t padded_dim_of(const KvLayout& layout) { return bf16_padded_dim(layout); }

  // Scaled by 1 / sqrt(dim) and log2(e): scores are powers of two.
  static void take_query(const Scratch& s, std::size_t row, const float* q, float scale, std::size_t dim) {
    auto* out = s.queries + row * s.padded_dim;
    const __m512 scales = _mm512_set1_ps(scale * 1.44269504f);
    for (std::size_t i = 0; i < s.padded_dim; i += 32) {
      const __mmask32 mask = DimMask(dim, i);
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), q + i);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), q + i + 16);
      Pairs::Store(_mm512_mul_ps(low, scales), _mm512_mul_ps(high, scales), out + i);
    }
  }

  template <class Element>
  static void take_span(const AttentionArgs& a, const Scratch& s, std::size_t begin, std::size_t from,
                        std::size_t tokens, const NextTokens& next) {
    // As far as vectors reach beyond the last token, with zeros; where values are not there nobody reads them, and
    // scores of such keys are masked.
    const std::size_t padded = round_up(tokens, Pairs::kReadsBlocks ? kLanes : 4 * kLanes);
    for (std::size_t first = from; first < padded; first += kLanes) {
      const std::size_t count = std::min(kLanes, tokens - std::min(tokens, first));
      const auto [keys, values] = RowsFrom<Element>(a, begin + first, count);
      next.Prefetch16<Element>(first);
      if (keys.whole(2 * kLanes)) {
        TransposeKeys<true>(s, keys, first);
        if constexpr (!Pairs::kReadsBlocks) InterleaveValues<true>(s, values, first);
      } else {
        TransposeKeys<false>(s, keys, first);
        if constexpr (!Pairs::kReadsBlocks) InterleaveValues<false>(s, values, first);
      }
      if constexpr (Pairs::kReadsBlocks) std::copy_n(values.halves, 2, s.value_rows + first / 8);
      if constexpr (kScaled<Element>) {
        keys.StoreScales(s.key_scales + first);
        values.StoreScales(s.value_scales + first);
      }
    }
  }

  // The last row sees most.
  template <class Element, std::size_t kRows, class Visible>
  static void attend_rows(const Scratch& scratch, const AttentionState& state, std::size_t row,
                          const Visible& visible) {
    const std::size_t most = visible(row + kRows - 1);
    if (most == 0) return;
    const Scratch s = scratch;  // which no store can change
    __m512 largest[kRows];
    for (std::size_t r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(kMasked);
    constexpr std::size_t kVectors = kRows < 6 ? 4 : Pairs::kMostVectors;
    if (most > 2 * kLanes) {
      ScoresOfRows<kScaled<Element>, kRows, kVectors>(s, row, most, largest);
    } else {
      ScoresOfRows<kScaled<Element>, kRows, 2>(s, row, most, largest);
    }
    const std::size_t padded = round_up(most, 2 * kLanes);
    const auto visible_of = [&](std::size_t r) { return visible(row + r); };
    const __m512 keep = visible(row) == kSpanTokens
                            ? Softmax<kScaled<Element>, kRows, true>(s, state, row, padded, visible_of, largest)
                            : Softmax<kScaled<Element>, kRows, false>(s, state, row, padded, visible_of, largest);
    std::size_t column = 0;
    if constexpr (Pairs::kReadsBlocks) {
      for (; column + 2 * 32 <= s.padded_dim; column += 2 * 32)
        AccumulateChunks<Element, kRows, 2>(s, state, row, column, most, keep);
      if (column < s.padded_dim) AccumulateChunks<Element, kRows, 1>(s, state, row, column, most, keep);
    } else {
      for (; column + kVectors * kLanes <= s.padded_dim; column += kVectors * kLanes)
        AccumulateStrip<kRows, kVectors>(s, state, row, column, padded, keep);
      for (; column < s.padded_dim; column += 2 * kLanes)
        AccumulateStrip<kRows, 2>(s, state, row, column, padded, keep);
    }
  }

  static std::size_t attend_whole(const Scratch&, const AttentionState&, std::size_t, std::size_t) { return 0; }

  // Out of the order that InterleaveValues() leaves: of every 8 dims, the first four are in the one vector; or that of
  // AccumulateChunks().
  static void store_result(const float* sums, float total, std::size_t dim, float* out) {
    const __m512 inverse = _mm512_set1_ps(1.0f / total);
    const __m512i low_order = Pairs::kReadsBlocks
                                  ? _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                                  : _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high_order = _mm512_add_epi32(low_order, _mm512_set1_epi32(8));
    for (std::size_t i = 0; i < dim; i += 32) {
      const __mmask32 mask = DimMask(dim, i);
      const __m512 even = _mm512_mul_ps(_mm512_load_ps(sums + i), inverse);
      const __m512 odd = _mm512_mul_ps(_mm512_load_ps(sums + i + 16), inverse);
      _mm512_mask_storeu_ps(out + i, static_cast<__mmask16>(mask), _mm512_permutex2var_ps(even, low_order, odd));
      _mm512_mask_storeu_ps(out + i + 16, static_cast<__mmask16>(mask >> 16),
                            _mm512_permutex2var_ps(even, high_order, odd));
    }
  }
};

}  // namespace

namespace {
template <class Pairs>
constexpr AttentionKernel kernel_of() {
  using Attention = SpanAttention<PairProducts<Pairs>>;
  return {Attention::attend,
          Attention::merge_sections,
          Attention::scratch_floats,
          Attention::state_floats,
          Attention::section_tokens,
          Attention::attend_together,
          kSpanTokens,
          Pairs::kProducts,
          Pairs::kProducts};
}
}  // namespace

const AttentionKernel kBf16Attention = kernel_of<Bf16Pairs>();
const AttentionKernel kWidenedAttention = kernel_of<WidenedPairs>();
const AttentionKernel& decode_attention() { return prefers_int16_products() ? kWidenedAttention : kBf16Attention; }

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {
const AttentionKernel kBf16Attention{}, kWidenedAttention{};
const AttentionKernel& decode_attention() { return kBf16Attention; }
}  // namespace tiercel::kernels

#endif
