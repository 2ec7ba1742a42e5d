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

#include <cstring>
#include <utility>

#include "kernels/span_attention.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

constexpr std::size_t kSpanTokens = 128;
constexpr std::size_t kBytes = 64;  // of a vector

std::size_t int8_padded_dim(const KvLayout& layout) { return round_up(layout.head_dim, kBytes); }

// What becomes of a few rows in a span.
struct FewRows {
  float* scores;          // [row][token]
  std::uint8_t* weights;  // [row][token]
};

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
    for (std::size_t i = 0; i < 2; ++i) {
      few[i].scores = take(kRowsAtOnce * kSpanTokens);
      few[i].weights = reinterpret_cast<std::uint8_t*>(take(kRowsAtOnce * kSpanTokens / 4));
    }
    key_scales = take(kSpanTokens);
    value_logs = take(kSpanTokens);
    value_inverses = take(kSpanTokens);
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

// Four bytes, for all lanes.
template <class Byte>
HWY_INLINE __m512i SetFour(const Byte* bytes) {
  std::int32_t bits;
  __builtin_memcpy(&bits, bytes, 4);
  return _mm512_set1_epi32(bits);
}

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

// Rows of 16 tokens, whose dims fill vectors, as codes, and their scales, 0 of tokens that are not there.
template <class Element>
class Codes;

template <>
class Codes<std::int8_t> {
 public:
  HWY_INLINE Codes(const TokenRows<std::int8_t>& rows) : rows_(rows) {
    alignas(64) float scales[kLanes];
    rows.StoreScales(scales);
    scales_ = _mm512_load_ps(scales);
  }
  HWY_INLINE __m512 scales() const { return scales_; }
  HWY_INLINE __m512i row(std::size_t token, std::size_t first_dim) const {
    return _mm512_loadu_si512(rows_.row(token) + first_dim);
  }

 private:
  const TokenRows<std::int8_t>& rows_;
  __m512 scales_;
};

template <>
class Codes<std::uint16_t> {
 public:
  HWY_INLINE Codes(const TokenRows<std::uint16_t>& rows) : rows_(rows) {
    const __m512 magnitudes = Magnitudes();
    scales_ = _mm512_mul_ps(magnitudes, _mm512_set1_ps(1.0f / 127));
    // The inverse of something smaller would not be finite.
    const __mmask16 some = _mm512_cmp_ps_mask(magnitudes, _mm512_set1_ps(1e-30f), _CMP_GE_OQ);
    _mm512_store_ps(inverses_, _mm512_maskz_div_ps(some, _mm512_set1_ps(127), magnitudes));
  }
  HWY_INLINE __m512 scales() const { return scales_; }
  HWY_INLINE __m512i row(std::size_t token, std::size_t first_dim) const {
    const std::uint16_t* row = rows_.row(token) + first_dim;
    const __m512 inverse = _mm512_set1_ps(inverses_[token]);
    const __m512i words = Words(_mm512_loadu_si512(row), inverse), more = Words(_mm512_loadu_si512(row + 32), inverse);
    // In each lane now the even and the odd dims of 8 of the first half, and of 8 of the second.
    const __m512i side_by_side =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                    _mm512_shuffle_epi8(_mm512_packs_epi16(words, more), side_by_side));
  }

 private:
  // Of two elements each, the largest magnitudes of a row.
  HWY_INLINE __m512 Largest(std::size_t token) const {
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i largest = _mm512_setzero_si512();
    const std::uint16_t* row = rows_.row(token);
    for (std::size_t d = 0; d < rows_.dim; d += 32) {
      largest = _mm512_max_epu16(largest, _mm512_and_si512(_mm512_loadu_si512(row + d), magnitude));
    }
    return _mm512_castsi512_ps(largest);
  }
  // The largest magnitude of each row.
  HWY_INLINE __m512 Magnitudes() const {
    __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (std::size_t t = 0; t < kLanes; t += 4) {
      const __m512 four = FoldFour<LargestWord>(Largest(t), Largest(t + 1), Largest(t + 2), Largest(t + 3));
      all = _mm512_mask_mov_epi32(all, static_cast<__mmask16>(0x1111u << (t / 4)), _mm512_castps_si512(four));
    }
    all = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
    all = _mm512_max_epu16(all, _mm512_srli_epi32(all, 16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(all, 16));
  }
  // Of 32 elements, in each lane four even ones before four odd ones.
  static HWY_INLINE __m512i Words(__m512i elements, __m512 inverse) {
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(elements, 16)),
                 odd =
                     _mm512_castsi512_ps(_mm512_and_si512(elements, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(even, inverse)),
                              _mm512_cvtps_epi32(_mm512_mul_ps(odd, inverse)));
  }

  const TokenRows<std::uint16_t>& rows_;
  __m512 scales_;
  alignas(64) float inverses_[kLanes];
};

