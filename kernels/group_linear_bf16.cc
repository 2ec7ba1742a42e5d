// The products of group_linear.h for processors with AVX512-BF16, whose VDPBF16PS multiplies 32 pairs of bf16 at once.
// Highway 1.0 has no name for it, so this file is written in the processor's own.
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "kernels/group_linear.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <hwy/base.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

// Most rows of a tile: each has a sum of the group and one of all, in 24 of 32 registers.
constexpr std::size_t kMostRows = 12;
// Tiles of weights that stay near while all rows pass.
constexpr std::size_t kTilesAtOnce = 24;
// Groups of columns between which a result waits in y: the rows of x that a tile takes then stay in the nearest cache.
constexpr std::size_t kGroupsAtOnce = 24;

HWY_INLINE __m512 LoadHalves(const std::byte* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

// A pair of neighbouring columns of one row, for all lanes.
HWY_INLINE __m512bh LoadPair(const std::uint16_t* x) {
  std::int32_t pair;
  __builtin_memcpy(&pair, x, 4);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// A format decodes the columns 4 p .. 4 p + 3 of a group: two vectors of one pair of columns for each output.
class Q4 {
 public:
  static constexpr std::size_t kBytes = 320;
  static constexpr bool kHasMinimum = true;
  // The table has every value twice, so that of an index only four bits count.
  HWY_INLINE Q4() {
    alignas(64) std::uint16_t values[32];
    for (std::uint32_t i = 0; i < 32; ++i) {
      const float value = static_cast<float>(i & 15);
      std::uint32_t bits;
      __builtin_memcpy(&bits, &value, 4);
      values[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    table_ = _mm512_load_si512(values);
  }
  HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512bh& low, __m512bh& high) const {
    const __m512i nibbles =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 64 + 32 * p)));
    low = (__m512bh)_mm512_permutexvar_epi16(nibbles, table_);
    high = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 4), table_);
  }

 private:
  __m512i table_;
};

class Q8 {
 public:
  static constexpr std::size_t kBytes = 544;
  static constexpr bool kHasMinimum = false;
  HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512bh& low, __m512bh& high) const {
    low = Widen(group + 32 + 64 * p);
    high = Widen(group + 64 + 64 * p);
  }

 private:
  static HWY_INLINE __m512 WidenHalf(const std::byte* bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
  }
  static HWY_INLINE __m512bh Widen(const std::byte* bytes) {
    return _mm512_cvtne2ps_pbh(WidenHalf(bytes + 16), WidenHalf(bytes));
  }
};

struct Groups {
  std::size_t first, last;
};

// kRows x kTiles * 16 results. Each has one sum for a group, over its columns in order, and one over groups in order,
// whatever the shape.
template <class Format, std::size_t kRows, std::size_t kTiles>
void Tile(const Format& format, const std::byte* w, std::size_t tile_bytes, Groups groups, Bf16Rows x, float* y,
          std::size_t y_stride, __mmask16 last_lanes) {
  const auto lanes_of = [&](std::size_t t) { return t + 1 == kTiles ? last_lanes : static_cast<__mmask16>(0xffff); };
  __m512 totals[kRows][kTiles];
#pragma GCC unroll 12
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kTiles; ++t) {
      totals[r][t] = groups.first == 0 ? _mm512_setzero_ps()
                                       : _mm512_maskz_loadu_ps(lanes_of(t), y + r * y_stride + t * kTileOutputs);
    }
  }
  w += groups.first * Format::kBytes;
  for (std::size_t g = groups.first; g < groups.last; ++g, w += Format::kBytes) {
    __m512 sums[kRows][kTiles];
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTiles; ++t) sums[r][t] = _mm512_setzero_ps();
    }
    const std::uint16_t* columns = x.values + g * kGroupColumns;
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kGroupColumns / 4; ++p) {
      __m512bh low[kTiles], high[kTiles];
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTiles; ++t) format.Decode(w + t * tile_bytes, p, low[t], high[t]);
#pragma GCC unroll 12
      for (std::size_t r = 0; r < kRows; ++r) {
        const std::uint16_t* pairs = columns + r * x.stride + 4 * p;
#pragma GCC unroll 8
        for (std::size_t t = 0; t < kTiles; ++t) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], low[t], LoadPair(pairs));
