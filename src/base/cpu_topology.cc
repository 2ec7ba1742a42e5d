#include "base/cpu_topology.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <tuple>

namespace tiercel {
namespace {

std::uint32_t number_in(const std::string& path) {
  std::uint32_t number = 0;
  std::ifstream(path) >> number;
  return number;
}

// cpuN has an entry nodeM.
std::uint32_t node_of(const std::string& cpu_directory) {
  constexpr std::string_view kNode = "node";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(cpu_directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kNode) || name.size() == kNode.size()) continue;
    const std::string digits = name.substr(kNode.size());
    if (digits.size() < 9 && std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; })) {
      return static_cast<std::uint32_t>(std::stoul(digits));
    }
  }
  return 0;
}

std::vector<std::uint32_t> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<std::uint32_t> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (std::uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

}  // namespace

std::vector<CoreLocation> locate_cores(std::span<const std::uint32_t> cpus, const std::string& system) {
  const std::vector<std::uint32_t> usable = cpus.empty() ? usable_cpus() : std::vector(cpus.begin(), cpus.end());
  std::vector<CoreLocation> cores;
  for (const std::uint32_t cpu : usable) {
    const std::string directory = system + "/cpu/cpu" + std::to_string(cpu);
    cores.push_back({.cpu = cpu,
                     .node = node_of(directory),
                     .package = number_in(directory + "/topology/physical_package_id"),
                     .core = number_in(directory + "/topology/core_id")});
  }
  return cores;
}

std::vector<std::vector<std::uint32_t>> divide_cores(std::vector<CoreLocation> cores, std::size_t parts) {
  std::ranges::sort(cores, {},
                    [](const CoreLocation& core) { return std::tuple(core.node, core.package, core.core, core.cpu); });
  std::vector<std::vector<std::uint32_t>> divided(parts);
  for (std::size_t i = 0; i < parts; ++i) {
    const std::size_t first = i * cores.size() / parts;
    const std::size_t end = std::max(first + 1, (i + 1) * cores.size() / parts);
    for (std::size_t core = first; core < end; ++core) divided[i].push_back(cores[core].cpu);
  }
  return divided;
}

}  // namespace tiercel
