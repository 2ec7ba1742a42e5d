#include "kernels/group_linear.h"

#include <algorithm>
#include <array>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/group_linear.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::Rebind<std::int32_t, DF>;
using DHalf = hn::Rebind<hwy::float16_t, DF>;
using VF = hn::Vec<DF>;
constexpr std::size_t kLanes = hn::MaxLanes(DF());
constexpr std::size_t kParts = kTileOutputs / kLanes;  // vectors that hold one column of a tile

// Sums in registers: each result has one.
constexpr std::size_t kMostSums = kLanes == 16 ? 24 : 12;
constexpr std::size_t kMostRows = 12;
// Tiles of weights that stay near while all rows pass.
constexpr std::size_t kTilesAtOnce = 24;

HWY_INLINE VF LoadHalves(const std::byte* halves) {
  return hn::PromoteTo(DF(), hn::LoadU(DHalf(), reinterpret_cast<const hwy::float16_t*>(halves)));
}

// The four bytes of each output, that begin at `bytes`.
HWY_INLINE hn::Vec<DI> LoadQuads(const std::byte* bytes) {
  return hn::LoadU(DI(), reinterpret_cast<const std::int32_t*>(bytes));
}

// A format decodes the columns 8 p .. 8 p + 7 of a group for the outputs of part `part`.
struct Q4 {
  static constexpr std::size_t kBytes = 320;
  VF scale, minimum;
  HWY_INLINE Q4(const std::byte* group, std::size_t part)
      : scale(LoadHalves(group + 2 * kLanes * part)), minimum(LoadHalves(group + 32 + 2 * kLanes * part)) {}
  HWY_INLINE void Decode(const std::byte* group, std::size_t part, std::size_t p, VF (&columns)[8]) const {
    const auto nibbles = LoadQuads(group + 64 + 64 * p + 4 * kLanes * part);
    const auto mask = hn::Set(DI(), 15);
    columns[kColumnOrder[0][0]] = Scaled(hn::And(nibbles, mask));
    columns[kColumnOrder[1][0]] = Scaled(hn::And(hn::ShiftRight<4>(nibbles), mask));
    columns[kColumnOrder[0][1]] = Scaled(hn::And(hn::ShiftRight<8>(nibbles), mask));
    columns[kColumnOrder[1][1]] = Scaled(hn::And(hn::ShiftRight<12>(nibbles), mask));
    columns[kColumnOrder[0][2]] = Scaled(hn::And(hn::ShiftRight<16>(nibbles), mask));
    columns[kColumnOrder[1][2]] = Scaled(hn::And(hn::ShiftRight<20>(nibbles), mask));
    columns[kColumnOrder[0][3]] = Scaled(hn::And(hn::ShiftRight<24>(nibbles), mask));
    columns[kColumnOrder[1][3]] = Scaled(hn::And(hn::ShiftRight<28>(nibbles), mask));
  }

 private:
  HWY_INLINE VF Scaled(hn::Vec<DI> nibbles) const { return hn::MulAdd(hn::ConvertTo(DF(), nibbles), scale, minimum); }
};

struct Q8 {
  static constexpr std::size_t kBytes = 544;
  VF scale;
  HWY_INLINE Q8(const std::byte* group, std::size_t part) : scale(LoadHalves(group + 2 * kLanes * part)) {}
  HWY_INLINE void Decode(const std::byte* group, std::size_t part, std::size_t p, VF (&columns)[8]) const {
    for (std::size_t half = 0; half < 2; ++half) {
      const auto bytes = LoadQuads(group + 32 + 64 * (2 * p + half) + 4 * kLanes * part);
      columns[kColumnOrder[half][0]] = Scaled(hn::ShiftRight<24>(hn::ShiftLeft<24>(bytes)));
      columns[kColumnOrder[half][1]] = Scaled(hn::ShiftRight<24>(hn::ShiftLeft<16>(bytes)));
      columns[kColumnOrder[half][2]] = Scaled(hn::ShiftRight<24>(hn::ShiftLeft<8>(bytes)));
      columns[kColumnOrder[half][3]] = Scaled(hn::ShiftRight<24>(bytes));
    }
  }

 private:
  HWY_INLINE VF Scaled(hn::Vec<DI> bytes) const { return hn::Mul(hn::ConvertTo(DF(), bytes), scale); }
};

// Vectors beside each other for so many rows.
constexpr std::size_t vectors_for(std::size_t rows) {
  return std::max<std::size_t>(1, kMostSums / rows / kParts) * kParts;
}

