// Attention over bf16 or int8 KV for processors with AVX512-BF16: queries, and the softmax weights of a span, are
// rounded to bf16, so that both products run at the speed of VDPBF16PS; everything else is float32. Codes of int8 are
// exact in bf16; the keys' scales are applied to scores, and the values' to weights before they are rounded.
//
// Keys are transposed and values interleaved once for all queries of a call, whether one or many, so a query's result
// is the same bits in every call: spans begin at multiples of their length, sums run in one order, and what a query
// does not see has weight zero.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/attention_state.h"
#include "kernels/kv_code.h"
#include "kernels/paged_attention.h"

namespace tiercel::kernels {
namespace {

constexpr std::size_t kSpanTokens = 128;
constexpr std::size_t kSectionTokens = 4 * kSpanTokens;
constexpr std::size_t kLanes = 16;

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }
std::size_t padded_dim_of(const KvLayout& layout) { return round_up(layout.head_dim, 2 * kLanes); }
std::size_t section_tokens(const KvLayout&) { return kSectionTokens; }

// Scratch of one call. A row is one query head of one query token.
struct Scratch {
  static constexpr std::size_t kRowsAtOnce = 6;

  Scratch(float* base, const KvLayout& layout, std::size_t row_count)
      : rows(row_count), padded_dim(padded_dim_of(layout)) {
    const auto take = [&](std::size_t floats) { return std::exchange(base, base + round_up(floats, kLanes)); };
    keys = take(padded_dim / 2 * kSpanTokens);
    values = take(kSpanTokens / 2 * padded_dim);
    queries = reinterpret_cast<std::uint16_t*>(take(rows * padded_dim / 2));
    for (float*& state : states) state = take(AttentionState::floats(rows, padded_dim));
    scores = take(kRowsAtOnce * kSpanTokens);
    weights = reinterpret_cast<std::uint16_t*>(take(kRowsAtOnce * kSpanTokens / 2));
    key_scales = take(kSpanTokens);
    value_scales = take(kSpanTokens);
    end = base;
  }

  std::size_t rows, padded_dim;
  float* keys;             // [pair of dims][token]: two bf16
  float* values;           // [pair of tokens][dim]: two bf16; dims of 32 in the order that unpacking leaves
  std::uint16_t* queries;  // [row][dim], scaled, zero beyond head_dim
  float* states[2];        // AttentionState: of the sections so far, and of the next
  float* scores;           // [row of a few][token]
  std::uint16_t* weights;  // [row of a few][token]
  float* key_scales;       // [token], 0 beyond the last; of int8
  float* value_scales;
  float* end;
};

std::size_t scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
  return Scratch(nullptr, layout, tokens * group).end - static_cast<float*>(nullptr);
}

std::size_t state_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
  return AttentionState::floats(tokens * group, padded_dim_of(layout));
}

}  // namespace

}  // namespace tiercel::kernels

#if defined(__x86_64__) && defined(__GNUC__)

// GCC 12 warns of the "undefined" vectors of its own header (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <hwy/base.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

HWY_INLINE __m512bh LoadPairs(const float* pairs) { return (__m512bh)_mm512_load_ps(pairs); }

// One pair of bf16 for all lanes.
HWY_INLINE __m512bh SetPair(const std::uint16_t* pair) {
  std::int32_t bits;
  __builtin_memcpy(&bits, pair, 4);
  return (__m512bh)_mm512_set1_epi32(bits);
}

// 2^x for x <= 0, within 1e-4 of it, a twentieth of what bf16 rounds away; 1 at 0, and 0 far below. (The polynomial is
// the minimax one on [-1/2, 1/2] among those that are 1 at 0.)
HWY_INLINE __m512 PowerOfTwo(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(0.05500893f);
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.24221096f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.69328293f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);
}

HWY_INLINE __mmask32 DimMask(std::size_t dim, std::size_t first) {
  return dim - first >= 32 ? 0xffffffffu : (1u << (dim - first)) - 1;
}

// Transposes 16 vectors of 16 elements of 32 bits.
HWY_INLINE void Transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

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

