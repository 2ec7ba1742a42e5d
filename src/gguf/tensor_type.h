// What tiercel knows about the element types of the GGUF format beyond those it computes with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "gguf/gguf_file.h"

namespace tiercel {

// nullopt where the number is none of the supported types.
std::optional<TensorType> supported_tensor_type(std::uint32_t number);
// "Q4_K (12)", or "number 4711" for a type that no published version of the format has.
std::string describe_tensor_type(std::uint32_t number);
// "F32, F16, BF16, Q8_0, Q4_0, Q4_1"
std::string supported_tensor_types();

}  // namespace tiercel
