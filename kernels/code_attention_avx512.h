// Attention by products of integers: queries, keys, the softmax weights of a span and values are rounded to codes of 8
// bits (Code is std::int8_t) or of 12 or a little more (std::int16_t). Rows of bf16 KV are rounded as spans are read,
// each with a scale of its own; those of int8 KV are taken as they are (8 bits for both products: SageAttention, Zhang
// et al. 2024).
//
// A weight is rounded relative to the largest of its row in its span, not in the whole context, and after it took the
// scale of its value: long tails behind one large weight keep their part. To do so costs nothing: the logarithm of a
// value's scale is added to its score.
//
// For many queries only: rounding a span for few costs more than their products. They are computed as they are
// (decode_attention()).
#pragma once

#include <cmath>
#include <type_traits>
#include <utility>

#include "kernels/code_softmax_avx512.h"
#include "kernels/kv_codes_avx512.h"
#include "kernels/paged_attention.h"
#include "kernels/span_attention.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

// Codes that a lane of 32 bits has, and tokens' values with it.
template <class Code>
inline constexpr std::size_t kCodesOfLane = 4 / sizeof(Code);

// VPDPBUSD multiplies unsigned bytes by signed ones, VPDPWSSD signed words.
template <class Code>
inline constexpr bool kUnsignedKeys = sizeof(Code) == 1;

// That of queries, and of keys: as large as sums of 32 bits can have them.
template <class Code>
float largest_code(std::size_t padded_dim) {
  if constexpr (sizeof(Code) == 1) return 127;
  return static_cast<float>(std::floor(std::sqrt(0x7fffffff / static_cast<double>(padded_dim))));
}

template <class Code>
inline constexpr float kLargestValue = sizeof(Code) == 1 ? 127.0f : 4095.0f;
static_assert(kLargestWeight<std::int16_t> * kLargestValue<std::int16_t> * kCodeSpanTokens < 0x1p31f);

template <class Code>
std::size_t padded_dim_for(const KvLayout& layout) {
  return round_up(layout.head_dim, kCodes<Code>);
}

template <class Code>
struct CodeScratch {
  static constexpr std::size_t kOfLane = kCodesOfLane<Code>;

  CodeScratch(float* base, const KvLayout& layout, std::size_t row_count)
      : rows(row_count), padded_dim(padded_dim_for<Code>(layout)), largest_key(largest_code<Code>(padded_dim)) {
    const auto take = [&](std::size_t floats) { return std::exchange(base, base + round_up(floats, kLanes)); };
    keys = take(padded_dim / kOfLane * kCodeSpanTokens);
    values = take(kCodeSpanTokens / kOfLane * padded_dim);
    queries = reinterpret_cast<Code*>(take(rows * padded_dim / kOfLane));
    query_scales = take(rows);
    query_offsets = reinterpret_cast<std::int32_t*>(take(rows));
    for (float*& state : states) state = take(AttentionState::floats(rows, padded_dim));
    key_scales = take(kCodeSpanTokens);
    value_logs = take(kCodeSpanTokens);
    value_inverses = take(kCodeSpanTokens);
    for (FewRows<Code>& rows_here : few) {
      float* scores = take(kRowsAtOnce * kCodeSpanTokens);
      float* weights = take(kRowsAtOnce * kCodeSpanTokens / kOfLane);
      rows_here = {scores, reinterpret_cast<std::make_unsigned_t<Code>*>(weights), value_inverses};
    }
    filled_keys = take(kLanes * padded_dim / 2);
    filled_values = take(kLanes * padded_dim / 2);
    end = base;
  }

  std::size_t rows, padded_dim;
  float largest_key;            // largest_code()
  float* keys;                  // [dims of a lane][token]: codes; bytes unsigned, 128 larger
  float* values;                // [tokens of a lane][dim]: codes; dims of a vector in the order that unpacking leaves
  Code* queries;                // [row][dim], zero beyond head_dim
  float* query_scales;          // [row], with that of scores
  std::int32_t* query_offsets;  // [row]: what sums begin with, as keys are 128 larger
  float* states[2];             // AttentionState: of the sections so far, and of the next
  FewRows<Code> few[2];         // of which two may be under way
  float* key_scales;            // [token], 0 beyond the last
  float* value_logs;            // [token]: log2 of the value's scale; masked beyond the last
  float* value_inverses;        // [token]: 1 / that scale, 0 beyond the last
  float* filled_keys;           // FillUp(): 16 rows
  float* filled_values;
  float* end;
};