template <class Element>
constexpr bool kScaled = sizeof(Element) == 1;

// K or V of 16 tokens, which lie in one block or in two.
template <class Element>
struct TokenRows {
  const Element* halves[2];
  const std::uint16_t* scales[2];  // of int8
  std::size_t dim, tokens;         // those beyond `tokens` are zero

  // All 16 are there, and dims fill vectors.
  bool whole() const { return tokens == kLanes && dim % (2 * kLanes) == 0; }
  template <bool kWhole>
  HWY_INLINE __m512i Load(std::size_t token, std::size_t first_dim) const {
    const Element* row = halves[token / 8] + token % 8 * dim + first_dim;
    if constexpr (kWhole) return ToBf16(LoadElements(row));
    return token < tokens ? ToBf16(LoadElements(row, DimMask(dim, first_dim))) : _mm512_setzero_si512();
  }
  HWY_INLINE void StoreScales(float* out) const {
    for (std::size_t half = 0; half < 2; ++half, out += 8) {
      const std::size_t count = std::min<std::size_t>(8, tokens - std::min(tokens, 8 * half));
      const __m128i bits = _mm_maskz_loadu_epi16(static_cast<__mmask8>((1u << count) - 1), scales[half]);
      _mm256_store_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
    }
  }
};

template <class Element>
struct KeysAndValues {
  TokenRows<Element> keys, values;
};

// `count` tokens, up to 16, from `position`, a multiple of 16, on.
template <class Element>
HWY_INLINE KeysAndValues<Element> RowsFrom(const AttentionArgs& a, std::size_t position, std::size_t count) {
  const KvLayout& layout = a.kv.layout;
  TokenRows<Element> keys{.halves = {}, .scales = {}, .dim = layout.head_dim, .tokens = count};
  TokenRows<Element> values = keys;
  for (std::size_t half = 0; half < 2 && half * 8 < count; ++half) {
    const std::size_t at = position + half * 8;
    const BlockId block = a.block_table[at / layout.block_tokens];
    const auto* head = reinterpret_cast<const Element*>(a.kv.arena + block * layout.block_stride()) +
                       a.kv.layer * layout.layer_stride() + a.kv_head * layout.head_stride();
    const std::size_t token = at % layout.block_tokens;
    for (TokenRows<Element>* rows : {&keys, &values}) {
      rows->halves[half] = head + token * layout.head_dim;
      if (kScaled<Element>) {
        rows->scales[half] = reinterpret_cast<const std::uint16_t*>(head + layout.scale_offset()) + token;
      }
      head += layout.value_offset();
    }
  }
  return {keys, values};
}

// So far ahead KV is asked for: it lies in pieces of a block, which the processor does not foresee. Into the second
// cache, which takes more requests at once than the first.
constexpr std::size_t kTokensAhead = 128;

template <class Element>
HWY_INLINE void Prefetch(const AttentionArgs& a, std::size_t position, std::size_t end) {
  if (position >= end) return;
  constexpr std::size_t kLine = 64 / sizeof(Element);
  const auto [keys, values] = RowsFrom<Element>(a, position, std::min(kLanes, end - position));
  for (const TokenRows<Element>& rows : {keys, values}) {
    for (std::size_t half = 0; half < 2 && rows.halves[half] != nullptr; ++half) {
      if (kScaled<Element>) _mm_prefetch(rows.scales[half], _MM_HINT_T1);
      for (std::size_t i = 0; i < 8 * rows.dim; i += kLine) _mm_prefetch(rows.halves[half] + i, _MM_HINT_T1);
    }
  }
}

// Keys into the token columns first .. first + 15.
template <bool kWhole, class Element>
HWY_INLINE void TransposeKeys(const Scratch& s, const TokenRows<Element>& keys, std::size_t first) {
  for (std::size_t d = 0; d < keys.dim; d += 2 * kLanes) {
    __m512i rows[kLanes];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kLanes; ++t) rows[t] = keys.template Load<kWhole>(t, d);
    Transpose(rows);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) _mm512_store_si512(s.keys + (d / 2 + i) * kSpanTokens + first, rows[i]);
  }
}

