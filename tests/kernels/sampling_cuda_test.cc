// Sampling on the emulated device draws the tokens that Sampler draws, with their log-probabilities.
#include "kernels/sampling_cuda.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "engine/sampler.h"
#include "tests/cuemu/device.h"
#include "tests/cuemu/device_memory.h"

namespace tiercel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The random number of a seed's first draw: engine/sampler.h says how it is made.
std::uint64_t first_draw(std::uint64_t seed) {
  const auto mix = [](std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  };
  return mix(mix(seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u);
}

// Rows of logits, each with options of its own, drawn at once and one by one.
void check(const std::vector<std::vector<float>>& logits, const std::vector<SamplingOptions>& options) {
  const std::size_t rows = logits.size(), vocabulary = logits[0].size(), stride = vocabulary + 3;
  std::vector<float> all(rows * stride, 1e9f);
  std::vector<kernels::SamplingRow> device_rows;
  for (std::size_t r = 0; r < rows; ++r) {
    std::copy(logits[r].begin(), logits[r].end(), all.begin() + static_cast<std::ptrdiff_t>(r * stride));
    const SamplingOptions& o = options[r];
    device_rows.push_back({o.temperature, o.top_p, o.min_p, o.top_k, first_draw(o.seed)});
  }
  const DeviceMemory<float> device_logits(all);
  const DeviceMemory<kernels::SamplingRow> device_options(device_rows);
  const DeviceMemory<kernels::DrawnToken> drawn(std::vector<kernels::DrawnToken>(rows, {-7, 7}));
  ASSERT_EQ(kernels::cuda::sample({device_logits.data(), stride, vocabulary, rows, device_options.data(), drawn.data()},
                                  nullptr),
            cudaSuccess);
  const auto got = drawn.read();
  for (std::size_t r = 0; r < rows; ++r) {
    std::vector<float> scratch = logits[r];
    Sampler sampler(options[r], vocabulary);
    ASSERT_EQ(got[r].token, sampler.sample(scratch))
        << "row " << r << " of " << vocabulary << " tokens: temperature " << options[r].temperature << " top_k "
        << options[r].top_k << " top_p " << options[r].top_p << " min_p " << options[r].min_p;
    const float logprob = kernels::logprob_of(logits[r], got[r].token);
    if (std::isinf(logprob)) {
      ASSERT_EQ(got[r].logprob, logprob);
    } else {
      ASSERT_NEAR(got[r].logprob, logprob, 1e-6 * std::max(1.0f, std::abs(logprob))) << "row " << r;
    }
  }
}

TEST(CudaSampling, DrawsTheSamplersTokens) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  const int rounds = 3, rows = 4;
#else
  const int rounds = 20, rows = 12;
#endif
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (int round = 0; round < rounds; ++round) {
    cuemu::reset_device({.seed = random()});
    const std::size_t vocabulary = std::vector<std::size_t>{1, 7, 500, 1000, 4099}[random() % 5];
    std::vector<std::vector<float>> logits;
    std::vector<SamplingOptions> options;
    for (int r = 0; r < rows; ++r) {
      logits.emplace_back(vocabulary);
      const bool coarse = random() % 3 == 0;  // with many equal ones
      for (float& logit : logits.back()) logit = coarse ? std::round(normal(random)) : 3 * normal(random);
      SamplingOptions o;
      o.temperature = std::vector<float>{0, 0.3f, 1, 1.7f}[random() % 4];
      if (random() % 2 == 0) o.top_k = 1 + static_cast<std::uint32_t>(random() % (vocabulary + 2));
      if (random() % 2 == 0) o.top_p = std::vector<float>{0.01f, 0.5f, 0.9f, 0.999f}[random() % 4];
      if (random() % 3 == 0) o.min_p = 0.1f;
      o.seed = random();
      options.push_back(o);
    }
    check(logits, options);
  }
}

TEST(CudaSampling, UnusualLogits) {
  cuemu::reset_device({.seed = 3});
  const float nan = std::numeric_limits<float>::quiet_NaN(), largest = std::numeric_limits<float>::max();
  std::vector<std::vector<float>> logits = {{nan, 1, -kInfinity, 1, nan, 0.5f},
                                            {-kInfinity, -kInfinity, -kInfinity, nan, nan, -kInfinity},
                                            {kInfinity, 1, kInfinity, nan, -kInfinity, kInfinity},
                                            {-0.0f, 0.0f, -0.0f, 0.0f, -1, -1},
                                            {largest, -largest, largest, 0, largest, -largest},
                                            {-50, -60, -50, -51, -49.5f, -1000}};
  for (const float temperature : {0.0f, 1e-38f, 0.7f, 3e38f}) {
    for (const std::uint32_t top_k : {0u, 2u, 5u}) {
      for (const float top_p : {1.0f, 0.6f}) {
        std::vector<SamplingOptions> options(logits.size());
        for (std::size_t r = 0; r < options.size(); ++r) {
          options[r].temperature = temperature;
          options[r].top_k = top_k;
          options[r].top_p = top_p;
          options[r].seed = 11 + r;
        }
        check(logits, options);
      }
    }
  }
}

}  // namespace
}  // namespace tiercel