// kRows x kVectors * kLanes results, from output 0 of w on. Each has one sum that takes the columns in order, whatever
// the shape.
template <class Format, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void Tile(const std::byte* w, std::size_t tile_bytes, std::size_t first_part, std::size_t groups,
                     const float* x, std::size_t x_stride, float* y, std::size_t y_stride) {
  VF sums[kVectors][kRows];
#pragma GCC unroll 24
  for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) sums[v][r] = hn::Zero(DF());
  }
  for (std::size_t g = 0; g < groups; ++g, w += Format::kBytes, x += kGroupColumns) {
#pragma GCC unroll 24
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::byte* group = w + (first_part + v) / kParts * tile_bytes;
      const std::size_t part = (first_part + v) % kParts;
      const Format format(group, part);
      for (std::size_t p = 0; p < kGroupColumns / 8; ++p) {
        VF columns[8];
        format.Decode(group, part, p, columns);
#pragma GCC unroll 12
        for (std::size_t r = 0; r < kRows; ++r) {
          const float* values = x + r * x_stride + 8 * p;
#pragma GCC unroll 8
          for (std::size_t c = 0; c < 8; ++c) sums[v][r] = hn::MulAdd(columns[c], hn::Set(DF(), values[c]), sums[v][r]);
        }
      }
    }
  }
#pragma GCC unroll 24
  for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 12
    for (std::size_t r = 0; r < kRows; ++r) hn::StoreU(sums[v][r], DF(), y + r * y_stride + v * kLanes);
  }
}

// Results of whole tiles, or of the matrix's last one by way of a row of 16.
template <class Format, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void StoreTile(const GroupWeights& w, std::size_t tile, std::size_t first_part, const float* x,
                          std::size_t x_stride, float* y, std::size_t y_stride) {
  const std::size_t groups = w.columns / kGroupColumns, tile_bytes = groups * Format::kBytes;
  const std::byte* from = w.tiles + tile * tile_bytes;
  const std::size_t first = tile * kTileOutputs + first_part * kLanes, end = first + kVectors * kLanes;
  if (end <= w.outputs) {
    return Tile<Format, kRows, kVectors>(from, tile_bytes, first_part, groups, x, x_stride, y + first, y_stride);
  }
  float whole[kRows][kVectors * kLanes];
  Tile<Format, kRows, kVectors>(from, tile_bytes, first_part, groups, x, x_stride, whole[0], kVectors * kLanes);
  for (std::size_t r = 0; r < kRows && first < w.outputs; ++r) {
    std::copy_n(whole[r], w.outputs - first, y + r * y_stride + first);
  }
}

template <class Format, std::size_t kRows>
void Rows(const GroupWeights& w, const float* x, std::size_t x_stride, float* y, std::size_t y_stride, std::size_t tile,
          std::size_t last_tile) {
  constexpr std::size_t kVectors = vectors_for(kRows);
  // A tile's vectors at once, or one by one where its sums would not fit the registers.
  constexpr std::size_t kTiles = kVectors / kParts, kOne = kParts * kRows <= kMostSums ? kParts : 1;
  if constexpr (kTiles > 1) {
    for (; tile + kTiles <= last_tile; tile += kTiles)
      StoreTile<Format, kRows, kVectors>(w, tile, 0, x, x_stride, y, y_stride);
  }
  for (; tile < last_tile; ++tile) {
    for (std::size_t part = 0; part < kParts; part += kOne)
      StoreTile<Format, kRows, kOne>(w, tile, part, x, x_stride, y, y_stride);
  }
}

template <class Format>
void AllRows(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
             std::size_t y_stride, std::size_t first_tile, std::size_t last_tile) {
  using RunRows =
      void (*)(const GroupWeights&, const float*, std::size_t, float*, std::size_t, std::size_t, std::size_t);
  static constexpr auto kRun = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<RunRows, sizeof...(kRows)>{&Rows<Format, kRows + 1>...};
  }
  (std::make_index_sequence<kMostRows>());
  const std::size_t parts = (rows + kMostRows - 1) / kMostRows;  // of rows, as equal as can be
  for (std::size_t tile = first_tile; tile < last_tile; tile += kTilesAtOnce) {
    for (std::size_t part = 0, first = 0; part < parts; ++part) {
      const std::size_t count = (rows - first + parts - part - 1) / (parts - part);
      kRun[count - 1](w, x + first * x_stride, x_stride, y + first * y_stride, y_stride, tile,
                      std::min(last_tile, tile + kTilesAtOnce));
      first += count;
    }
  }
}

void GroupLinear(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                 std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? AllRows<Q8>(w, x, x_stride, rows, y, y_stride, first_tile, last_tile)
                              : AllRows<Q4>(w, x, x_stride, rows, y, y_stride, first_tile, last_tile);
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {

HWY_EXPORT(GroupLinear);

void group_linear(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  HWY_DYNAMIC_DISPATCH(GroupLinear)(w, x, x_stride, rows, y, y_stride, first_output, last_output);
}

}  // namespace tiercel::kernels
#endif
