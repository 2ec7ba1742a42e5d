// The products of bytes of group_linear.h for processors with AVX2: VPMADDUBSW multiplies 32 pairs and adds neighbours
// up in 16 bits, which hold the sum of a whole group of nibbles. Highway 1.0 has no name for it, so this file is
// written in the processor's own.
#include <algorithm>
#include <array>
#include <utility>

#include "kernels/int8_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <hwy/base.h>

HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

constexpr std::size_t kLanes = 8;                      // results of a vector
constexpr std::size_t kParts = kTileOutputs / kLanes;  // vectors of a tile
constexpr std::size_t kQuads = kGroupColumns / 4;      // of a group's columns
constexpr std::size_t kRowsAtOnce = 4;                 // whose sums of a group fit the registers
// Tiles of weights that stay near while all rows pass.
constexpr std::size_t kTilesAtOnce = 24;
// Groups of columns between which a result waits in y: the rows of x that a tile takes then stay in the nearest cache.
constexpr std::size_t kGroupsAtOnce = 24;

HWY_INLINE __m256 LoadHalves(const std::byte* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}
HWY_INLINE __m256i LoadBytes(const std::byte* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}
// Four columns of a row, for all lanes.
HWY_INLINE __m256i Broadcast(const std::int8_t* x) {
  std::int32_t bits;
  __builtin_memcpy(&bits, x, 4);
  return _mm256_set1_epi32(bits);
}
HWY_INLINE __m256i AddNeighbours(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// A format gives the vectors with columns 8 p .. 8 p + 3 and 8 p + 4 .. 8 p + 7 (in weights' order) of a part's
// outputs, multiplies one by these columns of a row, and makes 32-bit sums of what that added up to.
struct Q4 {
  static constexpr std::size_t kBytes = 320;
  static constexpr bool kHasMinimum = true;
  static HWY_INLINE void Decode(const std::byte* group, std::size_t part, std::size_t p, __m256i (&weights)[2]) {
    const __m256i nibbles = LoadBytes(group + 64 + 64 * p + 32 * part), mask = _mm256_set1_epi8(15);
    weights[0] = _mm256_and_si256(nibbles, mask);
    weights[1] = _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), mask);
  }
  // All quads of a group together are at most 8 x 2 x 15 x 127 = 30,480.
  static HWY_INLINE __m256i Multiply(__m256i sum, __m256i weights, __m256i x) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, x));
  }
  static HWY_INLINE __m256i Whole(__m256i sum) { return AddNeighbours(sum); }
};

struct Q8 {
  static constexpr std::size_t kBytes = 544;
  static constexpr bool kHasMinimum = false;
  static HWY_INLINE void Decode(const std::byte* group, std::size_t part, std::size_t p, __m256i (&weights)[2]) {
    weights[0] = LoadBytes(group + 32 + 128 * p + 32 * part);
    weights[1] = LoadBytes(group + 32 + 128 * p + 64 + 32 * part);
  }
  // One factor is to be unsigned: its sign goes over to the other one. A pair is at most 2 x 128 x 127.
  static HWY_INLINE __m256i Multiply(__m256i sum, __m256i weights, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
    return _mm256_add_epi32(sum, AddNeighbours(pairs));
  }
  static HWY_INLINE __m256i Whole(__m256i sum) { return sum; }
};

struct Groups {
  std::size_t first, last;
};

// Where kRows rows of a panel lie.
struct PanelRows {
  const Int8Rows& panel;
  std::size_t panel_rows;
  std::size_t first;
};

// kRows x 16 results, of which `lanes` are there. Each has one sum for a group and one over groups in order, whatever
// the shape.
template <class Format, std::size_t kRows>
HWY_INLINE void Tile(const std::byte* w, Groups groups, const PanelRows& rows, float* y, std::size_t y_stride,
                     std::size_t lanes) {
  alignas(32) float totals[kRows][kTileOutputs] = {};
  for (std::size_t r = 0; r < kRows && groups.first > 0; ++r) std::copy_n(y + r * y_stride, lanes, totals[r]);
  for (std::size_t g = groups.first; g < groups.last; ++g) {
    const std::byte* group = w + g * Format::kBytes;
    const std::size_t first = g * rows.panel_rows + rows.first;
    const std::int8_t* columns = rows.panel.values + first * kGroupColumns;
    __m256i sums[kRows][kParts];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kQuads / 2; ++p) {
      __m256i weights[kParts][2];
      for (std::size_t part = 0; part < kParts; ++part) Format::Decode(group, part, p, weights[part]);
#pragma GCC unroll 2
      for (std::size_t half = 0; half < 2; ++half) {
#pragma GCC unroll 4
        for (std::size_t r = 0; r < kRows; ++r) {
          const __m256i x = Broadcast(columns + r * kGroupColumns + 8 * p + 4 * half);
          sums[r][0] = Format::Multiply(sums[r][0], weights[0][half], x);
          sums[r][1] = Format::Multiply(sums[r][1], weights[1][half], x);
        }
      }
    }
#pragma GCC unroll 2
    for (std::size_t part = 0; part < kParts; ++part) {
      const __m256 scales = LoadHalves(group + 16 * part);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(Format::Whole(sums[r][part])),
                                         _mm256_set1_ps(rows.panel.scales[first + r]));
        float* total = totals[r] + kLanes * part;
        __m256 value = _mm256_fmadd_ps(scales, sum, _mm256_load_ps(total));
        if constexpr (Format::kHasMinimum) {
          value =
              _mm256_fmadd_ps(LoadHalves(group + 32 + 16 * part), _mm256_set1_ps(rows.panel.sums[first + r]), value);
        }
        _mm256_store_ps(total, value);
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) std::copy_n(totals[r], lanes, y + r * y_stride);
}

