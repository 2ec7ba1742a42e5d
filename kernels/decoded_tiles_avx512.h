// Products of many rows of x, for processors with AVX-512: a part of the weights is decoded into memory that stays
// near, then all rows pass it. The same walk for each arithmetic. Included only where <immintrin.h> is.
//
// An arithmetic has
//   Rows, Element, Sum                     what it takes rows of x as, what decoded weights are, and sums of products
//   kTiles, kGroups                        how many of each are decoded at once: results wait in y between groups
//   kSpanGroups                            groups of columns over which a result is one sum
//   Begin(y, lanes, first)                 what the sum begins with; first: there is nothing in y yet
//   Multiply(sum, weights, columns)        two columns of 16 outputs, by these columns of a row
//   End(sum, y, lanes, first, span, row)   puts the sum into y; span: where a tile's scales of it are,
//                                          row: where x has those of this span and row
//   scales(rows)                           where scales of x begin, [span][row]
// and a format, which decodes weights for it,
//   kBytes
//   Decode(groups, count, elements, scales)   groups of one span; 16 scales, if the arithmetic has some
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/group_linear.h"
#include "kernels/vectors_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

// Weights are asked for so far ahead: the processor itself fetches to the end of a page only.
inline constexpr std::size_t kBytesAhead = 6144;
// Tiles that a value of x serves. With a panel's rows, their sums are in 24 of 32 registers.
inline constexpr std::size_t kTilesTogether = 2;
static_assert(kPanelRows == 12);

// A decoded group: of each output two columns, side by side, in each of 16 vectors.
inline constexpr std::size_t kDecodedVectors = kGroupColumns / 2;
inline constexpr std::size_t kDecodedElements = kDecodedVectors * 2 * kTileOutputs;

// Decoded weights of some tiles and spans: of each tile, groups and scales one after another.
template <class Arithmetic>
struct DecodedPart {
  const typename Arithmetic::Element* weights;
  const float* scales;  // [tile][span][output]
  std::size_t outputs;  // of the matrix
  std::size_t first_group = 0, groups = 0;
  std::size_t first_tile = 0, last_tile = 0;

  static constexpr std::size_t spans_of(std::size_t groups) {
    return (groups + Arithmetic::kSpanGroups - 1) / Arithmetic::kSpanGroups;
  }
};

// kRows x kTiles * 16 results. `x`: [group][row][column], `x_scales`: [span][row].
template <class Arithmetic, std::size_t kRows, std::size_t kTiles>
HWY_INLINE void DecodedTile(const DecodedPart<Arithmetic>& part, std::size_t first_tile,
                            const typename Arithmetic::Element* x, const float* x_scales, float* y,
                            std::size_t y_stride, __mmask16 last_lanes) {
  const auto lanes_of = [&](std::size_t t) { return t + 1 == kTiles ? last_lanes : static_cast<__mmask16>(0xffff); };
  const std::size_t tile_elements = part.groups * kDecodedElements, spans = part.spans_of(part.groups);
  const auto* w = part.weights + first_tile * tile_elements;
  const float* scales = part.scales + first_tile * spans * kTileOutputs;
  for (std::size_t span = 0; span < spans; ++span, x_scales += kRows, scales += kTileOutputs) {
    const bool first = part.first_group == 0 && span == 0;
    typename Arithmetic::Sum sums[kRows][kTiles];
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::size_t t = 0; t < kTiles; ++t) {
        sums[r][t] = Arithmetic::Begin(y + r * y_stride + t * kTileOutputs, lanes_of(t), first);
      }
    }
    const std::size_t begin = span * Arithmetic::kSpanGroups,
                      end = std::min(part.groups, begin + Arithmetic::kSpanGroups);
    for (std::size_t g = begin; g < end; ++g, w += kDecodedElements, x += kRows * kGroupColumns) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kDecodedVectors; ++v) {
        __m512i weights[kTiles];
#pragma GCC unroll 2
        for (std::size_t t = 0; t < kTiles; ++t) weights[t] = _mm512_load_si512(w + t * tile_elements + v * 32);
#pragma GCC unroll 12
        for (std::size_t r = 0; r < kRows; ++r) {
          const __m512i columns = Broadcast(x + r * kGroupColumns + 2 * v);
#pragma GCC unroll 2
          for (std::size_t t = 0; t < kTiles; ++t) sums[r][t] = Arithmetic::Multiply(sums[r][t], weights[t], columns);
        }
      }
    }
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::size_t t = 0; t < kTiles; ++t) {
        Arithmetic::End(sums[r][t], y + r * y_stride + t * kTileOutputs, lanes_of(t), first,
                        scales + t * spans * kTileOutputs, x_scales + r);
      }
    }
  }
}

