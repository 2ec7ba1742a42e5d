// What the kernels for AVX-512 do with vectors, whatever they compute. Included only where <immintrin.h> is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

// GCC 12 warns of the "undefined" vectors of its own header (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <hwy/base.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

inline constexpr std::size_t kLanes = 16;

HWY_INLINE __m512i LoadBytes(const std::byte* bytes) { return _mm512_loadu_si512(bytes); }
// 16 numbers of f16.
HWY_INLINE __m512 LoadHalves(const std::byte* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

// 32 bits, of two or four elements, for all lanes.
template <class Element>
HWY_INLINE __m512i Broadcast(const Element* elements) {
  std::int32_t bits;
  __builtin_memcpy(&bits, elements, 4);
  return _mm512_set1_epi32(bits);
}

struct Largest {
  static HWY_INLINE __m512 of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
};
struct Sum {
  static HWY_INLINE __m512 of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};
struct LargestWord {
  static HWY_INLINE __m512 of(__m512 a, __m512 b) {
    return _mm512_castsi512_ps(_mm512_max_epu16(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
};

// Over all lanes of four vectors: a's in the first four lanes, and so on.
template <class Fold>
HWY_INLINE __m512 FoldFour(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = Fold::of(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)),
               cd = Fold::of(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  __m512 all = Fold::of(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  all = Fold::of(all, _mm512_permute_ps(all, 0x4e));
  return Fold::of(all, _mm512_permute_ps(all, 0xb1));
}

// Over all lanes of each row, a lane for each; in one order whatever kRows is.
template <class Fold, std::size_t kRows>
HWY_INLINE __m512 FoldRows(const __m512 (&rows)[kRows]) {
  static_assert(kRows <= 6);
  constexpr auto at = [](std::size_t row) { return std::min(row, kRows - 1); };
  const __m512 first = FoldFour<Fold>(rows[0], rows[at(1)], rows[at(2)], rows[at(3)]);
  const __m512 rest = kRows > 4 ? FoldFour<Fold>(rows[at(4)], rows[at(5)], rows[at(4)], rows[at(5)]) : first;
  return _mm512_permutex2var_ps(first, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), rest);
}

// Lane `lane` in all lanes.
HWY_INLINE __m512 SpreadLane(__m512 v, std::size_t lane) {
  return _mm512_permutexvar_ps(_mm512_set1_epi32(static_cast<int>(lane)), v);
}

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
