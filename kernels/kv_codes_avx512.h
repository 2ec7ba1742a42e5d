// Rows of K or V as codes of 8 or 16 bits with a scale for each token: those of int8 KV as they are, those of bf16
// rounded.
#pragma once

#include <cstring>

#include "kernels/attention_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

template <class Code>
inline constexpr std::size_t kCodes = 64 / sizeof(Code);  // of a vector

// Rows of 16 tokens, whose dims fill vectors, as codes, and their scales. What is rounded has `largest` as its largest
// code.
template <class Code, class Element>
class Codes;

template <class Code>
class Codes<Code, std::int8_t> {
 public:
  HWY_INLINE Codes(const TokenRows<std::int8_t>& rows, float /*largest*/) : rows_(rows) {
    alignas(64) float scales[kLanes];
    rows.StoreScales(scales);
    scales_ = _mm512_load_ps(scales);
  }
  HWY_INLINE __m512 scales() const { return scales_; }
  HWY_INLINE __m512i row(std::size_t token, std::size_t first_dim) const {
    const std::int8_t* row = rows_.row(token) + first_dim;
    if constexpr (sizeof(Code) == 1) return _mm512_loadu_si512(row);
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
  }

 private:
  const TokenRows<std::int8_t>& rows_;
  __m512 scales_;
};

template <class Code>
class Codes<Code, std::uint16_t> {
 public:
  HWY_INLINE Codes(const TokenRows<std::uint16_t>& rows, float largest) : rows_(rows) {
    const __m512 magnitudes = Magnitudes();
    scales_ = _mm512_mul_ps(magnitudes, _mm512_set1_ps(1.0f / largest));
    // The inverse of something smaller would not be finite.
    const __mmask16 some = _mm512_cmp_ps_mask(magnitudes, _mm512_set1_ps(1e-30f), _CMP_GE_OQ);
    _mm512_store_ps(inverses_, _mm512_maskz_div_ps(some, _mm512_set1_ps(largest), magnitudes));
  }
  HWY_INLINE __m512 scales() const { return scales_; }
  HWY_INLINE __m512i row(std::size_t token, std::size_t first_dim) const {
    const std::uint16_t* row = rows_.row(token) + first_dim;
    const __m512 inverse = _mm512_set1_ps(inverses_[token]);
    if constexpr (sizeof(Code) == 2) return WordsInOrder(_mm512_loadu_si512(row), inverse);
    const __m512i words = Words(_mm512_loadu_si512(row), inverse), more = Words(_mm512_loadu_si512(row + 32), inverse);
    // In each lane now the even and the odd dims of 8 of the first half, and of 8 of the second.
    const __m512i side_by_side =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                    _mm512_shuffle_epi8(_mm512_packs_epi16(words, more), side_by_side));
  }

 private:
  // Of two elements each, the largest magnitudes of a row.
  HWY_INLINE __m512 LargestOf(std::size_t token) const {
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
      const __m512 four = FoldFour<LargestWord>(LargestOf(t), LargestOf(t + 1), LargestOf(t + 2), LargestOf(t + 3));
      all = _mm512_mask_mov_epi32(all, static_cast<__mmask16>(0x1111u << (t / 4)), _mm512_castps_si512(four));
    }
    all = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
    all = _mm512_max_epu16(all, _mm512_srli_epi32(all, 16));
    return _mm512_castsi512_ps(_mm512_slli_epi32(all, 16));
  }
  static HWY_INLINE __m512 Even(__m512i elements) { return _mm512_castsi512_ps(_mm512_slli_epi32(elements, 16)); }
  static HWY_INLINE __m512 Odd(__m512i elements) {
    return _mm512_castsi512_ps(_mm512_and_si512(elements, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  // Of 32 elements, in each lane four even ones before four odd ones.
  static HWY_INLINE __m512i Words(__m512i elements, __m512 inverse) {
    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(Even(elements), inverse)),
                              _mm512_cvtps_epi32(_mm512_mul_ps(Odd(elements), inverse)));
  }
  static HWY_INLINE __m512i WordsInOrder(__m512i elements, __m512 inverse) {
    // A sum with it has the rounded product in its lowest 16 bits.
    const __m512 shift = _mm512_set1_ps(0x1.8p23f);
    const __m512i even = _mm512_castps_si512(_mm512_fmadd_ps(Even(elements), inverse, shift)),
                  odd = _mm512_castps_si512(_mm512_fmadd_ps(Odd(elements), inverse, shift));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16));
  }

  const TokenRows<std::uint16_t>& rows_;
  __m512 scales_;
  alignas(64) float inverses_[kLanes];
};

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

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
