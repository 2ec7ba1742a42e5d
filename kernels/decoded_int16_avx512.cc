// group_linear_decoded_int16() of group_linear.h: weights and rows are integers over spans of 128 columns, each span of
// an output and each of a row with one scale, so that there are 64 VPDPWSSD to a multiplication by scales, instead
// of 16.
#include <cassert>

#include "kernels/group_linear.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/decoded_tiles_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

// A span's sum has room in 32 bits. A weight may come out up to 2 larger than kLargestWeight: its two terms are
// rounded.
constexpr float kLargestRow = 8191, kLargestWeight = kLargestDecodedWeight;
static_assert(kSpanGroups * kGroupColumns * 8191 * (2044 + 2) < 0x7fffffff && kLargestWeight == 2044);
// The inverse of something smaller would not be finite.
constexpr float kLeast = 1e-33f;

struct DecodedInt16 {
  using Rows = Int16Spans;
  using Element = std::int16_t;
  using Sum = __m512i;
  // 24 KiB, in the first cache: few rows are not worth the way to the second one and back.
  static constexpr std::size_t kTiles = 2, kGroups = 12, kSpanGroups = kernels::kSpanGroups;
  static HWY_INLINE Sum Begin(const float*, __mmask16, bool) { return _mm512_setzero_si512(); }
  static HWY_INLINE Sum Multiply(Sum sum, __m512i weights, __m512i columns) {
    return _mm512_dpwssd_epi32(sum, weights, columns);
  }
  static HWY_INLINE void End(Sum sum, float* y, __mmask16 lanes, bool first, const float* span, const float* row) {
    const __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(*row)), scales = _mm512_load_ps(span);
    const __m512 before = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, y);
    _mm512_mask_storeu_ps(y, lanes, _mm512_fmadd_ps(result, scales, before));
  }
  static HWY_INLINE const float* scales(const Rows& x) { return x.scales; }
};

// Scales of a span whose largest weights are `most`, into `scales`; returns their inverses.
HWY_INLINE __m512 StoreScales(__m512 most, float* scales) {
  const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(kLeast), _CMP_NLT_UQ);
  const __m512 largest = _mm512_set1_ps(kLargestWeight);
  _mm512_store_ps(scales, _mm512_maskz_div_ps(some, most, largest));
  return _mm512_maskz_div_ps(some, largest, most);
}

// The nearest integers, each in both halves of its lane.
HWY_INLINE __m512i InBothHalves(__m512 values) {
  const __m512i integers = _mm512_cvtps_epi32(values);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, integers, _mm512_slli_epi32(integers, 16));
}

// The columns 8 p .. 8 p + 7 of a group are in four vectors: in v those that a vector of x has at 2 v and 2 v + 1.
struct DecodeQ4 {
  using Arithmetic = DecodedInt16;
  static constexpr std::size_t kBytes = 320;
  static HWY_INLINE void Decode(const std::byte* groups, std::size_t count, std::int16_t* to, float* span_scales) {
    __m512 most = _mm512_setzero_ps();
    for (std::size_t g = 0; g < count; ++g) {
      const __m512 scales = LoadHalves(groups + g * kBytes), minima = LoadHalves(groups + g * kBytes + 32);
      const __m512 maxima = _mm512_fmadd_ps(scales, _mm512_set1_ps(15), minima);
      most = _mm512_max_ps(most, _mm512_max_ps(_mm512_abs_ps(minima), _mm512_abs_ps(maxima)));
    }
    const __m512 inverse = StoreScales(most, span_scales);
    // A nibble at bits 9 to 12 of a word, times 64 scales: the upper half of the product, rounded, is scale * nibble.
    const __m512i mask = _mm512_set1_epi16(15 << 9);
    for (; count > 0; --count, groups += kBytes) {
      FetchAhead(groups, kBytes);
      const __m512i scales =
                        InBothHalves(_mm512_mul_ps(LoadHalves(groups), _mm512_mul_ps(inverse, _mm512_set1_ps(64)))),
                    minima = InBothHalves(_mm512_mul_ps(LoadHalves(groups + 32), inverse));
      for (std::size_t p = 0; p < kGroupColumns / 8; ++p, to += 4 * 32) {
        const __m512i nibbles = LoadBytes(groups + 64 + 64 * p);
        const auto store = [&](std::size_t v, __m512i shifted) {
          const __m512i products = _mm512_mulhrs_epi16(_mm512_and_si512(shifted, mask), scales);
          _mm512_store_si512(to + 32 * v, _mm512_add_epi16(products, minima));
        };
        store(0, _mm512_slli_epi16(nibbles, 9));
        store(1, _mm512_slli_epi16(nibbles, 5));
        store(2, _mm512_slli_epi16(nibbles, 1));
        store(3, _mm512_srli_epi16(nibbles, 3));
      }
    }
  }
};