// `y`: of the part's first tile.
template <class Arithmetic, std::size_t kRows>
void DecodedRows(const DecodedPart<Arithmetic>& part, const typename Arithmetic::Element* x, const float* x_scales,
                 float* y, std::size_t y_stride) {
  const std::size_t tiles = part.last_tile - part.first_tile;
  const auto lanes_up_to = [&](std::size_t last_tile) {
    const std::size_t end = (part.first_tile + last_tile) * kTileOutputs,
                      missing = std::max(part.outputs, end) - part.outputs;
    return static_cast<__mmask16>(0xffff >> missing);
  };
  std::size_t tile = 0;
  for (; tile + kTilesTogether <= tiles; tile += kTilesTogether) {
    DecodedTile<Arithmetic, kRows, kTilesTogether>(part, tile, x, x_scales, y + tile * kTileOutputs, y_stride,
                                                   lanes_up_to(tile + kTilesTogether));
  }
  for (; tile < tiles; ++tile) {
    DecodedTile<Arithmetic, kRows, 1>(part, tile, x, x_scales, y + tile * kTileOutputs, y_stride,
                                      lanes_up_to(tile + 1));
  }
}

template <class Format>
void DecodedLinear(const GroupWeights& weights, const typename Format::Arithmetic::Rows& x, std::size_t rows, float* y,
                   std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  using Arithmetic = typename Format::Arithmetic;
  using Element = typename Arithmetic::Element;
  using Part = DecodedPart<Arithmetic>;
  using RunRows = void (*)(const Part&, const Element*, const float*, float*, std::size_t);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&DecodedRows<Arithmetic, kRows + 1>...};
  }
  (std::make_index_sequence<kPanelRows>());
  static constexpr std::size_t kTiles = Arithmetic::kTiles, kGroups = Arithmetic::kGroups;
  static_assert(kTiles % kTilesTogether == 0 && kGroups % Arithmetic::kSpanGroups == 0);
  alignas(64) Element decoded[kTiles * kGroups * kDecodedElements];
  alignas(64) float scales[kTiles * Part::spans_of(kGroups) * kTileOutputs];
  const Format format;
  const std::size_t all_groups = weights.columns / kGroupColumns, end = tiles_of(last_output);
  Part part{.weights = decoded, .scales = scales, .outputs = weights.outputs};
  for (part.first_tile = first_output / kTileOutputs; part.first_tile < end; part.first_tile = part.last_tile) {
    part.last_tile = std::min(end, part.first_tile + kTiles);
    for (part.first_group = 0; part.first_group < all_groups; part.first_group += part.groups) {
      part.groups = std::min(kGroups, all_groups - part.first_group);
      Element* to = decoded;
      float* scales_to = scales;
      for (std::size_t tile = part.first_tile; tile < part.last_tile; ++tile) {
        const std::byte* group = weights.tiles + (tile * all_groups + part.first_group) * Format::kBytes;
        for (std::size_t g = 0; g < part.groups; g += Arithmetic::kSpanGroups) {
          const std::size_t count = std::min(Arithmetic::kSpanGroups, part.groups - g);
          format.Decode(group, count, to, scales_to);
          group += count * Format::kBytes;
          to += count * kDecodedElements;
          scales_to += kTileOutputs;
        }
      }
      for (std::size_t panel = 0; panel < panels_of(rows); ++panel) {
        const std::size_t first = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - first;
        const auto here = x.from(first, weights.columns);
        kRun[count - 1](part, here.values + count * part.first_group * kGroupColumns,
                        Arithmetic::scales(here) + count * (part.first_group / Arithmetic::kSpanGroups),
                        y + first * y_stride + part.first_tile * kTileOutputs, y_stride);
      }
    }
  }
}

HWY_INLINE void FetchAhead(const std::byte* group, std::size_t bytes) {
  for (std::size_t line = 0; line < bytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(group + kBytesAhead + line), _MM_HINT_T0);
  }
}

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
