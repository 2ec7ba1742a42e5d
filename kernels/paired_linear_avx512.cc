// Products of bytes by 4-bit weights for many rows with half as many multiplications (Winograd's inner product, 1968).
// For two columns, x0 w0 + x1 w1 = (x0 + w1) (x1 + w0) - x0 x1 - w0 w1. The sums are bytes too and cost additions, for
// which the processor has twice as many units; what is subtracted belongs to a row or to an output, so it is computed
// once for each. Whole numbers all the way: a group's sum is the one of group_linear_avx512.cc, and so are the bits.
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "kernels/int8_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/vectors_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using avx512::Broadcast, avx512::LoadHalves;

// So many columns are decoded at once, for tiles that a value of x serves together: with a panel's rows of these
// columns they stay in the nearest cache while all rows pass. Results wait in y between them.
constexpr std::size_t kGroupsAtOnce = 24;
constexpr std::size_t kTilesTogether = 2;
// Each has a sum of the group and one of all for each of the tiles, in 24 of 32 registers.
constexpr std::size_t kRowsAtOnce = 6;
constexpr std::size_t kBytes = 320;  // of a packed group
constexpr std::size_t kPairs = kGroupColumns / 8;

// A decoded group of a tile: of each output four columns in each vector.
struct Group {
  __m512i for_first[kPairs];   // what the first four columns of eight are added to: the second four, made unsigned
  __m512i for_second[kPairs];  // the first four, made signed
  __m512i offset;              // minus the sum of their products
  __m512 scales, minima;

  HWY_INLINE void decode(const std::byte* packed) {
    scales = LoadHalves(packed);
    minima = LoadHalves(packed + 32);
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i products = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kPairs; ++p) {
      const __m512i nibbles = _mm512_loadu_si512(packed + 64 + 64 * p);
      for_first[p] =
          _mm512_add_epi8(_mm512_and_si512(_mm512_srli_epi16(nibbles, 4), mask), _mm512_set1_epi8(kPairedUnsigned));
      for_second[p] = _mm512_add_epi8(_mm512_and_si512(nibbles, mask), _mm512_set1_epi8(kPairedSigned));
      products = _mm512_dpbusd_epi32(products, for_first[p], for_second[p]);
    }
    offset = _mm512_sub_epi32(_mm512_setzero_si512(), products);
  }
};

struct Part {
  std::size_t first_group, groups;
  std::size_t panel_rows = 0, first_row = 0;  // of the panel
};

// kRows x kTiles * 16 results. `w`: [tile][group].
template <std::size_t kRows, std::size_t kTiles>
void Tile(const Group* w, const Int8Rows& x, const Part& part, float* y, std::size_t y_stride, __mmask16 last_lanes) {
  const auto lanes_of = [&](std::size_t t) { return t + 1 == kTiles ? last_lanes : static_cast<__mmask16>(0xffff); };
  __m512 totals[kRows][kTiles];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t t = 0; t < kTiles; ++t) {
      totals[r][t] = part.first_group == 0 ? _mm512_setzero_ps()
                                           : _mm512_maskz_loadu_ps(lanes_of(t), y + r * y_stride + t * kTileOutputs);
    }
  }
  std::size_t place = part.first_group * part.panel_rows + part.first_row;
  for (std::size_t g = 0; g < part.groups; ++g, place += part.panel_rows) {
    __m512i sums[kRows][kTiles];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::size_t t = 0; t < kTiles; ++t) {
        sums[r][t] = _mm512_add_epi32(w[t * part.groups + g].offset, _mm512_set1_epi32(x.paired_offsets[place + r]));
      }
    }
    const std::int8_t* columns = x.values + place * kGroupColumns;
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kPairs; ++p, columns += 8) {
#pragma GCC unroll 6
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i first = Broadcast(columns + r * kGroupColumns),
                      second = Broadcast(columns + r * kGroupColumns + 4);
#pragma GCC unroll 2
        for (std::size_t t = 0; t < kTiles; ++t) {
          const Group& weights = w[t * part.groups + g];
          sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], _mm512_add_epi8(first, weights.for_first[p]),
                                           _mm512_add_epi8(second, weights.for_second[p]));
        }
      }
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::size_t t = 0; t < kTiles; ++t) {
        const Group& weights = w[t * part.groups + g];
        const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][t]), _mm512_set1_ps(x.scales[place + r]));
        totals[r][t] = _mm512_fmadd_ps(weights.scales, sum, totals[r][t]);
        totals[r][t] = _mm512_fmadd_ps(weights.minima, _mm512_set1_ps(x.sums[place + r]), totals[r][t]);
      }
    }
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t t = 0; t < kTiles; ++t) {
      _mm512_mask_storeu_ps(y + r * y_stride + t * kTileOutputs, lanes_of(t), totals[r][t]);
    }
  }
}

template <std::size_t kTiles>
void Panel(const Group* w, const Int8Rows& x, Part part, float* y, std::size_t y_stride, __mmask16 last_lanes) {
  using RunTile = void (*)(const Group*, const Int8Rows&, const Part&, float*, std::size_t, __mmask16);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunTile, sizeof...(kRows)>{&Tile<kRows + 1, kTiles>...};
  }
  (std::make_index_sequence<kRowsAtOnce>());
  for (part.first_row = 0; part.first_row < part.panel_rows; part.first_row += kRowsAtOnce) {
    kRun[std::min(kRowsAtOnce, part.panel_rows - part.first_row) - 1](w, x, part, y + part.first_row * y_stride,
                                                                      y_stride, last_lanes);
  }
}

}  // namespace

void multiply_paired_avx512(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                            std::size_t first_output, std::size_t last_output) {
  assert(w.format == GroupFormat::Q4 && x.paired_offsets);
  const std::size_t all_groups = w.columns / kGroupColumns, end = tiles_of(last_output);
  Group decoded[kTilesTogether * kGroupsAtOnce];
  for (std::size_t tile = first_output / kTileOutputs; tile < end; tile += kTilesTogether) {
    const std::size_t tiles = std::min(kTilesTogether, end - tile),
                      missing = std::max(w.outputs, (tile + tiles) * kTileOutputs) - w.outputs;
    const auto last_lanes = static_cast<__mmask16>(0xffff >> missing);
    for (std::size_t group = 0; group < all_groups; group += kGroupsAtOnce) {
      Part part{.first_group = group, .groups = std::min(kGroupsAtOnce, all_groups - group)};
      for (std::size_t t = 0; t < tiles; ++t) {
        const std::byte* packed = w.tiles + ((tile + t) * all_groups + group) * kBytes;
        for (std::size_t g = 0; g < part.groups; ++g, packed += kBytes) {
          decoded[t * part.groups + g].decode(packed);
          // The same groups of the next tiles, to be there when the rows have passed.
          for (std::size_t line = 0; line < kBytes; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(packed + kTilesTogether * all_groups * kBytes + line),
                         _MM_HINT_T1);
          }
        }
      }
      for (std::size_t panel = 0; panel < panels_of(rows); ++panel) {
        const std::size_t first = panel_begin(rows, panel);
        part.panel_rows = panel_begin(rows, panel + 1) - first;
        (tiles == 1 ? Panel<1> : Panel<kTilesTogether>)(decoded, x.from(first, w.columns), part,
                                                        y + first * y_stride + tile * kTileOutputs, y_stride,
                                                        last_lanes);
      }
    }
  }
}

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#endif
