#include "base/process_usage.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(ProcessUsage, TimeOfAThreadIsPartOfTheProcess) {
  const ProcessUsage usage;
  const double process_before_s = usage.stats().cpu_s;
  std::atomic<bool> go_on = true;
  std::thread worker([&] {
    while (go_on) {
    }
  });
  while (thread_cpu_s(worker.native_handle()) < 0.02) std::this_thread::yield();
  const double worker_s = thread_cpu_s(worker.native_handle());
  go_on = false;
  worker.join();
  EXPECT_GE(usage.stats().cpu_s - process_before_s, 0.5 * worker_s);
  EXPECT_GT(thread_cpu_s(), 0);
}

TEST(ProcessUsage, ResidentMemoryGrowsWithWhatIsWritten) {
  const ProcessUsage usage;
  const std::size_t before = usage.resident_bytes();
  EXPECT_GT(before, std::size_t{1} << 20);
  const std::vector<char> written(std::size_t{64} << 20, 'x');
  EXPECT_GT(usage.resident_bytes(), before + (std::size_t{48} << 20)) << written.back();
}

}  // namespace
}  // namespace tiercel
