// group_linear_int16() of group_linear.h: VPDPWSSD multiplies 32 pairs of 16-bit integers. Weights are exact in them,
// and a group's products of a 4-bit or 8-bit weight by 16 bits have room in 32.
#include <cassert>

#include "kernels/group_linear.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/group_tiles_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

constexpr float kLargest = 32767;

struct Int16 {
  using Rows = Int16Rows;
  using Vector = __m512i;
  using Sum = __m512i;
  static constexpr std::size_t kVectors = 4;
  static constexpr std::size_t kLeastRowsToFetch = 2;
  static HWY_INLINE Sum Multiply(Sum sum, Vector weights, const std::int16_t* x, std::size_t v) {
    return _mm512_dpwssd_epi32(sum, weights, Broadcast(x + 2 * v));
  }
  static HWY_INLINE __m512 Result(Sum sum, const Rows& x, std::size_t group) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(x.scales[group]));
  }
};

struct Int16Q4 {
  using Arithmetic = Int16;
  static constexpr std::size_t kBytes = 320;
  static constexpr bool kHasMinimum = true;
  static HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512i (&vectors)[4]) {
    const __m512i nibbles = LoadBytes(group + 64 + 64 * p), mask = _mm512_set1_epi16(15);
    vectors[0] = _mm512_and_si512(nibbles, mask);
    vectors[1] = _mm512_and_si512(_mm512_srli_epi16(nibbles, 4), mask);
    vectors[2] = _mm512_and_si512(_mm512_srli_epi16(nibbles, 8), mask);
    vectors[3] = _mm512_srli_epi16(nibbles, 12);
  }
  static HWY_INLINE __m512i Start(const Int16Rows&, std::size_t) { return _mm512_setzero_si512(); }
};

class Int16Q8 {
 public:
  using Arithmetic = Int16;
  static constexpr std::size_t kBytes = 544;
  static constexpr bool kHasMinimum = false;
  HWY_INLINE Int16Q8() {}  // with these instructions, as the one that it calls
  HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512i (&vectors)[4]) const {
    pairs_.Decode<Int16Q8>(group + 32 + 128 * p, vectors);
  }
  static HWY_INLINE __m512i Start(const Int16Rows&, std::size_t) { return _mm512_setzero_si512(); }
  static HWY_INLINE __m512i Widen(const std::byte* bytes) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  }

 private:
  QuadsToPairs pairs_;
};

}  // namespace

bool has_int16_products() { return has_vnni(); }

bool prefers_int16_products() {
  static const bool prefers = has_int16_products() && (!has_bf16_products() || __builtin_cpu_is("intel"));
  return prefers;
}

void round_rows_int16(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                      std::size_t last_panel, std::int16_t* values, float* scales, float* sums) {
  const __m512i ones = _mm512_set1_epi16(1);
  ForEachGroup(x, rows, columns, first_panel, last_panel, [&](__m512 low, __m512 high, std::size_t place) {
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    // The inverse of something smaller would not be finite.
    const float scale = most < 1e-33f ? 0 : most / kLargest;
    const __m512 inverse = _mm512_set1_ps(most < 1e-33f ? 0 : kLargest / most);
    const __m256i first = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse))),
                  last = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
    const __m512i words = _mm512_inserti64x4(_mm512_castsi256_si512(first), last, 1);
    _mm512_storeu_si512(values + place * kGroupColumns, words);
    scales[place] = scale;
    const __m512i sum = _mm512_dpwssd_epi32(_mm512_setzero_si512(), words, ones);
    sums[place] = scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  });
}

void group_linear_int16(const GroupWeights& w, const Int16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                        std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<Int16Q8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<Int16Q4>(w, x, rows, y, y_stride, first_tile, last_tile);
}

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {

bool has_int16_products() { return false; }
bool prefers_int16_products() { return false; }
void round_rows_int16(const float*, std::size_t, std::size_t, std::size_t, std::size_t, std::int16_t*, float*, float*) {
  assert(false);
}
void group_linear_int16(const GroupWeights&, const Int16Rows&, std::size_t, float*, std::size_t, std::size_t,
                        std::size_t) {
  assert(false);
}

}  // namespace tiercel::kernels

#endif
