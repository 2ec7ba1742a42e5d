#include "gguf/tensor_type.h"

#include <array>
#include <cassert>
#include <string_view>

#include <fmt/format.h>

namespace tiercel {
namespace {

struct TypeInfo {
  TensorType type;
  std::string_view name;
  std::size_t block_elements;
  std::size_t block_bytes;
};

// Q4_0: half scale, 16 bytes of nibbles. Q4_1: half scale, half minimum, nibbles. Q8_0: half scale, 32 signed bytes.
constexpr TypeInfo kSupported[] = {
    {TensorType::F32, "F32", 1, 4},     {TensorType::F16, "F16", 1, 2},     {TensorType::BF16, "BF16", 1, 2},
    {TensorType::Q8_0, "Q8_0", 32, 34}, {TensorType::Q4_0, "Q4_0", 32, 18}, {TensorType::Q4_1, "Q4_1", 32, 20},
};

// By number; those with an empty name were never published or have been withdrawn.
constexpr std::array<std::string_view, 42> kFormatNames = {
    "F32",   "F16",    "Q4_0",  "Q4_1", "",     "",        "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",    "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16",  "",       "",
    "",      "TQ1_0",  "TQ2_0", "",     "",     "",        "MXFP4",  "NVFP4",   "Q1_0"};

const TypeInfo& info_of(TensorType type) {
  for (const TypeInfo& info : kSupported) {
    if (info.type == type) return info;
  }
  assert(false && "not a TensorType");
  return kSupported[0];
}

}  // namespace

std::string_view to_string(TensorType type) { return info_of(type).name; }
std::size_t block_elements(TensorType type) { return info_of(type).block_elements; }
std::size_t block_bytes(TensorType type) { return info_of(type).block_bytes; }

std::optional<TensorType> supported_tensor_type(std::uint32_t number) {
  for (const TypeInfo& info : kSupported) {
    if (static_cast<std::uint32_t>(info.type) == number) return info.type;
  }
  return std::nullopt;
}

std::string describe_tensor_type(std::uint32_t number) {
  const std::string_view name = number < kFormatNames.size() ? kFormatNames[number] : std::string_view();
  return name.empty() ? fmt::format("number {}", number) : fmt::format("{} ({})", name, number);
}

std::string supported_tensor_types() {
  std::string list;
  for (const TypeInfo& info : kSupported) {
    if (!list.empty()) list += ", ";
    list += info.name;
  }
  return list;
}

}  // namespace tiercel