// Values as pairs of tokens, from token `first` on.
template <bool kWhole, class Element>
HWY_INLINE void InterleaveValues(const Scratch& s, const TokenRows<Element>& values, std::size_t first) {
  float* pairs = s.values + first / 2 * s.padded_dim;
  for (std::size_t d = 0; d < values.dim; d += 2 * kLanes) {
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kLanes; t += 2) {
      const __m512i even = values.template Load<kWhole>(t, d), odd = values.template Load<kWhole>(t + 1, d);
      _mm512_store_si512(pairs + t / 2 * s.padded_dim + d, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(pairs + t / 2 * s.padded_dim + d + kLanes, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

// scores[r][t] = queries[row + r] . key[t], for tokens in steps of 16 * kVectors.
template <bool kScaledKeys, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void ScoresOfRows(const Scratch& s, std::size_t row, std::size_t tokens, __m512 (&largest)[kRows]) {
  for (std::size_t t = 0; t < tokens; t += kVectors * kLanes) {
    __m512 sums[kRows][kVectors];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    for (std::size_t pair = 0; pair < s.padded_dim / 2; ++pair) {
      __m512bh keys[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) keys[v] = LoadPairs(s.keys + pair * kSpanTokens + t + v * kLanes);
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512bh query = SetPair(s.queries + (row + r) * s.padded_dim + 2 * pair);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], keys[v], query);
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

// In all lanes: the largest of all, and the sum of all.
HWY_INLINE __m512 LargestOfAll(__m512 v) {
  v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
  v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_max_ps(v, _mm512_permute_ps(v, 0x4e));
  return _mm512_max_ps(v, _mm512_permute_ps(v, 0xb1));
}
HWY_INLINE __m512 SumOfAll(__m512 v) {
  v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
  v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
  return _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
}

// Lane `lane` in all lanes.
HWY_INLINE __m512 SpreadLane(__m512 v, std::size_t lane) {
  return _mm512_permutexvar_ps(_mm512_set1_epi32(static_cast<int>(lane)), v);
}

// Turns the scores of kRows rows into bf16 weights relative to each row's running maximum, up to `padded` tokens, a
// multiple of 32. kWholeSpan: all rows see all of its tokens. Else those at and after visible(r) get weight 0. Returns
// what earlier sums are multiplied with, a lane for each row. (In registers: what is stored by lanes is late for a
// vector.)
template <bool kScaledValues, std::size_t kRows, bool kWholeSpan, class Visible>
HWY_INLINE __m512 Softmax(const Scratch& s, const AttentionState& state, std::size_t row, std::size_t padded,
                          const Visible& visible, const __m512 (&largest_seen)[kRows]) {
  const __m512 masked = _mm512_set1_ps(kMasked);
  constexpr auto kLanesOfRows = static_cast<__mmask16>((1u << kRows) - 1);
  __m512 maxima = masked, totals = _mm512_setzero_ps();
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    __m512 largest = largest_seen[r];
    if constexpr (!kWholeSpan) {
      float* scores = s.scores + r * kSpanTokens;
      largest = masked;
      for (std::size_t t = 0; t < padded; t += kLanes) {
        const std::size_t seen = std::min(kLanes, visible(r) - std::min(visible(r), t));
        const __m512 score = _mm512_mask_loadu_ps(masked, static_cast<__mmask16>((1u << seen) - 1), scores + t);
        _mm512_store_ps(scores + t, score);
        largest = _mm512_max_ps(largest, score);
      }
    }
    maxima = _mm512_mask_mov_ps(maxima, static_cast<__mmask16>(1u << r), LargestOfAll(largest));
  }
  const __m512 before = _mm512_maskz_loadu_ps(kLanesOfRows, state.maxima + row);
  const __m512 now = _mm512_max_ps(before, maxima);
  const __m512 kept = PowerOfTwo(_mm512_max_ps(_mm512_sub_ps(before, now), _mm512_set1_ps(-200.0f)));
  _mm512_mask_storeu_ps(state.maxima + row, kLanesOfRows, now);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
    const float* scores = s.scores + r * kSpanTokens;
    std::uint16_t* weights = s.weights + r * kSpanTokens;
    const __m512 maximum = SpreadLane(now, r);
    __m512 total = _mm512_setzero_ps();
    for (std::size_t t = 0; t < padded; t += 2 * kLanes) {
      const __m512 low = PowerOfTwo(_mm512_sub_ps(_mm512_load_ps(scores + t), maximum));
      const __m512 high = PowerOfTwo(_mm512_sub_ps(_mm512_load_ps(scores + t + kLanes), maximum));
      __m512bh both;
      if constexpr (kScaledValues) {
        total = _mm512_add_ps(total, _mm512_add_ps(low, high));
        both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, _mm512_load_ps(s.value_scales + t + kLanes)),
                                   _mm512_mul_ps(low, _mm512_load_ps(s.value_scales + t)));
      } else {
        both = _mm512_cvtne2ps_pbh(high, low);
        total = _mm512_dpbf16_ps(total, both, ones);
      }
      _mm512_storeu_si512(weights + t, (__m512i)both);
    }
    totals = _mm512_mask_mov_ps(totals, static_cast<__mmask16>(1u << r), SumOfAll(total));
  }
  const __m512 sums = _mm512_maskz_loadu_ps(kLanesOfRows, state.totals + row);
  _mm512_mask_storeu_ps(state.totals + row, kLanesOfRows, _mm512_fmadd_ps(sums, kept, totals));
  return kept;
}

// sums[row + r] = sums[row + r] * lane r of `keep` + sum over tokens of weight * value, kVectors vectors of dims from
// `column` on.
template <std::size_t kRows, std::size_t kVectors>
HWY_INLINE void AccumulateStrip(const Scratch& s, const AttentionState& state, std::size_t row, std::size_t column,
                                std::size_t tokens, __m512 keep) {
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
    __m512bh values[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      values[v] = LoadPairs(s.values + t / 2 * s.padded_dim + column + v * kLanes);
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512bh weight = SetPair(s.weights + r * kSpanTokens + t);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], values[v], weight);
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

// A span, for kRows rows from `row` on; visible(row): how many of its tokens a row sees, the last one most.
template <bool kScaledKv, std::size_t kRows, class Visible>
void AttendRows(const Scratch& s, const AttentionState& state, std::size_t row, const Visible& visible) {
  const std::size_t most = visible(row + kRows - 1);
  if (most == 0) return;
  __m512 largest[kRows];
  for (std::size_t r = 0; r < kRows; ++r) largest[r] = _mm512_set1_ps(kMasked);
  if (most > 2 * kLanes) {
    ScoresOfRows<kScaledKv, kRows, 4>(s, row, most, largest);
  } else {
    ScoresOfRows<kScaledKv, kRows, 2>(s, row, most, largest);
  }
  const std::size_t padded = round_up(most, 2 * kLanes);
  const auto visible_of = [&](std::size_t r) { return visible(row + r); };
  const __m512 keep = visible(row) == kSpanTokens
                          ? Softmax<kScaledKv, kRows, true>(s, state, row, padded, visible_of, largest)
                          : Softmax<kScaledKv, kRows, false>(s, state, row, padded, visible_of, largest);
  std::size_t column = 0;
  for (; column + 4 * kLanes <= s.padded_dim; column += 4 * kLanes)
    AccumulateStrip<kRows, 4>(s, state, row, column, padded, keep);
  for (; column < s.padded_dim; column += 2 * kLanes) AccumulateStrip<kRows, 2>(s, state, row, column, padded, keep);
}

// Scaled by 1 / sqrt(dim) and log2(e): scores are powers of two.
HWY_INLINE void RoundQuery(const float* q, float scale, std::size_t dim, std::size_t padded_dim, std::uint16_t* out) {
  const __m512 scales = _mm512_set1_ps(scale * 1.44269504f);
  for (std::size_t i = 0; i < padded_dim; i += 32) {
    const __mmask32 mask = DimMask(dim, i);
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), q + i);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), q + i + 16);
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, scales), _mm512_mul_ps(low, scales));
    _mm512_storeu_si512(out + i, (__m512i)both);
  }
}

