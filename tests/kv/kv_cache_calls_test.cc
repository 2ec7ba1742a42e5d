#include "tests/kv/kv_cache_calls.h"

#include <cstdio>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

// Random bytes are poor at finding what depends on one of them, and good at long histories; the fuzzer is the other
// way.
TEST(KvCacheCalls, AnyCallsInAnyOrderLeaveNothingBehind) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  constexpr unsigned kHistories = 2000;
#else
  constexpr unsigned kHistories = 20'000;
#endif
  for (unsigned seed = 0; seed < kHistories; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> bytes(50 + random() % 1000);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    if (seed % 1000 == 0)
      std::printf("histories %u to %u\n", seed, seed + 999);  // an abort prints no message of gtest's
    run_calls(bytes.data(), bytes.size());
  }
}

}  // namespace
}  // namespace tiercel
