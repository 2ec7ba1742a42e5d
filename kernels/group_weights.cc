#include "kernels/group_weights.h"

#include <cassert>
#include <cstring>

#include "gguf/dequantize.h"

namespace tiercel::kernels {
namespace {

constexpr std::size_t kScaleBytes = 2;
constexpr std::size_t kScalesBytes = kScaleBytes * kTileOutputs;

constexpr std::size_t kChunks = kGroupColumns / 8;

// One output's group of 32 nibbles: byte j of the file holds columns j and j + 16.
void pack_nibbles(const std::byte* from, std::byte* to) {
  const auto nibble = [&](std::size_t column) {
    return column < 16 ? from[column] & std::byte{15} : from[column - 16] >> 4;
  };
  for (std::size_t p = 0; p < kChunks; ++p) {
    for (std::size_t i = 0; i < 4; ++i) {
      to[p * 4 * kTileOutputs + i] = nibble(8 * p + kColumnOrder[0][i]) | nibble(8 * p + kColumnOrder[1][i]) << 4;
    }
  }
}

void pack_bytes(const std::byte* from, std::byte* to) {
  for (std::size_t half = 0; half < 2 * kChunks; ++half) {
    for (std::size_t i = 0; i < 4; ++i) {
      to[half * 4 * kTileOutputs + i] = from[half / 2 * 8 + kColumnOrder[half % 2][i]];
    }
  }
}

// One output's block of the file, as output `o` of a tile's group.
void pack_block(TensorType type, const std::byte* block, std::size_t o, std::byte* group) {
  std::memcpy(group + o * kScaleBytes, block, kScaleBytes);
  if (type == TensorType::Q8_0) return pack_bytes(block + kScaleBytes, group + kScalesBytes + 4 * o);
  std::byte* minimum = group + kScalesBytes + o * kScaleBytes;
  std::byte* nibbles = group + 2 * kScalesBytes + 4 * o;
  if (type == TensorType::Q4_1) {
    std::memcpy(minimum, block + kScaleBytes, kScaleBytes);
    return pack_nibbles(block + 2 * kScaleBytes, nibbles);
  }
  // Q4_0: scale * (nibble - 8)
  std::uint16_t scale;
  std::memcpy(&scale, block, kScaleBytes);
  const std::uint16_t half = float_to_half(-8 * half_to_float(scale));
  std::memcpy(minimum, &half, kScaleBytes);
  pack_nibbles(block + kScaleBytes, nibbles);
}

}  // namespace

bool has_groups(TensorType type) {
  return type == TensorType::Q4_0 || type == TensorType::Q4_1 || type == TensorType::Q8_0;
}

GroupFormat group_format(TensorType type) {
  assert(has_groups(type));
  return type == TensorType::Q8_0 ? GroupFormat::Q8 : GroupFormat::Q4;
}

std::size_t group_bytes(GroupFormat format) {
  return format == GroupFormat::Q8 ? kScalesBytes + kTileOutputs * kGroupColumns
                                   : 2 * kScalesBytes + kTileOutputs * kGroupColumns / 2;
}

std::size_t group_weights_bytes(GroupFormat format, std::size_t outputs, std::size_t columns) {
  return tiles_of(outputs) * (columns / kGroupColumns) * group_bytes(format);
}

void pack_group_weights(TensorType type, const std::byte* rows, std::size_t outputs, std::size_t columns,
                        std::size_t first_tile, std::size_t last_tile, std::byte* tiles) {
  const std::size_t groups = columns / kGroupColumns, row_bytes = groups * block_bytes(type);
  const std::size_t bytes_of_group = group_bytes(group_format(type));
  for (std::size_t tile = first_tile; tile < last_tile; ++tile) {
    std::byte* to = tiles + tile * groups * bytes_of_group;
    const std::size_t first = tile * kTileOutputs;
    if (first + kTileOutputs > outputs) std::memset(to, 0, groups * bytes_of_group);
    for (std::size_t o = 0; o < kTileOutputs && first + o < outputs; ++o) {
      const std::byte* row = rows + (first + o) * row_bytes;
      for (std::size_t g = 0; g < groups; ++g) {
        pack_block(type, row + g * block_bytes(type), o, to + g * bytes_of_group);
      }
    }
  }
}

}  // namespace tiercel::kernels
