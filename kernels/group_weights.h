// Weights packed for the kernels of group_linear.h: in groups of 32 columns that share a scale, as GGUF's Q4_0, Q4_1
// and Q8_0 have them, with 16 outputs side by side, so that a vector holds one column of each and no sum crosses lanes.
// As many bytes as in the file.
//
//   tile    16 outputs, all columns (outputs beyond the last are zero)   [group]
//   group   Q4: f16 scale [output], f16 minimum [output], nibbles [8][output][2]
//               byte (p, o, i): column 4 p + i of output o in the low half, 4 p + 2 + i in the high one
//           Q8: f16 scale [output], bytes [16][output][2]; byte (p, o, i): column 2 p + i
//   weight  Q4: scale * nibble + minimum; Q8: scale * byte
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/gguf_file.h"

namespace tiercel::kernels {

inline constexpr std::size_t kGroupColumns = 32;
inline constexpr std::size_t kTileOutputs = 16;

enum class GroupFormat : std::uint8_t { Q4, Q8 };

struct GroupWeights {
  GroupFormat format = GroupFormat::Q4;
  const std::byte* tiles = nullptr;  // 64-byte aligned
  std::size_t outputs = 0;
  std::size_t columns = 0;  // a multiple of 32
};

// Whether weights of this type can be packed, and as what.
bool has_groups(TensorType type);
GroupFormat group_format(TensorType type);

std::size_t group_bytes(GroupFormat format);
inline std::size_t tiles_of(std::size_t outputs) { return (outputs + kTileOutputs - 1) / kTileOutputs; }
std::size_t group_weights_bytes(GroupFormat format, std::size_t outputs, std::size_t columns);

// Packs tiles first_tile .. last_tile - 1 of a matrix whose rows, one for each output, lie densely at `rows` as in the
// file. `tiles` is where the whole matrix's packing begins.
void pack_group_weights(TensorType type, const std::byte* rows, std::size_t outputs, std::size_t columns,
                        std::size_t first_tile, std::size_t last_tile, std::byte* tiles);

}  // namespace tiercel::kernels
