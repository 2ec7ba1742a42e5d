// Attention in bytes for processors with AVX512-VNNI: queries, keys, the softmax weights of a span and values are
// rounded to 8 bits, so that both products run at the speed of VPDPBUSD, twice that of VDPBF16PS. Rows of bf16 KV are
// rounded as spans are read, each with a scale of its own; those of int8 KV are taken as they are (8 bits for both
// products: SageAttention, Zhang et al. 2024).
//
// A weight is rounded relative to the largest of its row in its span, not in the whole context, and after it took the
// scale of its value: long tails behind one large weight keep their part. To do so costs nothing: the logarithm of a
// value's scale is added to its score.
//
// For many queries only: rounding a span for few costs more than their products. They are computed in bf16.
#include "kernels/group_linear.h"
#include "kernels/paged_attention.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <utility>

#include "kernels/int8_softmax_avx512.h"
#include "kernels/kv_codes_avx512.h"
#include "kernels/span_attention.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

constexpr std::size_t kSpanTokens = kInt8SpanTokens;

std::size_t int8_padded_dim(const KvLayout& layout) { return round_up(layout.head_dim, kCodes); }

struct Scratch {
  Scratch(float* base, const KvLayout& layout, std::size_t row_count)
      : rows(row_count), padded_dim(int8_padded_dim(layout)) {
    const auto take = [&](std::size_t floats) { return std::exchange(base, base + round_up(floats, kLanes)); };
    keys = take(padded_dim / 4 * kSpanTokens);
    values = take(kSpanTokens / 4 * padded_dim);
    queries = reinterpret_cast<std::int8_t*>(take(rows * padded_dim / 4));
    query_scales = take(rows);
    query_offsets = reinterpret_cast<std::int32_t*>(take(rows));
    for (float*& state : states) state = take(AttentionState::floats(rows, padded_dim));
    key_scales = take(kSpanTokens);
    value_logs = take(kSpanTokens);
    value_inverses = take(kSpanTokens);
    for (FewRows& rows_here : few) {
      float* scores = take(kRowsAtOnce * kSpanTokens);
      rows_here = {scores, reinterpret_cast<std::uint8_t*>(take(kRowsAtOnce * kSpanTokens / 4)), value_inverses};
    }
    filled_keys = take(kLanes * padded_dim / 2);
    filled_values = take(kLanes * padded_dim / 2);
    end = base;
  }

  std::size_t rows, padded_dim;
  float* keys;                  // [4 dims][token]: four unsigned bytes, 128 larger than the codes
  float* values;                // [4 tokens][dim]: four codes; dims of 64 in the order that unpacking leaves
  std::int8_t* queries;         // [row][dim], zero beyond head_dim
  float* query_scales;          // [row], with that of scores
  std::int32_t* query_offsets;  // [row]: what sums begin with, as keys are 128 larger
  float* states[2];             // AttentionState: of the sections so far, and of the next
  FewRows few[2];               // of which two may be under way
  float* key_scales;            // [token], 0 beyond the last
  float* value_logs;            // [token]: log2 of the value's scale; masked beyond the last
  float* value_inverses;        // [token]: 1 / that scale, 0 beyond the last
  float* filled_keys;           // FillUp(): 16 rows
  float* filled_values;
  float* end;
};

// Sums of products of bytes. (As __m512i, vectors of 64 bits to GCC 12, each would have two registers in a loop.)
using Sums = __v16si;
HWY_INLINE Sums MultiplyAdd(Sums sums, __m512i unsigned_bytes, __m512i bytes) {
  return (Sums)_mm512_dpbusd_epi32((__m512i)sums, unsigned_bytes, bytes);
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
template <class Element>
HWY_INLINE void TakeKeys(const Scratch& s, const TokenRows<Element>& keys, std::size_t first) {
  const Codes<Element> codes(keys);
  _mm512_store_ps(s.key_scales + first, codes.scales());
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  for (std::size_t d = 0; d < keys.dim; d += kCodes) {
    __m512i rows[kLanes];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kLanes; ++t) rows[t] = _mm512_xor_si512(codes.row(t, d), sign);
    Transpose(rows);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) _mm512_store_si512(s.keys + (d / 4 + i) * kSpanTokens + first, rows[i]);
  }
}