// Sums of products of codes. (As __m512i, vectors of 64 bits to GCC 12, each would have two registers in a loop.)
using Sums = __v16si;
// Bytes of `a` are unsigned.
template <class Code>
HWY_INLINE Sums MultiplyAdd(Sums sums, __m512i a, __m512i b) {
  if constexpr (sizeof(Code) == 1) return (Sums)_mm512_dpbusd_epi32((__m512i)sums, a, b);
  return (Sums)_mm512_dpwssd_epi32((__m512i)sums, a, b);
}
HWY_INLINE __m512 ToFloats(Sums sums) { return _mm512_cvtepi32_ps((__m512i)sums); }

// log2 of positive normal numbers, within 1e-4.
HWY_INLINE __m512 Logarithm(__m512 x) {
  // As 2^e m, with m in [3/4, 3/2).
  const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const __m512 e = _mm512_getexp_ps(_mm512_div_ps(x, m));
  const __m512 t = _mm512_sub_ps(m, _mm512_set1_ps(1.0f));
  __m512 power = _mm512_set1_ps(0.19999367f);
  power = _mm512_fmadd_ps(power, t, _mm512_set1_ps(-0.3724989f));
  power = _mm512_fmadd_ps(power, t, _mm512_set1_ps(0.48830956f));
  power = _mm512_fmadd_ps(power, t, _mm512_set1_ps(-0.7212986f));
  power = _mm512_fmadd_ps(power, t, _mm512_set1_ps(1.4426214f));
  return _mm512_fmadd_ps(power, t, e);
}

// Keys into the token columns first .. first + 15.
template <class Code, class Element>
HWY_INLINE void TakeKeys(const CodeScratch<Code>& s, const TokenRows<Element>& keys, std::size_t first) {
  const Codes<Code, Element> codes(keys, s.largest_key);
  _mm512_store_ps(s.key_scales + first, codes.scales());
  const __m512i sign = kUnsignedKeys<Code> ? _mm512_set1_epi8(static_cast<char>(0x80)) : _mm512_setzero_si512();
  for (std::size_t d = 0; d < keys.dim; d += kCodes<Code>) {
    __m512i rows[kLanes];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kLanes; ++t) rows[t] = _mm512_xor_si512(codes.row(t, d), sign);
    Transpose(rows);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) {
      _mm512_store_si512(s.keys + (d / kCodesOfLane<Code> + i) * kCodeSpanTokens + first, rows[i]);
    }
  }
}

// Values of four tokens, or of two, side by side.
HWY_INLINE void SideBySide(const __m512i (&rows)[4], float* to) {
  const __m512i low01 = _mm512_unpacklo_epi8(rows[0], rows[1]), high01 = _mm512_unpackhi_epi8(rows[0], rows[1]),
                low23 = _mm512_unpacklo_epi8(rows[2], rows[3]), high23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
  _mm512_store_si512(to, _mm512_unpacklo_epi16(low01, low23));
  _mm512_store_si512(to + kLanes, _mm512_unpackhi_epi16(low01, low23));
  _mm512_store_si512(to + 2 * kLanes, _mm512_unpacklo_epi16(high01, high23));
  _mm512_store_si512(to + 3 * kLanes, _mm512_unpackhi_epi16(high01, high23));
}
HWY_INLINE void SideBySide(const __m512i (&rows)[2], float* to) {
  _mm512_store_si512(to, _mm512_unpacklo_epi16(rows[0], rows[1]));
  _mm512_store_si512(to + kLanes, _mm512_unpackhi_epi16(rows[0], rows[1]));
}

// Values by the tokens of a lane, from token `first` on.
template <class Code, class Element>
HWY_INLINE void TakeValues(const CodeScratch<Code>& s, const TokenRows<Element>& values, std::size_t first) {
  constexpr std::size_t kOfLane = kCodesOfLane<Code>;
  const Codes<Code, Element> codes(values, kLargestValue<Code>);
  // A value of zeros has a scale too: its token has a weight.
  const __m512 scales = _mm512_max_ps(codes.scales(), _mm512_set1_ps(0x1p-60f));
  const auto there = static_cast<__mmask16>((1u << values.tokens) - 1);
  _mm512_store_ps(s.value_logs + first, _mm512_mask_mov_ps(_mm512_set1_ps(kMasked), there, Logarithm(scales)));
  _mm512_store_ps(s.value_inverses + first, _mm512_maskz_div_ps(there, _mm512_set1_ps(1), scales));
  float* to = s.values + first / kOfLane * s.padded_dim;
  for (std::size_t d = 0; d < values.dim; d += kCodes<Code>) {
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kLanes; t += kOfLane) {
      __m512i rows[kOfLane];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < kOfLane; ++i) rows[i] = codes.row(t + i, d);
      SideBySide(rows, to + t / kOfLane * s.padded_dim + d);
    }
  }
}

