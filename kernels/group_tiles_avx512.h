// Products of group_linear.h in tiles of registers, for processors with AVX-512: the same walk for each arithmetic and
// each format of weights. Included only where <immintrin.h> is.
//
// An arithmetic has
//   Rows, Vector, Sum             what it takes rows of x as, weights, and sums of products
//   kVectors                      vectors of weights that hold 8 columns of each output
//   kLeastRowsToFetch             for fewer rows weights are not asked for ahead
//   Multiply(sum, weights, x, v)  vector v of weights, by its columns of a row
//   Result(sum, rows, group)      a group's sum as floats
// and a format, which decodes weights for it,
//   Arithmetic, kBytes, kHasMinimum
//   Decode(group, p, vectors)     the columns 8 p .. 8 p + 7 of a group
//   Start(rows, group)            what a group's sum begins with
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/group_linear.h"
#include "kernels/vectors_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

// A panel's rows each have a sum of the group and one of all, in 24 of 32 registers.
static_assert(kPanelRows == 12);
// Tiles of weights that stay near while all rows pass.
inline constexpr std::size_t kTilesAtOnce = 24;
// Groups of columns between which a result waits in y: the rows of x that a tile takes then stay in the nearest cache.
inline constexpr std::size_t kGroupsAtOnce = 24;

inline bool has_vnni() {
  static const bool has = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

// Columns 8 p .. 8 p + 7 of a group of bytes as pairs of 16 bits, in the order in which rows have them.
class QuadsToPairs {
 public:
  HWY_INLINE QuadsToPairs() {
    alignas(64) std::uint16_t first[32], second[32];
    for (std::uint16_t o = 0; o < 16; ++o) {
      for (std::uint16_t i = 0; i < 2; ++i) {
        first[2 * o + i] = static_cast<std::uint16_t>(4 * o + 2 * i);
        second[2 * o + i] = static_cast<std::uint16_t>(4 * o + 2 * i + 1);
      }
    }
    first_ = _mm512_load_si512(first);
    second_ = _mm512_load_si512(second);
  }
  // `bytes`: four of each output, and behind them four more; Format::Widen(32 bytes) makes elements of them.
  template <class Format, class Vector>
  HWY_INLINE void Decode(const std::byte* bytes, Vector (&vectors)[4]) const {
    for (std::size_t half = 0; half < 2; ++half, bytes += 64) {
      const __m512i low = Format::Widen(bytes), high = Format::Widen(bytes + 32);
      vectors[half] = (Vector)_mm512_permutex2var_epi16(low, first_, high);
      vectors[half + 2] = (Vector)_mm512_permutex2var_epi16(low, second_, high);
    }
  }

 private:
  __m512i first_, second_;
};

struct Groups {
  std::size_t first, last;
  bool from_memory;  // nobody has read them yet
};

// kRows x kTiles * 16 results. Each has one sum for a group, over its columns in order, and one over groups in order,
// whatever the shape.
template <class Format, std::size_t kRows, std::size_t kTiles>
void Tile(const Format& format, const std::byte* w, std::size_t tile_bytes, Groups groups,
          const typename Format::Arithmetic::Rows& x, float* y, std::size_t y_stride, __mmask16 last_lanes) {
  using Arithmetic = typename Format::Arithmetic;
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
    typename Arithmetic::Sum sums[kRows][kTiles];
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTiles; ++t) sums[r][t] = Format::Start(x, g * kRows + r);
    }
    // The same groups of the next tiles, in time: the processor itself fetches to the end of a page only, so that few
    // rows would wait for memory and then compute, instead of doing both at once.
    if (groups.from_memory && kRows >= Arithmetic::kLeastRowsToFetch) {
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTiles; ++t) {
#pragma GCC unroll 9
        for (std::size_t line = 0; line < Format::kBytes; line += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(w + (kTiles + t) * tile_bytes + line), _MM_HINT_T0);
        }
      }
    }
    const auto* columns = x.values + g * kRows * kGroupColumns;
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kGroupColumns / 8; ++p) {
#pragma GCC unroll 8
      for (std::size_t t = 0; t < kTiles; ++t) {
        typename Arithmetic::Vector vectors[Arithmetic::kVectors];
        format.Decode(w + t * tile_bytes, p, vectors);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < Arithmetic::kVectors; ++v) {
#pragma GCC unroll 12
          for (std::size_t r = 0; r < kRows; ++r) {
            sums[r][t] = Arithmetic::Multiply(sums[r][t], vectors[v], columns + r * kGroupColumns + 8 * p, v);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (std::size_t t = 0; t < kTiles; ++t) {
      const __m512 scales = LoadHalves(w + t * tile_bytes);
#pragma GCC unroll 12
      for (std::size_t r = 0; r < kRows; ++r) {
        totals[r][t] = _mm512_fmadd_ps(scales, Arithmetic::Result(sums[r][t], x, g * kRows + r), totals[r][t]);
      }
      if constexpr (Format::kHasMinimum) {
        const __m512 minima = LoadHalves(w + t * tile_bytes + 32);
#pragma GCC unroll 12
        for (std::size_t r = 0; r < kRows; ++r) {
          totals[r][t] = _mm512_fmadd_ps(minima, _mm512_set1_ps(x.sums[g * kRows + r]), totals[r][t]);
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
void Rows(const Format& format, const GroupWeights& w, Groups groups, const typename Format::Arithmetic::Rows& x,
          float* y, std::size_t y_stride, Outputs outputs) {
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
void Linear(const GroupWeights& w, const typename Format::Arithmetic::Rows& x, std::size_t rows, float* y,
            std::size_t y_stride, std::size_t first_tile, std::size_t last_tile) {
  using Input = typename Format::Arithmetic::Rows;
  using RunRows = void (*)(const Format&, const GroupWeights&, Groups, const Input&, float*, std::size_t, Outputs);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&Rows<Format, kRows + 1>...};
  }
  (std::make_index_sequence<kPanelRows>());
  const Format format;
  const std::size_t groups = w.columns / kGroupColumns, groups_at_once = rows < kPanelRows / 2 ? groups : kGroupsAtOnce;
  for (std::size_t tile = first_tile; tile < last_tile; tile += kTilesAtOnce) {
    const Outputs outputs{tile, std::min(last_tile, tile + kTilesAtOnce), w.outputs};
    for (std::size_t panel = 0; panel < panels_of(rows); ++panel) {
      const std::size_t first = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - first;
      const Input here = x.from(first, w.columns);
      for (std::size_t group = 0; group < groups; group += groups_at_once) {
        kRun[count - 1](format, w, {group, std::min(groups, group + groups_at_once), panel == 0}, here,
                        y + first * y_stride, y_stride, outputs);
      }
    }
  }
}

// Calls round(columns 0 to 15, 16 to 31, place among all rows' groups) for each group of the panels' rows.
template <class Round>
HWY_INLINE void ForEachGroup(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                             std::size_t last_panel, const Round& round) {
  const std::size_t groups = columns / kGroupColumns;
  for (std::size_t panel = first_panel; panel < last_panel; ++panel) {
    const std::size_t begin = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - begin;
    for (std::size_t r = 0; r < count; ++r) {
      const float* row = x + (begin + r) * columns;
      for (std::size_t g = 0; g < groups; ++g) {
        const float* from = row + g * kGroupColumns;
        round(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16), begin * groups + g * count + r);
      }
    }
  }
}

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