// Values by four tokens, from token `first` on.
template <class Element>
HWY_INLINE void TakeValues(const Scratch& s, const TokenRows<Element>& values, std::size_t first) {
  const Codes<Element> codes(values);
  // A value of zeros has a scale too: its token has a weight.
  const __m512 scales = _mm512_max_ps(codes.scales(), _mm512_set1_ps(0x1p-60f));
  const auto there = static_cast<__mmask16>((1u << values.tokens) - 1);
  _mm512_store_ps(s.value_logs + first, _mm512_mask_mov_ps(_mm512_set1_ps(kMasked), there, Logarithm(scales)));
  _mm512_store_ps(s.value_inverses + first, _mm512_maskz_div_ps(there, _mm512_set1_ps(1), scales));
  float* fours = s.values + first / 4 * s.padded_dim;
  for (std::size_t d = 0; d < values.dim; d += kCodes) {
#pragma GCC unroll 4
    for (std::size_t t = 0; t < kLanes; t += 4) {
      const __m512i row0 = codes.row(t, d), row1 = codes.row(t + 1, d), row2 = codes.row(t + 2, d),
                    row3 = codes.row(t + 3, d);
      const __m512i low01 = _mm512_unpacklo_epi8(row0, row1), high01 = _mm512_unpackhi_epi8(row0, row1),
                    low23 = _mm512_unpacklo_epi8(row2, row3), high23 = _mm512_unpackhi_epi8(row2, row3);
      float* to = fours + t / 4 * s.padded_dim + d;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(low01, low23));
      _mm512_store_si512(to + kLanes, _mm512_unpackhi_epi16(low01, low23));
      _mm512_store_si512(to + 2 * kLanes, _mm512_unpacklo_epi16(high01, high23));
      _mm512_store_si512(to + 3 * kLanes, _mm512_unpackhi_epi16(high01, high23));
    }
  }
}

struct NoOtherWork {
  HWY_INLINE void do_piece() {}
};

// scores[r][t] = queries[row + r] . key[t] + log2 of value[t]'s scale, for 16 * kVectors tokens from `first` on.
// Between products there is time for some other work.
template <std::size_t kRows, std::size_t kVectors, class OtherWork>
HWY_INLINE void ScoresOfRows(const Scratch& s, const FewRows& few, std::size_t row, std::size_t first,
                             __m512 (&largest)[kRows], OtherWork& other) {
  Sums sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = (Sums)_mm512_set1_epi32(s.query_offsets[row + r]);
  }
  const std::size_t stride = s.padded_dim;
  const float* all_keys = s.keys + first;
  const std::int8_t *queries = s.queries + row * stride, *const end = queries + stride;
  while (queries < end) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, queries += 4, all_keys += kSpanTokens) {
      __m512i keys[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) keys[v] = _mm512_load_si512(all_keys + v * kLanes);
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i query = Broadcast(queries + r * stride);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = MultiplyAdd(sums[r][v], keys[v], query);
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
      _mm512_store_ps(few.scores + r * kSpanTokens + t, score);
      largest[r] = _mm512_max_ps(largest[r], score);
    }
  }
}