// Keys into the token columns first .. first + 15.
template <class Element>
HWY_INLINE void TakeKeys(const Scratch& s, const TokenRows<Element>& keys, std::size_t first) {
  const Codes<Element> codes(keys);
  _mm512_store_ps(s.key_scales + first, codes.scales());
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  for (std::size_t d = 0; d < keys.dim; d += kBytes) {
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
  for (std::size_t d = 0; d < values.dim; d += kBytes) {
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
        const __m512i query = SetFour(queries + r * stride);
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

// 255 * 2^x for x <= 0, within 1e-4 of it; no code where it is far below. As in PowerOfTwo(), but for the whole part,
// which is added to the exponent: by other units of the processor than multiply.
HWY_INLINE __m512 WeightOf(__m512 x) {
  const __m512 shift = _mm512_set1_ps(0x1.8p23f);  // a sum with it has the whole part in its lowest bits
  x = _mm512_max_ps(x, _mm512_set1_ps(-120.0f));
  const __m512 shifted = _mm512_add_ps(x, shift);
  const __m512 part = _mm512_sub_ps(x, _mm512_sub_ps(shifted, shift));
  __m512 power = _mm512_set1_ps(255 * 0.05500893f);
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(255 * 0.24221096f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(255 * 0.69328293f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(255.0f));
  const __m512i whole = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), whole));
}

struct NoOtherWork {
  HWY_INLINE void do_piece() {}
};

// What earlier sums, and those of a span, are multiplied with, a lane for each row.
struct Factors {
  __m512 earlier, span;
};

template <std::size_t kRows>
constexpr auto kLanesOfRows = static_cast<__mmask16>((1u << kRows) - 1);

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

constexpr std::size_t kPieceTokens = 4 * kLanes;

// A piece of a row's scores, from token `first` on, into weights relative to the row's largest, which are added to the
// total.
HWY_INLINE void WeighPiece(const Scratch& s, const FewRows& few, std::size_t row, std::size_t first, __m512 maximum,
                           __m512& total) {
  __m512i codes[4];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < 4; ++v) {
    const std::size_t at = first + v * kLanes;
    const __m512 weight = WeightOf(_mm512_sub_ps(_mm512_load_ps(few.scores + row * kSpanTokens + at), maximum));
    codes[v] = _mm512_cvtps_epi32(weight);
    total = _mm512_fmadd_ps(weight, _mm512_load_ps(s.value_inverses + at), total);
  }
  // In each quarter now four of each vector.
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]), _mm512_packus_epi32(codes[2], codes[3]));
  const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_si512(few.weights + row * kSpanTokens + first, _mm512_permutexvar_epi32(in_order, bytes));
}

