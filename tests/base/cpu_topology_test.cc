#include "base/cpu_topology.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/cpu_affinity.h"
#include "tests/base/temporary_directory.h"

namespace tiercel {
namespace {

// Two nodes of two cores, each of which the system counts twice: 0 and 4 are one core, and so on.
TEST(CpuTopology, WhatIsNearStaysTogether) {
  TemporaryDirectory system;
  std::vector<std::uint32_t> cpus;
  for (std::uint32_t cpu = 0; cpu < 8; ++cpu) {
    const std::filesystem::path directory = system / ("cpu/cpu" + std::to_string(cpu));
    const std::uint32_t node = cpu % 2;
    std::filesystem::create_directories(directory / "topology");
    std::filesystem::create_directories(directory / ("node" + std::to_string(node)));
    std::filesystem::create_directories(directory / "node_of_something_else");
    std::ofstream(directory / "topology/physical_package_id") << node << "\n";
    std::ofstream(directory / "topology/core_id") << cpu % 4 / 2 << "\n";
    cpus.push_back(cpu);
  }
  const auto cores = locate_cores(cpus, system.path());
  using Parts = std::vector<std::vector<std::uint32_t>>;
  EXPECT_EQ(divide_cores(cores, 1), (Parts{{0, 4, 2, 6, 1, 5, 3, 7}}));
  EXPECT_EQ(divide_cores(cores, 2), (Parts{{0, 4, 2, 6}, {1, 5, 3, 7}}));
  EXPECT_EQ(divide_cores(cores, 4), (Parts{{0, 4}, {2, 6}, {1, 5}, {3, 7}}));
  EXPECT_EQ(divide_cores(cores, 3), (Parts{{0, 4}, {2, 6, 1}, {5, 3, 7}}));
}

TEST(CpuTopology, FewCoresAreSharedByMany) {
  using Parts = std::vector<std::vector<std::uint32_t>>;
  EXPECT_EQ(divide_cores({{.cpu = 3}, {.cpu = 9}}, 4), (Parts{{3}, {3}, {9}, {9}}));
}

TEST(CpuTopology, WithoutAListItIsTheCallersCores) {
  const auto cores = locate_cores({}, "/nowhere");
  EXPECT_EQ(cores.size(), usable_cores());
  for (const CoreLocation& core : cores) EXPECT_EQ(core.node + core.package + core.core, 0u);
}

}  // namespace
}  // namespace tiercel