// Out of the order that InterleaveValues() leaves: of every 8 dims, the first four are in the one vector.
HWY_INLINE void StoreResult(const float* sums, float total, std::size_t dim, float* out) {
  const __m512 inverse = _mm512_set1_ps(1.0f / total);
  const __m512i low_order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high_order = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  for (std::size_t i = 0; i < dim; i += 32) {
    const __mmask32 mask = DimMask(dim, i);
    const __m512 even = _mm512_mul_ps(_mm512_load_ps(sums + i), inverse);
    const __m512 odd = _mm512_mul_ps(_mm512_load_ps(sums + i + 16), inverse);
    _mm512_mask_storeu_ps(out + i, static_cast<__mmask16>(mask), _mm512_permutex2var_ps(even, low_order, odd));
    _mm512_mask_storeu_ps(out + i + 16, static_cast<__mmask16>(mask >> 16),
                          _mm512_permutex2var_ps(even, high_order, odd));
  }
}

template <bool kScaledKv, class Visible>
HWY_INLINE void AttendSpan(const Scratch& s, const AttentionState& state, std::size_t first_row, std::size_t rows,
                           const Visible& visible) {
  std::size_t r = first_row;
  const std::size_t end = first_row + rows;
  for (; r + 6 <= end; r += 6) AttendRows<kScaledKv, 6>(s, state, r, visible);
  for (; r + 3 <= end; r += 3) AttendRows<kScaledKv, 3>(s, state, r, visible);
  for (; r < end; ++r) AttendRows<kScaledKv, 1>(s, state, r, visible);
}