struct NoOtherWork {
  HWY_INLINE void do_piece() {}
};

// scores[r][t] = queries[row + r] . key[t] + log2 of value[t]'s scale, for 16 * kVectors tokens from `first` on.
// Between products there is time for some other work.
template <std::size_t kRows, std::size_t kVectors, class Code, class OtherWork>
HWY_INLINE void ScoresOfRows(const CodeScratch<Code>& s, const FewRows<Code>& few, std::size_t row, std::size_t first,
                             __m512 (&largest)[kRows], OtherWork& other) {
  Sums sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = kUnsignedKeys<Code> ? (Sums)_mm512_set1_epi32(s.query_offsets[row + r]) : Sums{};
    }
  }
  const std::size_t stride = s.padded_dim;
  const float* all_keys = s.keys + first;
  const Code *queries = s.queries + row * stride, *const end = queries + stride;
  while (queries < end) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, queries += kCodesOfLane<Code>, all_keys += kCodeSpanTokens) {
      __m512i keys[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) keys[v] = _mm512_load_si512(all_keys + v * kLanes);
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i query = Broadcast(queries + r * stride);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = MultiplyAdd<Code>(sums[r][v], keys[v], query);
      }
    }
    other.do_piece();
  }
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t t = first + v * kLanes;
    const __m512 scales = _mm512_load_ps(s.key_scales + t), logs = _mm512_load_ps(s.value_logs + t);
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512 scaled = _mm512_mul_ps(ToFloats(sums[r][v]), scales);
      const __m512 score = _mm512_fmadd_ps(scaled, _mm512_set1_ps(s.query_scales[row + r]), logs);
      _mm512_store_ps(few.scores + r * kCodeSpanTokens + t, score);
      largest[r] = _mm512_max_ps(largest[r], score);
    }
  }
}

// sums[row + r] = sums[row + r] * earlier + span * sum over tokens of weight * value, kVectors vectors of dims
// from `column` on.
template <std::size_t kRows, std::size_t kVectors, class Code>
HWY_INLINE void AccumulateStrip(const CodeScratch<Code>& s, const FewRows<Code>& few, const AttentionState& state,
                                std::size_t row, std::size_t column, std::size_t tokens, const Factors& factors) {
  constexpr std::size_t kOfLane = kCodesOfLane<Code>;
  Sums sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = Sums{};
  }
  for (std::size_t t = 0; t < tokens; t += kOfLane) {
    __m512i values[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      values[v] = _mm512_load_si512(s.values + t / kOfLane * s.padded_dim + column + v * kLanes);
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i weight = Broadcast(few.weights + r * kCodeSpanTokens + t);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = MultiplyAdd<Code>(sums[r][v], weight, values[v]);
    }
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    const __m512 earlier = SpreadLane(factors.earlier, r), span = SpreadLane(factors.span, r);
    float* to = state.sums + (row + r) * s.padded_dim + column;
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v, to += kLanes) {
      const __m512 sum = _mm512_mul_ps(ToFloats(sums[r][v]), span);
      _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_load_ps(to), earlier, sum));
    }
  }
}

// All dims, `tokens` of them in whole lanes.
template <std::size_t kRows, class Code>
HWY_INLINE void Accumulate(const CodeScratch<Code>& s, const FewRows<Code>& few, const AttentionState& state,
                           std::size_t row, std::size_t tokens, const Factors& factors) {
  std::size_t column = 0;
  for (; column + 4 * kLanes <= s.padded_dim; column += 4 * kLanes)
    AccumulateStrip<kRows, 4>(s, few, state, row, column, tokens, factors);
  if constexpr (kCodesOfLane<Code> == 2) {
    if (column < s.padded_dim) AccumulateStrip<kRows, 2>(s, few, state, row, column, tokens, factors);
  }
}

// Tokens that are not there have weight 0, whatever their keys and values are.
template <class Code>
HWY_INLINE void ForgetTokens(const CodeScratch<Code>& s, std::size_t first) {
  _mm512_store_ps(s.key_scales + first, _mm512_setzero_ps());
  _mm512_store_ps(s.value_logs + first, _mm512_set1_ps(kMasked));
  _mm512_store_ps(s.value_inverses + first, _mm512_setzero_ps());
}