struct DecodeQ8 {
  using Arithmetic = DecodedInt16;
  static constexpr std::size_t kBytes = 544;
  static HWY_INLINE void Decode(const std::byte* groups, std::size_t count, std::int16_t* to, float* span_scales) {
    __m512 most = _mm512_setzero_ps();
    for (std::size_t g = 0; g < count; ++g) {
      most = _mm512_max_ps(most, _mm512_abs_ps(LoadHalves(groups + g * kBytes)));
    }
    const __m512 inverse = StoreScales(_mm512_mul_ps(most, _mm512_set1_ps(128)), span_scales);
    // A byte in the upper half of a word, times 128 scales.
    const __m512i upper = _mm512_set1_epi16(static_cast<short>(0xff00));
    for (; count > 0; --count, groups += kBytes) {
      FetchAhead(groups, kBytes);
      const __m512i scales =
          InBothHalves(_mm512_mul_ps(LoadHalves(groups), _mm512_mul_ps(inverse, _mm512_set1_ps(128))));
      for (std::size_t p = 0; p < kGroupColumns / 8; ++p, to += 4 * 32) {
        for (std::size_t half = 0; half < 2; ++half) {
          const __m512i bytes = LoadBytes(groups + 32 + 128 * p + 64 * half);
          _mm512_store_si512(to + 32 * half, _mm512_mulhrs_epi16(_mm512_slli_epi16(bytes, 8), scales));
          _mm512_store_si512(to + 32 * (half + 2), _mm512_mulhrs_epi16(_mm512_and_si512(bytes, upper), scales));
        }
      }
    }
  }
};

}  // namespace

void round_spans_int16(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                       std::size_t last_panel, std::int16_t* values, float* scales) {
  const std::size_t groups = columns / kGroupColumns, spans = spans_of(columns);
  for (std::size_t panel = first_panel; panel < last_panel; ++panel) {
    const std::size_t begin = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - begin;
    for (std::size_t r = 0; r < count; ++r) {
      const float* row = x + (begin + r) * columns;
      for (std::size_t span = 0; span < spans; ++span) {
        const std::size_t first = span * kSpanGroups, last = std::min(groups, first + kSpanGroups);
        __m512 largest = _mm512_setzero_ps();
        for (std::size_t c = first * kGroupColumns; c < last * kGroupColumns; c += kLanes) {
          largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(row + c)));
        }
        const float most = _mm512_reduce_max_ps(largest);
        scales[begin * spans + span * count + r] = most < kLeast ? 0 : most / kLargestRow;
        const __m512 inverse = _mm512_set1_ps(most < kLeast ? 0 : kLargestRow / most);
        for (std::size_t g = first; g < last; ++g) {
          std::int16_t* to = values + (begin * groups + g * count + r) * kGroupColumns;
          for (std::size_t half = 0; half < 2; ++half) {
            const __m512 here = _mm512_loadu_ps(row + g * kGroupColumns + half * kLanes);
            const __m256i words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(here, inverse)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + half * kLanes), words);
          }
        }
      }
    }
  }
}

void group_linear_decoded_int16(const GroupWeights& w, const Int16Spans& x, std::size_t rows, float* y,
                                std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  (w.format == GroupFormat::Q8 ? DecodedLinear<DecodeQ8> : DecodedLinear<DecodeQ4>)(w, x, rows, y, y_stride,
                                                                                    first_output, last_output);
}

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {

void round_spans_int16(const float*, std::size_t, std::size_t, std::size_t, std::size_t, std::int16_t*, float*) {
  assert(false);
}
void group_linear_decoded_int16(const GroupWeights&, const Int16Spans&, std::size_t, float*, std::size_t, std::size_t,
                                std::size_t) {
  assert(false);
}

}  // namespace tiercel::kernels

#endif