// K and V of a span into scratch; `end`: of what will be asked for.
template <class Element>
void TakeSpan(const AttentionArgs& a, const Scratch& s, std::size_t begin, std::size_t tokens, std::size_t end) {
  // As far as vectors reach beyond the last token, with zeros.
  const std::size_t padded = round_up(tokens, 4 * kLanes);
  for (std::size_t first = 0; first < padded; first += kLanes) {
    const std::size_t count = std::min(kLanes, tokens - std::min(tokens, first));
    const auto [keys, values] = RowsFrom<Element>(a, begin + first, count);
    Prefetch<Element>(a, begin + first + kTokensAhead, end);
    if (keys.whole()) {
      TransposeKeys<true>(s, keys, first);
      InterleaveValues<true>(s, values, first);
    } else {
      TransposeKeys<false>(s, keys, first);
      InterleaveValues<false>(s, values, first);
    }
    if constexpr (kScaled<Element>) {
      keys.StoreScales(s.key_scales + first);
      values.StoreScales(s.value_scales + first);
    }
  }
}

template <class Element>
void PrefetchFirst(const AttentionArgs& a, std::size_t begin, std::size_t end) {
  for (std::size_t ahead = 0; ahead < kTokensAhead; ahead += kLanes) Prefetch<Element>(a, begin + ahead, end);
}

std::size_t rows_of(const AttentionArgs& a) { return a.tokens * a.group; }

