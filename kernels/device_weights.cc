#include "kernels/device_weights.h"

#include <array>
#include <cassert>
#include <cstring>

#include "gguf/dequantize.h"

namespace tiercel::kernels::cuda {
namespace {

// Where things of an output's group are, within its tile's.
struct Place {
  explicit Place(std::size_t output) : output_in_tile(output % kDeviceTileOutputs) {}
  std::size_t lane(std::size_t t) const { return output_in_tile / 4 * 4 + t; }  // of columns 8 t .. 8 t + 7
  std::size_t of_lane() const { return output_in_tile % 4; }                    // which of a lane's four
  std::size_t output_in_tile;
};

constexpr std::size_t kHalfBytes = 2, kLanes = 32, kLaneColumns = 8, kQuads = kDeviceGroupColumns / kLaneColumns;

// Byte j of the file's block holds columns j and j + 16.
void pack_nibbles(const std::byte* from, const Place& place, std::byte* to) {
  const auto nibble = [&](std::size_t column) {
    return std::to_integer<std::uint32_t>(column < 16 ? from[column] & std::byte{15} : from[column - 16] >> 4);
  };
  for (std::size_t t = 0; t < kQuads; ++t) {
    std::uint32_t bits = 0;
    for (std::size_t p = 0; p < 4; ++p) {
      bits |= nibble(kLaneColumns * t + 2 * p) << 4 * p | nibble(kLaneColumns * t + 2 * p + 1) << (4 * p + 16);
    }
    std::memcpy(to + (place.lane(t) * 4 + place.of_lane()) * sizeof bits, &bits, sizeof bits);
  }
}

void pack_group4(TensorType type, const std::byte* block, const Place& place, std::byte* group) {
  std::uint16_t halves[2];  // scale, minimum
  const std::byte* nibbles = block + kHalfBytes;
  std::memcpy(halves, block, kHalfBytes);
  if (type == TensorType::Q4_1) {
    std::memcpy(&halves[1], block + kHalfBytes, kHalfBytes);
    nibbles += kHalfBytes;
  } else {  // Q4_0: scale * (nibble - 8)
    halves[1] = float_to_half(-8 * half_to_float(halves[0]));
  }
  std::memcpy(group + place.output_in_tile * sizeof halves, halves, sizeof halves);
  pack_nibbles(nibbles, place, group + kDeviceTileOutputs * sizeof halves);
}

void pack_group8(const std::byte* block, const Place& place, std::byte* group) {
  std::memcpy(group + place.output_in_tile * kHalfBytes, block, kHalfBytes);
  std::byte* bytes = group + kDeviceTileOutputs * kHalfBytes;
  for (std::size_t t = 0; t < kQuads; ++t) {
    const std::size_t load = place.of_lane() / 2 * kLanes + place.lane(t);  // of 16 bytes
    std::memcpy(bytes + load * 16 + place.of_lane() % 2 * kLaneColumns, block + kHalfBytes + kLaneColumns * t,
                kLaneColumns);
  }
}

void pack_plain(const std::array<float, kDeviceGroupColumns>& values, DType dtype, const Place& place,
                std::byte* group) {
  for (std::size_t t = 0; t < kQuads; ++t) {
    const float* from = &values[kLaneColumns * t];
    if (dtype == DType::F32) {
      for (std::size_t half = 0; half < 2; ++half) {
        std::memcpy(group + ((place.of_lane() * 2 + half) * kLanes + place.lane(t)) * 16, from + 4 * half, 16);
      }
      continue;
    }
    std::array<std::uint16_t, kLaneColumns> elements;
    for (std::size_t i = 0; i < kLaneColumns; ++i) {
      elements[i] = dtype == DType::F16 ? float_to_half(from[i]) : float_to_bf16(from[i]);
    }
    std::memcpy(group + (place.of_lane() * kLanes + place.lane(t)) * 16, elements.data(), 16);
  }
}

}  // namespace

bool has_device_weights(TensorType type) {
  switch (type) {
    case TensorType::F32:
    case TensorType::F16:
    case TensorType::BF16:
    case TensorType::Q4_0:
    case TensorType::Q4_1:
    case TensorType::Q8_0: return true;
  }
  return false;
}

WeightCode device_code(TensorType type) {
  assert(has_device_weights(type));
  switch (type) {
    case TensorType::Q4_0:
    case TensorType::Q4_1: return WeightCode::Group4;
    case TensorType::Q8_0: return WeightCode::Group8;
    default: return WeightCode::Plain;
  }
}

void pack_device_weights(TensorType type, const std::byte* rows, std::size_t count, std::size_t columns,
                         WeightCode code, DType dtype, std::size_t first_output, std::byte* data) {
  assert(columns % kDeviceGroupColumns == 0 && (code == device_code(type) || code == WeightCode::Plain));
  const std::size_t groups = columns / kDeviceGroupColumns, group_bytes = device_group_bytes(code, dtype);
  const std::size_t group_bytes_in_file = kDeviceGroupColumns / block_elements(type) * block_bytes(type);
  for (std::size_t row = 0; row < count; ++row) {
    const std::size_t output = first_output + row;
    const Place place(output);
    std::byte* group = data + output / kDeviceTileOutputs * groups * group_bytes;
    for (std::size_t g = 0; g < groups; ++g, rows += group_bytes_in_file, group += group_bytes) {
      switch (code) {
        case WeightCode::Group4: pack_group4(type, rows, place, group); break;
        case WeightCode::Group8: pack_group8(rows, place, group); break;
        case WeightCode::Plain: {
          std::array<float, kDeviceGroupColumns> values;
          dequantize(type, {rows, group_bytes_in_file}, values);
          pack_plain(values, dtype, place, group);
          break;
        }
      }
    }
  }
}

}  // namespace tiercel::kernels::cuda
