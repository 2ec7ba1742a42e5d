// Weights packed for the kernels of group_linear.h: in groups of 32 columns that share a scale, as GGUF's Q4_0, Q4_1
// and Q8_0 have them, with 16 outputs side by side, so that a vector holds one column of each and no sum crosses lanes.
// As many bytes as in the file.
//
//   tile    16 outputs, all columns (outputs beyond the last are zero)   [group]
//   group   Q4: f16 scale [output], f16 minimum [output], nibbles [4][output][4]
//           Q8: f16 scale [output], bytes [4][half][output][4]
//               p, o, i: column 8 p + kColumnOrder[0][i] of output o is in the low half (of a byte of Q4, or of p's
//               bytes of Q8), 8 p + kColumnOrder[1][i] in the high one
//   weight  Q4: scale * nibble + minimum; Q8: scale * byte
//
// So a half is four columns of each output in 32 bits, as products of bytes want them, and a half of these 32 bits has
// two neighbouring columns at the same place, as products of bf16 want them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/gguf_file.h"

namespace tiercel::kernels {

inline constexpr std::size_t kGroupColumns = 32;
inline constexpr std::size_t kTileOutputs = 16;
inline constexpr std::size_t kColumnOrder[2][4] = {{0, 4, 1, 5}, {2, 6, 3, 7}};

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