// 16 floats of a row of `dim`, from i on; zeros beyond.
HWY_INLINE __m512 LoadDims(const float* row, std::size_t i, std::size_t dim) {
  const std::size_t left = std::min(kLanes, dim - std::min(dim, i));
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), row + i);
}
HWY_INLINE void StoreDims(float* row, std::size_t i, std::size_t dim, __m512 v) {
  const std::size_t left = std::min(kLanes, dim - std::min(dim, i));
  _mm512_mask_storeu_ps(row + i, static_cast<__mmask16>((1u << left) - 1), v);
}

HWY_INLINE void StoreCodes(std::int8_t* to, __m512i codes) {
  _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(codes));
}
HWY_INLINE void StoreCodes(std::int16_t* to, __m512i codes) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(codes));
}

// Out of the order that SideBySide() leaves. Of four: a vector has 4 dims of each 16.
HWY_INLINE void InOrder(__m512 (&v)[4]) {
  const __m512 t0 = _mm512_shuffle_f32x4(v[0], v[1], 0x44), t1 = _mm512_shuffle_f32x4(v[0], v[1], 0xee),
               t2 = _mm512_shuffle_f32x4(v[2], v[3], 0x44), t3 = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_f32x4(t0, t2, 0x88);
  v[1] = _mm512_shuffle_f32x4(t0, t2, 0xdd);
  v[2] = _mm512_shuffle_f32x4(t1, t3, 0x88);
  v[3] = _mm512_shuffle_f32x4(t1, t3, 0xdd);
}
// Of two: of each 8.
HWY_INLINE void InOrder(__m512 (&v)[2]) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  const __m512 first = _mm512_permutex2var_ps(v[0], low, v[1]);
  v[1] = _mm512_permutex2var_ps(v[0], high, v[1]);
  v[0] = first;
}

template <class Code>
struct CodeProducts {
  using Scratch = CodeScratch<Code>;
  static constexpr std::size_t kSpanTokens = kCodeSpanTokens;
  static std::size_t padded_dim_of(const KvLayout& layout) { return padded_dim_for<Code>(layout); }

