// Weights packed for the kernels of group_linear_cuda.h, on the host; what comes of it is then copied to the device.
// Nothing here is CUDA's.
//
// Weights keep the precision of the file, and nearly its size: nibbles or bytes in groups of 32 columns that share a
// scale, or plain elements of the activations' type. Their order is that in which tensor cores take them
// (tensor_core.h: as A of m16n8k16), so that every lane of a warp gets its operands by loads of 16 bytes, neighbouring
// lanes from neighbouring addresses, and a warp that walks over columns reads memory from front to back; no value has
// to change lanes.
//
//   tile    32 outputs, all columns   [group]
//   group   32 columns: what follows, in this order. Of lane 4 g + t are outputs 4 g .. 4 g + 3, columns 8 t .. 8 t + 7
//     Group4   f16 scale and f16 minimum [output]; nibbles [lane][output of 4][4 bytes]
//     Group8   f16 scale [output]; bytes [pair of outputs][lane][output of 2][8]
//     Plain    elements [output of 4][lane][8], 2 bytes each; of f32 [output of 4][half][lane][4]
//   weight  Group4: scale * nibble + minimum; Group8: scale * byte
//
// Of the 4 bytes that hold 8 nibbles, as a little-endian integer, bits 4 p .. 4 p + 3 are column 2 p and bits
// 4 p + 16 .. 4 p + 19 are column 2 p + 1: neighbouring columns are at the same place of two halves of a register.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/gguf_file.h"
#include "tiercel/types.h"

namespace tiercel::kernels::cuda {

enum class WeightCode : std::uint8_t {
  Group4,  // Q4_0, Q4_1
  Group8,  // Q8_0
  Plain,   // F32, F16, BF16, rounded to the activations' type
};

// One matrix of the device: y = x W^T.
struct DeviceWeights {
  WeightCode code = WeightCode::Plain;
  const std::byte* data = nullptr;  // device memory, at a multiple of 16 bytes
  std::size_t outputs = 0;
  std::size_t columns = 0;  // a multiple of 32
};

// Whether weights of this type can be packed, and as what.
bool has_device_weights(TensorType type);
WeightCode device_code(TensorType type);

inline constexpr std::size_t kDeviceGroupColumns = 32;
inline constexpr std::size_t kDeviceTileOutputs = 32;

// Of one tile's group. `dtype` is the activations'; it counts for Plain alone.
constexpr std::size_t device_group_bytes(WeightCode code, DType dtype) {
  constexpr std::size_t kWeights = kDeviceTileOutputs * kDeviceGroupColumns;
  switch (code) {
    case WeightCode::Group4: return kDeviceTileOutputs * 4 + kWeights / 2;
    case WeightCode::Group8: return kDeviceTileOutputs * 2 + kWeights;
    case WeightCode::Plain: break;
  }
  return kWeights * size_of(dtype);
}
// Of a whole matrix: a multiple of 64.
constexpr std::size_t device_weights_bytes(WeightCode code, DType dtype, std::size_t outputs, std::size_t columns) {
  const std::size_t tiles = (outputs + kDeviceTileOutputs - 1) / kDeviceTileOutputs;
  return tiles * (columns / kDeviceGroupColumns) * device_group_bytes(code, dtype);
}

// Packs `count` rows of a tensor, dense at `rows` as in the file, as the outputs first_output .. first_output + count -
// 1 of a matrix whose packing begins at `data` (host memory, device_weights_bytes() of it). So several tensors become
// one matrix. `code` is device_code(type), or Plain for any type: its values are then rounded to `dtype`.
//
// Different outputs write different bytes: threads may pack parts of a matrix at once. Bytes of outputs that nobody
// packs, beyond the last in its tile, stay as they are; no result depends on them.
void pack_device_weights(TensorType type, const std::byte* rows, std::size_t count, std::size_t columns,
                         WeightCode code, DType dtype, std::size_t first_output, std::byte* data);

}  // namespace tiercel::kernels::cuda