// Section `section` of the runs' contexts, which share so many tokens, for all rows.
template <class Element>
void AttendSection(std::span<const AttentionArgs> runs, std::size_t shared, const Scratch& s,
                   const AttentionState& state, std::size_t section) {
  state.clear();
  const std::size_t first_token = section * kSectionTokens, last_token = first_token + kSectionTokens;
  std::size_t begin = first_token;
  const std::size_t shared_end = std::min(shared, last_token);
  if (begin < shared_end) PrefetchFirst<Element>(runs.front(), begin, shared_end);
  for (; begin < shared_end; begin += kSpanTokens) {
    TakeSpan<Element>(runs.front(), s, begin, kSpanTokens, shared_end);
    AttendSpan<kScaled<Element>>(s, state, 0, s.rows, [](std::size_t) { return kSpanTokens; });
  }
  std::size_t first_row = 0;
  for (const AttentionArgs& a : runs) {
    const std::size_t end = std::min(a.first_position + a.tokens, last_token);
    PrefetchFirst<Element>(a, begin, end);
    for (std::size_t span = begin; span < end; span += kSpanTokens) {
      const std::size_t tokens = std::min(kSpanTokens, end - span);
      TakeSpan<Element>(a, s, span, tokens, end);
      AttendSpan<kScaled<Element>>(s, state, first_row, rows_of(a), [&](std::size_t row) {
        const std::size_t position = a.first_position + (row - first_row) / a.group;  // the last one this row sees
        return position < span ? 0 : std::min(tokens, position - span + 1);
      });
    }
    first_row += rows_of(a);
  }
}

float Power(float x) { return std::exp2(x); }

void StoreResults(std::span<const AttentionArgs> runs, const AttentionState& state) {
  std::size_t row = 0;
  for (const AttentionArgs& a : runs) {
    const std::size_t dim = a.kv.layout.head_dim;
    for (std::size_t r = 0; r < rows_of(a); ++r, ++row) {
      StoreResult(state.sums + row * state.padded_dim, state.totals[row], dim,
                  a.out + r / a.group * a.out_stride + (a.kv_head * a.group + r % a.group) * dim);
    }
  }
}

template <class Element>
void AttendElements(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
  const KvLayout& layout = runs.front().kv.layout;
  assert(shared % kSpanTokens == 0);
  const std::size_t dim = layout.head_dim;
  std::size_t rows = 0, positions = 0;
  for (const AttentionArgs& a : runs) {
    rows += rows_of(a);
    positions = std::max(positions, a.first_position + a.tokens);
  }
  const Scratch s(scratch, layout, rows);
  std::uint16_t* query = s.queries;
  for (const AttentionArgs& a : runs) {
    for (std::size_t r = 0; r < rows_of(a); ++r, query += s.padded_dim) {
      RoundQuery(a.q + r / a.group * a.q_stride + (a.kv_head * a.group + r % a.group) * dim, a.scale, dim, s.padded_dim,
                 query);
    }
  }
  if (float* states = runs.front().states) {
    const std::size_t section = runs.front().section;
    float* own = states + section * AttentionState::floats(s.rows, s.padded_dim);
    return AttendSection<Element>(runs, shared, s, AttentionState(own, s.rows, s.padded_dim), section);
  }
  const AttentionState state(s.states[0], s.rows, s.padded_dim), next(s.states[1], s.rows, s.padded_dim);
  AttendSection<Element>(runs, shared, s, state, 0);
  const std::size_t sections = kBf16Attention.sections(layout, positions);
  for (std::size_t section = 1; section < sections; ++section) {
    AttendSection<Element>(runs, shared, s, next, section);
    state.merge(next, Power);
  }
  StoreResults(runs, state);
}

void AttendTogether(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
  const DType dtype = runs.front().kv.layout.dtype;
  assert(dtype == DType::BF16 || dtype == DType::Int8);
  dtype == DType::Int8 ? AttendElements<std::int8_t>(runs, shared, scratch)
                       : AttendElements<std::uint16_t>(runs, shared, scratch);
}

void Attend(const AttentionArgs& args, float* scratch) { AttendTogether({&args, 1}, 0, scratch); }

void MergeSections(const AttentionArgs& a) {
  const AttentionState state(a.states, rows_of(a), padded_dim_of(a.kv.layout));
  state.merge_following(kBf16Attention.sections(a.kv.layout, a.first_position + a.tokens), Power);
  StoreResults({&a, 1}, state);
}

}  // namespace

const AttentionKernel kBf16Attention{Attend,         MergeSections,  scratch_floats, state_floats,
                                     section_tokens, AttendTogether, kSpanTokens};

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {
const AttentionKernel kBf16Attention{nullptr, nullptr, scratch_floats, state_floats, section_tokens};
}  // namespace tiercel::kernels

#endif