  static void take_query(const Scratch& s, std::size_t row, const float* q, float scale, std::size_t dim) {
    __m512 largest = _mm512_setzero_ps();
    for (std::size_t i = 0; i < dim; i += kLanes) largest = _mm512_max_ps(largest, _mm512_abs_ps(LoadDims(q, i, dim)));
    const float magnitude = std::max(1e-30f, _mm512_reduce_max_ps(largest));
    const __m512 inverse = _mm512_set1_ps(s.largest_key / magnitude);
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t i = 0; i < s.padded_dim; i += kLanes) {
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(LoadDims(q, i, dim), inverse));
      sum = _mm512_add_epi32(sum, code);
      StoreCodes(s.queries + row * s.padded_dim + i, code);
    }
    // Scaled by 1 / sqrt(dim) and log2(e): scores are powers of two.
    s.query_scales[row] = magnitude / s.largest_key * scale * 1.44269504f;
    s.query_offsets[row] = -128 * _mm512_reduce_add_epi32(sum);
  }

  template <class Element>
  static void take_span(const AttentionArgs& a, const Scratch& s, std::size_t begin, std::size_t from,
                        std::size_t tokens, const NextTokens& next) {
    // As far as vectors reach beyond the last token, with zeros.
    const std::size_t padded = round_up(tokens, 4 * kLanes);
    for (std::size_t first = from; first < padded; first += kLanes) {
      const std::size_t count = std::min(kLanes, tokens - std::min(tokens, first));
      if (count == 0) {
        ForgetTokens(s, first);
        continue;
      }
      auto [keys, values] = RowsFrom<Element>(a, begin + first, count);
      next.Prefetch16<Element>(first);
      if (!keys.whole(kCodes<Code>)) {
        keys = FillUp(keys, s.padded_dim, s.filled_keys);
        values = FillUp(values, s.padded_dim, s.filled_values);
      }
      TakeKeys(s, keys, first);
      TakeValues(s, values, first);
    }
  }

  // The last row sees most.
  template <class Element, std::size_t kRows, class Visible>
  static void attend_rows(const Scratch& scratch, const AttentionState& state, std::size_t row,
                          const Visible& visible) {
    const std::size_t most = visible(row + kRows - 1);
    if (most == 0) return;
    const Scratch s = scratch;  // which no store can change
    const FewRows<Code> few = s.few[0];
    __m512 largest[kRows];
    for (std::size_t r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(kMasked);
    NoOtherWork none;
    std::size_t t = 0;
    for (; t + 2 * kLanes < most; t += 4 * kLanes) ScoresOfRows<kRows, 4>(s, few, row, t, largest, none);
    if (t < most) ScoresOfRows<kRows, 2>(s, few, row, t, largest, none);
    const std::size_t padded = round_up(most, kPieceTokens<Code>);
    const auto visible_of = [&](std::size_t r) { return visible(row + r); };
    const Factors factors = visible(row) == kSpanTokens
                                ? Softmax<kRows, true>(few, state, row, padded, visible_of, largest)
                                : Softmax<kRows, false>(few, state, row, padded, visible_of, largest);
    Accumulate<kRows>(s, few, state, row, round_up(most, kCodesOfLane<Code>), factors);
  }

  // Of rows that all see the whole span, those that fill fours, with the same bits. The softmax of four is computed
  // between the products of the next: by itself it would leave the units that multiply idle.
  static std::size_t attend_whole(const Scratch& scratch, const AttentionState& state, std::size_t row,
                                  std::size_t rows) {
    constexpr std::size_t kRows = 4;
    const std::size_t count = rows / kRows;
    if (count < 2) return 0;
    const Scratch s = scratch;
    using Weights = WholeSoftmax<kRows, Code>;
    Weights softmax[2] = {Weights(s.few[0]), Weights(s.few[1])};
    for (std::size_t i = 0; i <= count; ++i) {
      Weights& before = softmax[(i + 1) % 2];
      const std::size_t here = row + i * kRows;
      if (i < count) {
        __m512 largest[kRows];
        for (std::size_t r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(kMasked);
        for (std::size_t t = 0; t < kSpanTokens; t += 4 * kLanes) {
          ScoresOfRows<kRows, 4>(s, s.few[i % 2], here, t, largest, before);
        }
        softmax[i % 2].begin(state, here, largest);
      }
      if (i == 0) continue;
      const Factors factors = before.end(state, here - kRows);
      Accumulate<kRows>(s, s.few[(i + 1) % 2], state, here - kRows, kSpanTokens, factors);
    }
    return count * kRows;
  }

  static void store_result(const float* sums, float total, std::size_t dim, float* out) {
    constexpr std::size_t kVectors = kCodesOfLane<Code>;
    const __m512 inverse = _mm512_set1_ps(1.0f / total);
    for (std::size_t i = 0; i < dim; i += kCodes<Code>) {
      __m512 v[kVectors];
      for (std::size_t j = 0; j < kVectors; ++j) v[j] = _mm512_mul_ps(_mm512_load_ps(sums + i + j * kLanes), inverse);
      InOrder(v);
      for (std::size_t j = 0; j < kVectors; ++j) StoreDims(out, i + j * kLanes, dim, v[j]);
    }
  }
};

// Of the style Prefill by products of codes; of the style Decode by decode_attention().
template <class Code>
struct CodeAttention {
  using Spans = SpanAttention<CodeProducts<Code>>;

  static bool is_few(const AttentionArgs& a) { return a.style == AttentionStyle::Decode; }
  static void attend(const AttentionArgs& a, float* scratch) {
    is_few(a) ? decode_attention().attend(a, scratch) : Spans::attend(a, scratch);
  }
  static void merge_sections(const AttentionArgs& a) {
    is_few(a) ? decode_attention().merge_sections(a) : Spans::merge_sections(a);
  }
  static void attend_together(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
    is_few(runs.front()) ? decode_attention().attend_together(runs, shared, scratch)
                         : Spans::attend_together(runs, shared, scratch);
  }
  static std::size_t scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
    return std::max(Spans::scratch_floats(layout, tokens, group),
                    decode_attention().scratch_floats(layout, tokens, group));
  }
};

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES

namespace tiercel::kernels::avx512 {

// Without these instructions: it is called when the program starts, on every processor. States are no smaller than
// those of bf16, as dims are rounded up as far or further, and spans and sections are the same.
template <class Code>
AttentionKernel code_attention_kernel(Products products) {
  using Attention = CodeAttention<Code>;
  using Spans = typename Attention::Spans;
  return {Attention::attend,
          Attention::merge_sections,
          Attention::scratch_floats,
          Spans::state_floats,
          Spans::section_tokens,
          Attention::attend_together,
          kCodeSpanTokens,
          products,
          decode_attention().decode_products};
}

}  // namespace tiercel::kernels::avx512
