// Which cores are near each other, to divide them among parts of a program that share little.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tiercel {

struct CoreLocation {
  std::uint32_t cpu = 0;  // the system's number
  // 0 where the system does not say. Two cpus of one core share its units.
  std::uint32_t node = 0, package = 0, core = 0;
};

// Of `cpus`, or, where that is empty, of those that the calling thread may run on. `system`: where the system tells it.
std::vector<CoreLocation> locate_cores(std::span<const std::uint32_t> cpus,
                                       const std::string& system = "/sys/devices/system");

// Even parts, those of a node, package and core together as far as that goes; with fewer cores than parts, some parts
// have the same one. At least one core.
std::vector<std::vector<std::uint32_t>> divide_cores(std::vector<CoreLocation> cores, std::size_t parts);

}  // namespace tiercel
