#include "tier/byte_planes.h"

#include <bit>
#include <cassert>
#include <cstdint>
#include <cstring>

#include "base/vector_clones.h"

namespace tiercel {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are little-endian in every tier");

template <class Word>
Word load(const std::byte* from) {
  Word word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

TIERCEL_VECTOR_CLONES void split2(const std::byte* __restrict values, std::size_t count, std::byte* __restrict high,
                                  std::byte* __restrict low) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = load<std::uint16_t>(values + 2 * i);
    const auto rotated = static_cast<std::uint16_t>(value << 1 | value >> 15);
    high[i] = static_cast<std::byte>(rotated >> 8);
    low[i] = static_cast<std::byte>(rotated);
  }
}

TIERCEL_VECTOR_CLONES void join2(const std::byte* __restrict high, const std::byte* __restrict low, std::size_t count,
                                 std::byte* __restrict values) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto rotated =
        static_cast<std::uint16_t>(static_cast<std::uint16_t>(high[i]) << 8 | static_cast<std::uint16_t>(low[i]));
    const auto value = static_cast<std::uint16_t>(rotated >> 1 | rotated << 15);
    std::memcpy(values + 2 * i, &value, sizeof(value));
  }
}

TIERCEL_VECTOR_CLONES void split4(const std::byte* __restrict values, std::size_t count, std::byte* __restrict first,
                                  std::byte* __restrict second, std::byte* __restrict third,
                                  std::byte* __restrict fourth) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = load<std::uint32_t>(values + 4 * i);
    const std::uint32_t rotated = value << 1 | value >> 31;
    first[i] = static_cast<std::byte>(rotated >> 24);
    second[i] = static_cast<std::byte>(rotated >> 16);
    third[i] = static_cast<std::byte>(rotated >> 8);
    fourth[i] = static_cast<std::byte>(rotated);
  }
}

TIERCEL_VECTOR_CLONES void join4(const std::byte* __restrict first, const std::byte* __restrict second,
                                 const std::byte* __restrict third, const std::byte* __restrict fourth,
                                 std::size_t count, std::byte* __restrict values) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t rotated = static_cast<std::uint32_t>(first[i]) << 24 |
                                  static_cast<std::uint32_t>(second[i]) << 16 |
                                  static_cast<std::uint32_t>(third[i]) << 8 | static_cast<std::uint32_t>(fourth[i]);
    const std::uint32_t value = rotated >> 1 | rotated << 31;
    std::memcpy(values + 4 * i, &value, sizeof(value));
  }
}

}  // namespace

void split_planes(std::span<const std::byte> values, std::size_t value_bytes, std::byte* planes) {
  assert(value_bytes == 1 || value_bytes == 2 || value_bytes == 4);
  const std::size_t count = values.size() / value_bytes;
  if (value_bytes == 1) {
    std::memcpy(planes, values.data(), count);
  } else if (value_bytes == 2) {
    split2(values.data(), count, planes, planes + count);
  } else {
    split4(values.data(), count, planes, planes + count, planes + 2 * count, planes + 3 * count);
  }
}

void join_planes(const std::byte* const* planes, std::size_t value_bytes, std::span<std::byte> values) {
  assert(value_bytes == 1 || value_bytes == 2 || value_bytes == 4);
  const std::size_t count = values.size() / value_bytes;
  if (value_bytes == 1) {
    std::memcpy(values.data(), planes[0], count);
  } else if (value_bytes == 2) {
    join2(planes[0], planes[1], count, values.data());
  } else {
    join4(planes[0], planes[1], planes[2], planes[3], count, values.data());
  }
}

}  // namespace tiercel