template <class Format>
void Panel(const GroupWeights& w, Groups groups, const Int8Rows& panel, std::size_t panel_rows, float* y,
           std::size_t y_stride, std::size_t first_tile, std::size_t last_tile) {
  using RunRows = void (*)(const std::byte*, Groups, const PanelRows&, float*, std::size_t, std::size_t);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&Tile<Format, kRows + 1>...};
  }
  (std::make_index_sequence<kRowsAtOnce>());
  const std::size_t tile_bytes = w.columns / kGroupColumns * Format::kBytes;
  for (std::size_t tile = first_tile; tile < last_tile; ++tile) {
    const std::size_t output = tile * kTileOutputs;
    for (std::size_t row = 0; row < panel_rows; row += kRowsAtOnce) {
      kRun[std::min(kRowsAtOnce, panel_rows - row) - 1](w.tiles + tile * tile_bytes, groups, {panel, panel_rows, row},
                                                        y + row * y_stride + output, y_stride,
                                                        std::min(kTileOutputs, w.outputs - output));
    }
  }
}

template <class Format>
void Linear(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
            std::size_t first_tile, std::size_t last_tile) {
  const std::size_t groups = w.columns / kGroupColumns, groups_at_once = rows < kPanelRows / 2 ? groups : kGroupsAtOnce;
  for (std::size_t tile = first_tile; tile < last_tile; tile += kTilesAtOnce) {
    for (std::size_t panel = 0; panel < panels_of(rows); ++panel) {
      const std::size_t first = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - first;
      const Int8Rows here{x.values + first * w.columns, x.scales + first * groups, x.sums + first * groups, nullptr};
      for (std::size_t group = 0; group < groups; group += groups_at_once) {
        Panel<Format>(w, {group, std::min(groups, group + groups_at_once)}, here, count, y + first * y_stride, y_stride,
                      tile, std::min(last_tile, tile + kTilesAtOnce));
      }
    }
  }
}

bool has_avx2() {
  static const bool has =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has;
}

HWY_INLINE float Largest(__m256 values) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
HWY_INLINE std::int32_t Sum(__m256i values) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 1)));
}

// One group of a row.
HWY_INLINE void QuantiseGroup(const float* x, std::int8_t* values, float& scale_out, float& sum_out,
                              std::int32_t& offset, float largest_byte) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 columns[4], largest = _mm256_setzero_ps();
  for (std::size_t i = 0; i < 4; ++i) {
    columns[i] = _mm256_loadu_ps(x + 8 * i);
    largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, columns[i]));
  }
  const float most = Largest(largest);
  // The inverse of something smaller would not be finite.
  const float scale = most < 1e-35f ? 0 : most / largest_byte;
  const __m256 inverse = _mm256_set1_ps(most < 1e-35f ? 0 : largest_byte / most);
  // kColumnOrder, of the four columns that each half of a vector has of two eights.
  const __m256i order = _mm256_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15, 0, 4, 1, 5, 2, 6, 3, 7,
                                         8, 12, 9, 13, 10, 14, 11, 15);
  __m256i whole[4], sum = _mm256_setzero_si256();
  for (std::size_t i = 0; i < 4; ++i) {
    whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(columns[i], inverse));
    sum = _mm256_add_epi32(sum, whole[i]);
  }
  // Packing works on halves, which are put back in order.
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
  const __m256i bytes = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm256_shuffle_epi8(bytes, order));
  const std::int32_t total = Sum(sum);
  scale_out = scale;
  sum_out = scale * static_cast<float>(total);
  offset = -128 * total;
}

void quantise(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel, std::size_t last_panel,
              std::int8_t* values, float* scales, float* sums, std::int32_t* offsets, std::int32_t* paired_offsets) {
  const float largest = paired_offsets ? kPairedLargest : 127;
  const std::size_t groups = columns / kGroupColumns;
  for (std::size_t panel = first_panel; panel < last_panel; ++panel) {
    const std::size_t begin = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - begin;
    for (std::size_t r = 0; r < count; ++r) {
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t place = begin * groups + g * count + r;
        QuantiseGroup(x + (begin + r) * columns + g * kGroupColumns, values + place * kGroupColumns, scales[place],
                      sums[place], offsets[place], largest);
      }
    }
  }
}

void multiply_int8(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                   std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<Q8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<Q4>(w, x, rows, y, y_stride, first_tile, last_tile);
}

}  // namespace

const Int8Kernel kAvx2Int8 = {"AVX2", has_avx2, quantise, multiply_int8};

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {
const Int8Kernel kAvx2Int8 = {"AVX2", [] { return false; }, nullptr, nullptr};
}  // namespace tiercel::kernels

#endif
