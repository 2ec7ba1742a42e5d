#include "base/device_name.h"

#include <charconv>

namespace tiercel {

std::optional<DeviceName> parse_device(std::string_view name) {
  constexpr std::string_view kGpu = "cuda", kNumbered = "cuda:";
  constexpr int kMostGpus = 1024;
  if (name == "cpu") return DeviceName{};
  if (name == kGpu) return DeviceName{.is_gpu = true};
  if (!name.starts_with(kNumbered)) return std::nullopt;
  const std::string_view digits = name.substr(kNumbered.size());
  DeviceName device{.is_gpu = true};
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), device.number);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  return whole && device.number >= 0 && device.number < kMostGpus ? std::optional(device) : std::nullopt;
}

}  // namespace tiercel
