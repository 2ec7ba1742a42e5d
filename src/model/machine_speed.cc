#include "model/machine_speed.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <vector>

namespace tiercel {
namespace {

constexpr int kRuns = 3;
constexpr std::uint64_t kRounds = 200'000;
constexpr std::size_t kWords = std::size_t{8} << 20;  // 64 MiB: more than caches hold

// Of the fastest of some runs.
template <class Run>
double fastest_s(const Run& run) {
  double best_s = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best_s = std::min(best_s, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best_s;
}

}  // namespace

MachineSpeed::MachineSpeed(ThreadTeam& team) {
  using kernels::Products;
  for (const auto products : {Products::F32, Products::Bf16, Products::Int16, Products::Int8}) {
    double& speed = products_s_[static_cast<std::size_t>(products)];
    speed = std::numeric_limits<double>::infinity();
    if (!kernels::has_products(products)) continue;
    std::atomic<std::uint64_t> done = 0;
    const double seconds = fastest_s([&] {
      done = 0;
      team.run(team.threads(),
               [&](std::size_t, std::size_t) { done += kernels::multiply_registers(products, kRounds); });
    });
    speed = static_cast<double>(done) / seconds;
  }
  const std::vector<std::uint64_t> memory(kWords, 1);
  std::atomic<std::uint64_t> sum = 0;
  const double seconds = fastest_s([&] {
    team.run_parts(kWords, kWords / 64, [&](std::size_t begin, std::size_t end) {
      std::uint64_t part = 0;
      for (std::size_t i = begin; i < end; ++i) part += memory[i];
      sum += part;
    });
  });
  read_bytes_s_ = static_cast<double>(kWords * sizeof(std::uint64_t)) / seconds;
}

}  // namespace tiercel