// Turns the scores of kRows rows into weights, up to `padded` tokens, a multiple of kPieceTokens. kWholeSpan: all rows
// see all of its tokens. Else those at and after visible(r) get weight 0.
template <std::size_t kRows, bool kWholeSpan, class Visible>
HWY_INLINE Factors Softmax(const Scratch& s, const FewRows& few, const AttentionState& state, std::size_t row,
                           std::size_t padded, const Visible& visible, const __m512 (&largest_seen)[kRows]) {
  const __m512 maxima = LargestScores<kRows, kWholeSpan>(few.scores, kSpanTokens, padded, visible, largest_seen);
  const Factors factors = TakeMaxima<kRows>(state, row, maxima);
  __m512 totals[kRows];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    totals[r] = _mm512_setzero_ps();
    const __m512 maximum = SpreadLane(maxima, r);
    for (std::size_t t = 0; t < padded; t += kPieceTokens) WeighPiece(s, few, r, t, maximum, totals[r]);
  }
  TakeTotals<kRows>(state, row, totals, factors);
  return factors;
}

// The softmax of rows that see a whole span, piece by piece. (Sums are in memory: what products are summed up in takes
// all registers.)
template <std::size_t kRows>
class WholeSoftmax {
 public:
  WholeSoftmax(const Scratch& s, const FewRows& few) : s_(s), few_(few) {}

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
    WeighPiece(s_, few_, r, next_ % kPiecesOfRow * kPieceTokens, _mm512_load_ps(maxima_[r]), total);
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
  static constexpr std::size_t kPiecesOfRow = kSpanTokens / kPieceTokens, kPieces = kRows * kPiecesOfRow;
  const Scratch& s_;
  const FewRows& few_;
  Factors factors_;
  alignas(64) float maxima_[kRows][kLanes];
  alignas(64) float totals_[kRows][kLanes];
  std::size_t next_ = kPieces;
};

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
      const __m512i weight = SetFour(few.weights + r * kSpanTokens + t);
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

// The same rows with zeros for what is missing of 16, and of the dims of whole vectors.
template <class Element>
TokenRows<Element> FillUp(const TokenRows<Element>& rows, std::size_t padded_dim, float* memory) {
  auto* filled = reinterpret_cast<Element*>(memory);
  std::memset(filled, 0, kLanes * padded_dim * sizeof(Element));
  for (std::size_t t = 0; t < rows.tokens; ++t) {
    std::memcpy(filled + t * padded_dim, rows.row(t), rows.dim * sizeof(Element));
  }
  TokenRows<Element> whole = rows;
  whole.dim = padded_dim;
  whole.halves[0] = filled;
  whole.halves[1] = filled + kLanes / 2 * padded_dim;
  return whole;
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
  static void take_span(const AttentionArgs& a, const Scratch& s, std::size_t begin, std::size_t tokens,
                        std::size_t end) {
    // As far as vectors reach beyond the last token, with zeros.
    const std::size_t padded = round_up(tokens, 4 * kLanes);
    for (std::size_t first = 0; first < padded; first += kLanes) {
      const std::size_t count = std::min(kLanes, tokens - std::min(tokens, first));
      if (count == 0) {
        ForgetTokens(s, first);
        continue;
      }
      auto [keys, values] = RowsFrom<Element>(a, begin + first, count);
      Prefetch<Element>(a, begin + first + kTokensAhead, end);
      if (!keys.whole(kBytes)) {
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
                                ? Softmax<kRows, true>(s, few, state, row, padded, visible_of, largest)
                                : Softmax<kRows, false>(s, few, state, row, padded, visible_of, largest);
    for (std::size_t column = 0; column < s.padded_dim; column += kBytes) {
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
    WholeSoftmax<kRows> softmax[2] = {{s, s.few[0]}, {s, s.few[1]}};
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
      for (std::size_t column = 0; column < s.padded_dim; column += kBytes) {
        AccumulateStrip<kRows>(s, s.few[(i + 1) % 2], state, here - kRows, column, kSpanTokens, factors);
      }
    }
    return count * kRows;
  }

  // Out of the order that TakeValues() leaves: a vector has 4 dims of each 16.
  static void store_result(const float* sums, float total, std::size_t dim, float* out) {
    const __m512 inverse = _mm512_set1_ps(1.0f / total);
    for (std::size_t i = 0; i < dim; i += kBytes) {
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

}  // namespace

namespace {

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