#pragma GCC unroll 8
        for (std::size_t t = 0; t < kTiles; ++t)
          sums[r][t] = _mm512_dpbf16_ps(sums[r][t], high[t], LoadPair(pairs + 2));
      }
    }
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kTiles; ++t) {
      const __m512 scales = LoadHalves(w + t * tile_bytes);
#pragma GCC unroll 12
      for (std::size_t r = 0; r < kRows; ++r) totals[r][t] = _mm512_fmadd_ps(scales, sums[r][t], totals[r][t]);
      if constexpr (Format::kHasMinimum) {
        const __m512 minima = LoadHalves(w + t * tile_bytes + 32);
#pragma GCC unroll 12
        for (std::size_t r = 0; r < kRows; ++r) {
          totals[r][t] = _mm512_fmadd_ps(minima, _mm512_set1_ps(x.sums[r * x.sum_stride + g]), totals[r][t]);
        }
      }
    }
  }
#pragma GCC unroll 12
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kTiles; ++t) {
      _mm512_mask_storeu_ps(y + r * y_stride + t * kTileOutputs, lanes_of(t), totals[r][t]);
    }
  }
}

// Tiles beside each other for so many rows: enough independent sums to hide the latency of a product.
constexpr std::size_t tiles_for(std::size_t rows) {
  return rows == 1 ? 8 : rows == 2 ? 4 : rows == 3 ? 4 : rows == 4 ? 3 : rows <= 6 ? 2 : 1;
}

struct Outputs {
  std::size_t first_tile, last_tile;
  std::size_t end;  // of the matrix
};

template <class Format, std::size_t kRows, std::size_t kTiles = tiles_for(kRows)>
void Rows(const Format& format, const GroupWeights& w, Groups groups, const Bf16Rows& x, float* y, std::size_t y_stride,
          Outputs outputs) {
  const std::size_t tile_bytes = w.columns / kGroupColumns * Format::kBytes;
  for (; outputs.first_tile + kTiles <= outputs.last_tile; outputs.first_tile += kTiles) {
    const std::size_t missing = std::max(outputs.end, (outputs.first_tile + kTiles) * kTileOutputs) - outputs.end;
    Tile<Format, kRows, kTiles>(format, w.tiles + outputs.first_tile * tile_bytes, tile_bytes, groups, x,
                                y + outputs.first_tile * kTileOutputs, y_stride,
                                static_cast<__mmask16>(0xffff >> missing));
  }
  if constexpr (kTiles > 1) Rows<Format, kRows, kTiles / 2>(format, w, groups, x, y, y_stride, outputs);
}

template <class Format>
void Linear(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
            std::size_t first_tile, std::size_t last_tile) {
  using RunRows = void (*)(const Format&, const GroupWeights&, Groups, const Bf16Rows&, float*, std::size_t, Outputs);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&Rows<Format, kRows + 1>...};
  }
  (std::make_index_sequence<kMostRows>());
  const Format format;
  const std::size_t groups = w.columns / kGroupColumns, groups_at_once = rows < kMostRows / 2 ? groups : kGroupsAtOnce;
  const std::size_t parts = (rows + kMostRows - 1) / kMostRows;  // of rows, as equal as can be
  for (std::size_t tile = first_tile; tile < last_tile; tile += kTilesAtOnce) {
    const Outputs outputs{tile, std::min(last_tile, tile + kTilesAtOnce), w.outputs};
    for (std::size_t part = 0, first = 0; part < parts; ++part) {
      const std::size_t count = (rows - first + parts - part - 1) / (parts - part);
      const Bf16Rows here{x.values + first * x.stride, x.stride, x.sums + first * x.sum_stride, x.sum_stride};
      for (std::size_t group = 0; group < groups; group += groups_at_once) {
        kRun[count - 1](format, w, {group, std::min(groups, group + groups_at_once)}, here, y + first * y_stride,
                        y_stride, outputs);
      }
      first += count;
    }
  }
}

}  // namespace

bool has_bf16_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

void round_rows(const float* x, std::size_t x_stride, std::size_t rows, std::size_t columns, std::uint16_t* values,
                std::size_t stride, float* sums, std::size_t sum_stride) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t g = 0; g < columns / kGroupColumns; ++g) {
      const float* from = x + r * x_stride + g * kGroupColumns;
      const __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
      _mm512_storeu_si512(values + r * stride + g * kGroupColumns, (__m512i)rounded);
      sums[r * sum_stride + g] = _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), rounded, ones));
    }
  }
}

void group_linear_bf16(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<Q8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<Q4>(w, x, rows, y, y_stride, first_tile, last_tile);
}

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {

bool has_bf16_products() { return false; }
void round_rows(const float*, std::size_t, std::size_t, std::size_t, std::uint16_t*, std::size_t, float*, std::size_t) {
  assert(false);
}
void group_linear_bf16(const GroupWeights&, const Bf16Rows&, std::size_t, float*, std::size_t, std::size_t,
                       std::size_t) {
  assert(false);
}

}  // namespace tiercel::kernels

#endif
