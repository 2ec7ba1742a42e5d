#include "tiercel/retry.h"

#include <algorithm>
#include <random>

namespace tiercel {
namespace {

std::uint64_t next_random(std::uint64_t& state) {  // SplitMix64
  std::uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

RetryPolicy::RetryPolicy(const RetryOptions& options)
    : options_(options), random_(options.seed != 0 ? options.seed : std::random_device()()) {}

std::optional<std::chrono::milliseconds> RetryPolicy::next_delay(const Status& status) {
  const bool may_pass = status.code() == StatusCode::Rejected || status.code() == StatusCode::Unavailable;
  if (!may_pass || ++failed_ >= options_.attempts) return std::nullopt;
  std::uint64_t most_ms = options_.first_delay_ms;
  for (std::uint32_t i = 1; i < failed_ && most_ms < options_.most_delay_ms; ++i) most_ms *= 2;
  most_ms = std::min(most_ms, options_.most_delay_ms);
  const std::uint64_t jitter_ms = most_ms == UINT64_MAX ? next_random(random_) : next_random(random_) % (most_ms + 1);
  return std::chrono::milliseconds(status.retry_after_ms() + jitter_ms);
}

}  // namespace tiercel
