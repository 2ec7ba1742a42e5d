// group_linear_decoded() of group_linear.h.
#include <cassert>

#include "kernels/group_linear.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/decoded_tiles_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

// A result is one chain of VDPBF16PS, with nothing to be scaled between groups.
struct DecodedBf16 {
  using Rows = Bf16Rows;
  using Element = std::uint16_t;
  using Sum = __m512;
  // In the second cache, so that rows pass it less often; of a panel's rows so much stays in the first one.
  static constexpr std::size_t kTiles = 8, kGroups = 24, kSpanGroups = kGroups;
  static HWY_INLINE Sum Begin(const float* y, __mmask16 lanes, bool first) {
    return first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, y);
  }
  static HWY_INLINE Sum Multiply(Sum sum, __m512i weights, __m512i columns) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)columns);
  }
  static HWY_INLINE void End(Sum sum, float* y, __mmask16 lanes, bool, const float*, const float*) {
    _mm512_mask_storeu_ps(y, lanes, sum);
  }
  static HWY_INLINE const float* scales(const Rows& x) { return x.sums; }  // of which nothing is read
};

// Rounds to bf16 and stores `first` and `second` of each output beside each other.
class StorePairs {
 public:
  HWY_INLINE StorePairs() {
    alignas(64) std::uint16_t order[32];
    for (std::uint16_t i = 0; i < 32; ++i) order[i] = static_cast<std::uint16_t>(i / 2 + 16 * (i % 2));
    order_ = _mm512_load_si512(order);
  }
  HWY_INLINE void operator()(__m512 first, __m512 second, std::uint16_t* to) const {
    _mm512_store_si512(to, _mm512_permutexvar_epi16(order_, (__m512i)_mm512_cvtne2ps_pbh(second, first)));
  }

 private:
  __m512i order_;
};

// The columns 8 p .. 8 p + 7 of a group are in four vectors: in v those that a vector of x has at 2 v and 2 v + 1.
class DecodeQ4 {
 public:
  using Arithmetic = DecodedBf16;
  static constexpr std::size_t kBytes = 320;
  HWY_INLINE DecodeQ4() {
    alignas(64) float values[16];
    for (std::size_t i = 0; i < 16; ++i) values[i] = static_cast<float>(i);
    values_ = _mm512_load_ps(values);
  }
  HWY_INLINE void Decode(const std::byte* group, std::size_t count, std::uint16_t* to, float*) const {
    for (; count > 0; --count, group += kBytes, to += kDecodedElements) DecodeGroup(group, to);
  }

 private:
  HWY_INLINE void DecodeGroup(const std::byte* group, std::uint16_t* to) const {
    FetchAhead(group, kBytes);
    const __m512 scales = LoadHalves(group), minima = LoadHalves(group + 32);
    for (std::size_t p = 0; p < kGroupColumns / 8; ++p, to += 4 * 32) {
      const __m512i nibbles = _mm512_loadu_si512(group + 64 + 64 * p);
      // Of an index only four bits count.
      const auto weights = [&](auto bits) {
        const __m512i index = _mm512_srli_epi32(nibbles, static_cast<unsigned>(bits));
        return _mm512_fmadd_ps(scales, _mm512_permutexvar_ps(index, values_), minima);
      };
      for (int v = 0; v < 4; ++v) store_(weights(4 * v), weights(4 * v + 16), to + 32 * v);
    }
  }

  __m512 values_;
  StorePairs store_;
};

class DecodeQ8 {
 public:
  using Arithmetic = DecodedBf16;
  static constexpr std::size_t kBytes = 544;
  HWY_INLINE DecodeQ8() {}
  HWY_INLINE void Decode(const std::byte* group, std::size_t count, std::uint16_t* to, float*) const {
    for (; count > 0; --count, group += kBytes, to += kDecodedElements) DecodeGroup(group, to);
  }

 private:
  HWY_INLINE void DecodeGroup(const std::byte* group, std::uint16_t* to) const {
    FetchAhead(group, kBytes);
    const __m512 scales = LoadHalves(group);
    for (std::size_t p = 0; p < kGroupColumns / 8; ++p, to += 4 * 32) {
      for (std::size_t half = 0; half < 2; ++half) {
        const __m512i bytes = _mm512_loadu_si512(group + 32 + 128 * p + 64 * half);
        const auto weights = [&](unsigned bits) {  // of which the byte that begins there is one
          return _mm512_mul_ps(scales, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - bits), 24)));
        };
        store_(weights(0), weights(16), to + 32 * half);
        store_(weights(8), weights(24), to + 32 * (half + 2));
      }
    }
  }

  StorePairs store_;
};

}  // namespace

void group_linear_decoded(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                          std::size_t first_output, std::size_t last_output) {
  (w.format == GroupFormat::Q8 ? DecodedLinear<DecodeQ8> : DecodedLinear<DecodeQ4>)(w, x, rows, y, y_stride,
                                                                                    first_output, last_output);
}

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {

void group_linear_decoded(const GroupWeights&, const Bf16Rows&, std::size_t, float*, std::size_t, std::size_t,
                          std::size_t) {
  assert(false);
}

}  // namespace tiercel::kernels

#endif