// sums[row + r] = sums[row + r] * earlier + span * sum over tokens of weight * value, 64 dims from `column` on.
template <std::size_t kRows>
HWY_INLINE void AccumulateStrip(const Scratch& s, const FewRows& few, const AttentionState& state, std::size_t row,
                                std::size_t column, std::size_t tokens, const Factors& factors) {
  constexpr std::size_t kVectors = 4;
  Sums sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = Sums{};
  }
  for (std::size_t t = 0; t < tokens; t += 4) {
    __m512i values[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      values[v] = _mm512_load_si512(s.values + t / 4 * s.padded_dim + column + v * kLanes);
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i weight = Broadcast(few.weights + r * kSpanTokens + t);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = MultiplyAdd(sums[r][v], weight, values[v]);
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

// Tokens that are not there have weight 0, whatever their keys and values are.
HWY_INLINE void ForgetTokens(const Scratch& s, std::size_t first) {
  _mm512_store_ps(s.key_scales + first, _mm512_setzero_ps());
  _mm512_store_ps(s.value_logs + first, _mm512_set1_ps(kMasked));
  _mm512_store_ps(s.value_inverses + first, _mm512_setzero_ps());
}

struct Int8Products {
  using Scratch = kernels::Scratch;
  static constexpr std::size_t kSpanTokens = kernels::kSpanTokens;
  static std::size_t padded_dim_of(const KvLayout& layout) { return int8_padded_dim(layout); }

  static void take_query(const Scratch& s, std::size_t row, const float* q, float scale, std::size_t dim) {
    const auto load = [&](std::size_t i) {
      const std::size_t left = std::min(kLanes, dim - std::min(dim, i));
      return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), q + i);
    };
    __m512 largest = _mm512_setzero_ps();
    for (std::size_t i = 0; i < dim; i += kLanes) largest = _mm512_max_ps(largest, _mm512_abs_ps(load(i)));
    const float magnitude = std::max(1e-30f, _mm512_reduce_max_ps(largest));
    const __m512 inverse = _mm512_set1_ps(127 / magnitude);
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t i = 0; i < s.padded_dim; i += kLanes) {
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(load(i), inverse));
      sum = _mm512_add_epi32(sum, code);
      _mm_store_si128(reinterpret_cast<__m128i*>(s.queries + row * s.padded_dim + i), _mm512_cvtsepi32_epi8(code));
    }
    // Scaled by 1 / sqrt(dim) and log2(e): scores are powers of two.
    s.query_scales[row] = magnitude / 127 * scale * 1.44269504f;
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
      if (!keys.whole(kCodes)) {
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
    const FewRows few = s.few[0];
    __m512 largest[kRows];
    for (std::size_t r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(kMasked);
    NoOtherWork none;
    std::size_t t = 0;
    for (; t + 2 * kLanes < most; t += 4 * kLanes) ScoresOfRows<kRows, 4>(s, few, row, t, largest, none);
    if (t < most) ScoresOfRows<kRows, 2>(s, few, row, t, largest, none);
    const std::size_t padded = round_up(most, kPieceTokens);
    const auto visible_of = [&](std::size_t r) { return visible(row + r); };
    const Factors factors = visible(row) == kSpanTokens
                                ? Softmax<kRows, true>(few, state, row, padded, visible_of, largest)
                                : Softmax<kRows, false>(few, state, row, padded, visible_of, largest);
    for (std::size_t column = 0; column < s.padded_dim; column += kCodes) {
      AccumulateStrip<kRows>(s, few, state, row, column, round_up(most, 4), factors);
    }
  }

  // Of rows that all see the whole span, those that fill fours, with the same bits. The softmax of four is computed
  // between the products of the next: by itself it would leave the units that multiply idle.
  static std::size_t attend_whole(const Scratch& scratch, const AttentionState& state, std::size_t row,
                                  std::size_t rows) {
    constexpr std::size_t kRows = 4;
    const std::size_t count = rows / kRows;
    if (count < 2) return 0;
    const Scratch s = scratch;
    WholeSoftmax<kRows> softmax[2] = {WholeSoftmax<kRows>(s.few[0]), WholeSoftmax<kRows>(s.few[1])};
    for (std::size_t i = 0; i <= count; ++i) {
      WholeSoftmax<kRows>& before = softmax[(i + 1) % 2];
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
      for (std::size_t column = 0; column < s.padded_dim; column += kCodes) {
        AccumulateStrip<kRows>(s, s.few[(i + 1) % 2], state, here - kRows, column, kSpanTokens, factors);
      }
    }
    return count * kRows;
  }

  // Out of the order that TakeValues() leaves: a vector has 4 dims of each 16.
  static void store_result(const float* sums, float total, std::size_t dim, float* out) {
    const __m512 inverse = _mm512_set1_ps(1.0f / total);
    for (std::size_t i = 0; i < dim; i += kCodes) {
      __m512 v[4];
      for (std::size_t j = 0; j < 4; ++j) v[j] = _mm512_mul_ps(_mm512_load_ps(sums + i + j * kLanes), inverse);
      const __m512 t0 = _mm512_shuffle_f32x4(v[0], v[1], 0x44), t1 = _mm512_shuffle_f32x4(v[0], v[1], 0xee),
                   t2 = _mm512_shuffle_f32x4(v[2], v[3], 0x44), t3 = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
      v[0] = _mm512_shuffle_f32x4(t0, t2, 0x88);
      v[1] = _mm512_shuffle_f32x4(t0, t2, 0xdd);
      v[2] = _mm512_shuffle_f32x4(t1, t3, 0x88);
      v[3] = _mm512_shuffle_f32x4(t1, t3, 0xdd);
      for (std::size_t j = 0; j < 4; ++j) {
        const std::size_t at = i + j * kLanes, left = std::min(kLanes, dim - std::min(dim, at));
        _mm512_mask_storeu_ps(out + at, static_cast<__mmask16>((1u << left) - 1), v[j]);
      }
    }
  }
};

using Bytes = SpanAttention<Int8Products>;

bool is_few(const AttentionArgs& a) { return a.style == AttentionStyle::Decode; }

void Attend(const AttentionArgs& a, float* scratch) {
  is_few(a) ? kBf16Attention.attend(a, scratch) : Bytes::attend(a, scratch);
}
void MergeSections(const AttentionArgs& a) { is_few(a) ? kBf16Attention.merge_sections(a) : Bytes::merge_sections(a); }
void AttendTogether(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
  is_few(runs.front()) ? kBf16Attention.attend_together(runs, shared, scratch)
                       : Bytes::attend_together(runs, shared, scratch);
}
std::size_t scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
  return std::max(Bytes::scratch_floats(layout, tokens, group), kBf16Attention.scratch_floats(layout, tokens, group));
}

}  // namespace

bool has_int8_attention() {
  static const bool has = has_bf16_products() && __builtin_cpu_supports("avx512vnni");
  return has;
}

// States are larger in bytes, as dims are rounded up further, and spans and sections are the same.
const AttentionKernel kInt8Attention{
    Attend,         MergeSections, scratch_floats, Bytes::state_floats, Bytes::section_tokens,
    AttendTogether, kSpanTokens,   Products::Int8, Products::Bf16};

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {
bool has_int8_attention() { return false; }
const AttentionKernel kInt8Attention{};
}  // namespace tiercel::kernels

#endif
