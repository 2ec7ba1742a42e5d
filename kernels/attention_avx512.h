// What the attention kernels for AVX-512 have in common: where a span's K and V lie, and the arithmetic of vectors that
// does not depend on how they are multiplied. Included only where <immintrin.h> is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention_state.h"
#include "kernels/paged_attention.h"
#include "kernels/vectors_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

inline std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

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

template <std::size_t kRows>
inline constexpr auto kLanesOfRows = static_cast<__mmask16>((1u << kRows) - 1);

// The largest of each row's scores, [row][stride], a lane for each row. kWholeSpan: all rows see all of them, and
// largest_seen has the largest of each lane. Else what row r does not see, from visible(r) on, is masked first. (In
// registers: what is stored by lanes is late for a vector.)
template <std::size_t kRows, bool kWholeSpan, class Visible>
HWY_INLINE __m512 LargestScores(float* scores, std::size_t stride, std::size_t padded, const Visible& visible,
                                const __m512 (&largest_seen)[kRows]) {
  if constexpr (kWholeSpan) return FoldRows<Largest>(largest_seen);
  const __m512 masked = _mm512_set1_ps(kMasked);
  __m512 largest[kRows];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r, scores += stride) {
    largest[r] = masked;
    for (std::size_t t = 0; t < padded; t += kLanes) {
      const std::size_t seen = std::min(kLanes, visible(r) - std::min(visible(r), t));
      const __m512 score = _mm512_mask_loadu_ps(masked, static_cast<__mmask16>((1u << seen) - 1), scores + t);
      _mm512_store_ps(scores + t, score);
      largest[r] = _mm512_max_ps(largest[r], score);
    }
  }
  return FoldRows<Largest>(largest);
}

template <class Element>
inline constexpr bool kScaled = sizeof(Element) == 1;

// K or V of 16 tokens, which lie in one block or in two.
template <class Element>
struct TokenRows {
  const Element* halves[2];
  const std::uint16_t* scales[2];  // of int8
  std::size_t dim, tokens;         // those beyond `tokens` are zero

  // All 16 are there, and dims fill vectors of so many elements.
  bool whole(std::size_t elements) const { return tokens == kLanes && dim % elements == 0; }
  HWY_INLINE const Element* row(std::size_t token) const { return halves[token / 8] + token % 8 * dim; }
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

// Asks for 16 tokens that will be read a span later: KV lies in pieces of a block, which the processor does not
// foresee. Into the second cache, which takes more requests at once than the first.
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

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
