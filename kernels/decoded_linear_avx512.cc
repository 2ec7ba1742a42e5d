// group_linear_decoded() of group_linear.h: a part of the weights is decoded into memory that stays in the second
// cache, then all rows pass it. A result is one chain of VDPBF16PS then, with nothing to be scaled between groups.
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "kernels/group_linear.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/vectors_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using avx512::LoadHalves;

// So many columns are decoded at once: a panel's rows of them stay in the nearest cache. Results wait in y between
// them.
constexpr std::size_t kGroupsAtOnce = 24;
constexpr std::size_t kTilesAtOnce = 8;
// Weights are asked for so far ahead: the processor itself fetches to the end of a page only.
constexpr std::size_t kBytesAhead = 6144;
// Tiles that a value of x serves. With a panel's rows, their sums are in 24 of 32 registers.
constexpr std::size_t kTilesTogether = 2;
static_assert(kPanelRows == 12 && kTilesAtOnce % kTilesTogether == 0);

// A decoded group: of each output two columns, side by side, in each of 16 vectors.
constexpr std::size_t kVectors = kGroupColumns / 2;
constexpr std::size_t kTileElements = kVectors * 2 * kTileOutputs;

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
  static constexpr std::size_t kBytes = 320;
  HWY_INLINE DecodeQ4() {
    alignas(64) float values[16];
    for (std::size_t i = 0; i < 16; ++i) values[i] = static_cast<float>(i);
    values_ = _mm512_load_ps(values);
  }
  HWY_INLINE void operator()(const std::byte* group, std::uint16_t* to) const {
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

 private:
  __m512 values_;
  StorePairs store_;
};

class DecodeQ8 {
 public:
  static constexpr std::size_t kBytes = 544;
  HWY_INLINE DecodeQ8() {}
  HWY_INLINE void operator()(const std::byte* group, std::uint16_t* to) const {
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

 private:
  StorePairs store_;
};

struct Part {
  std::size_t first_group, groups;
  std::size_t first_tile, last_tile;
  std::size_t outputs;  // of the matrix
};

// kRows x kTiles * 16 results. `w`: [tile][group][vector], `x`: [group][row][column].
template <std::size_t kRows, std::size_t kTiles>
HWY_INLINE void Tile(const std::uint16_t* w, const std::uint16_t* x, const Part& part, float* y, std::size_t y_stride,
                     __mmask16 last_lanes) {
  const auto lanes_of = [&](std::size_t t) { return t + 1 == kTiles ? last_lanes : static_cast<__mmask16>(0xffff); };
  __m512 sums[kRows][kTiles];
#pragma GCC unroll 12
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t t = 0; t < kTiles; ++t) {
      sums[r][t] = part.first_group == 0 ? _mm512_setzero_ps()
                                         : _mm512_maskz_loadu_ps(lanes_of(t), y + r * y_stride + t * kTileOutputs);
    }
  }
  for (std::size_t g = 0; g < part.groups; ++g, w += kTileElements, x += kRows * kGroupColumns) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      __m512bh weights[kTiles];
#pragma GCC unroll 2
      for (std::size_t t = 0; t < kTiles; ++t) {
        weights[t] = (__m512bh)_mm512_load_si512(w + t * part.groups * kTileElements + v * 32);
      }
#pragma GCC unroll 12
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t pair;
        __builtin_memcpy(&pair, x + r * kGroupColumns + 2 * v, sizeof pair);
        const __m512bh columns = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (std::size_t t = 0; t < kTiles; ++t) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], weights[t], columns);
      }
    }
  }
#pragma GCC unroll 12
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t t = 0; t < kTiles; ++t) {
      _mm512_mask_storeu_ps(y + r * y_stride + t * kTileOutputs, lanes_of(t), sums[r][t]);
    }
  }
}

// `y`: of the first tile.
template <std::size_t kRows>
void Rows(const std::uint16_t* w, const std::uint16_t* x, const Part& part, float* y, std::size_t y_stride) {
  std::size_t tile = part.first_tile;
  const auto lanes_up_to = [&](std::size_t last_tile) {
    const std::size_t missing = std::max(part.outputs, last_tile * kTileOutputs) - part.outputs;
    return static_cast<__mmask16>(0xffff >> missing);
  };
  const std::size_t tile_elements = part.groups * kTileElements;
  for (; tile + kTilesTogether <= part.last_tile; tile += kTilesTogether) {
    Tile<kRows, kTilesTogether>(w, x, part, y, y_stride, lanes_up_to(tile + kTilesTogether));
    w += kTilesTogether * tile_elements;
    y += kTilesTogether * kTileOutputs;
  }
  for (; tile < part.last_tile; ++tile, w += tile_elements, y += kTileOutputs) {
    Tile<kRows, 1>(w, x, part, y, y_stride, lanes_up_to(tile + 1));
  }
}

template <class Decode>
void Linear(const GroupWeights& weights, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
            std::size_t first_tile, std::size_t last_tile) {
  using RunRows = void (*)(const std::uint16_t*, const std::uint16_t*, const Part&, float*, std::size_t);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&Rows<kRows + 1>...};
  }
  (std::make_index_sequence<kPanelRows>());
  alignas(64) std::uint16_t decoded[kTilesAtOnce * kGroupsAtOnce * kTileElements];
  const Decode decode;
  const std::size_t all_groups = weights.columns / kGroupColumns;
  Part part{};
  part.outputs = weights.outputs;
  for (part.first_tile = first_tile; part.first_tile < last_tile; part.first_tile = part.last_tile) {
    part.last_tile = std::min(last_tile, part.first_tile + kTilesAtOnce);
    for (part.first_group = 0; part.first_group < all_groups; part.first_group += part.groups) {
      part.groups = std::min(kGroupsAtOnce, all_groups - part.first_group);
      std::uint16_t* to = decoded;
      for (std::size_t tile = part.first_tile; tile < part.last_tile; ++tile) {
        const std::byte* group = weights.tiles + (tile * all_groups + part.first_group) * Decode::kBytes;
        for (std::size_t g = 0; g < part.groups; ++g, group += Decode::kBytes, to += kTileElements) {
          for (std::size_t line = 0; line < Decode::kBytes; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(group + kBytesAhead + line), _MM_HINT_T0);
          }
          decode(group, to);
        }
      }
      for (std::size_t panel = 0; panel < panels_of(rows); ++panel) {
        const std::size_t first = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - first;
        const std::uint16_t* values = x.from(first, weights.columns).values;
        kRun[count - 1](decoded, values + count * part.first_group * kGroupColumns, part,
                        y + first * y_stride + part.first_tile * kTileOutputs, y_stride);
      }
    }
  }
}

}  // namespace

void group_linear_decoded(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                          std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<DecodeQ8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<DecodeQ4>(w, x, rows, y, y_stride, first_tile, last_tile);
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
