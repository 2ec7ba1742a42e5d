// Where a model is computed, by the name that users give it.
#pragma once

#include <optional>
#include <string_view>

namespace tiercel {

struct DeviceName {
  bool is_gpu = false;
  int number = 0;  // of the GPU, as the CUDA runtime counts them
};

// "cpu", "cuda" (the first GPU) or "cuda:N". Empty: none of these.
std::optional<DeviceName> parse_device(std::string_view name);

}  // namespace tiercel
