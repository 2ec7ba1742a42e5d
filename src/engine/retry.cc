#include "tiercel/retry.h"

#include <algorithm>

namespace tiercel {

RetryPolicy::RetryPolicy(const RetryOptions& options)
    : options_(options), random_(options.seed != 0 ? options.seed : std::random_device()()) {}

std::optional<std::chrono::milliseconds> RetryPolicy::next_delay(const Status& status) {
  const bool may_pass = status.code() == StatusCode::Rejected || status.code() == StatusCode::Unavailable;
  if (!may_pass || ++failed_ >= options_.attempts) return std::nullopt;
  std::uint64_t most_ms = options_.first_delay_ms;
  for (std::uint32_t i = 1; i < failed_ && most_ms < options_.most_delay_ms; ++i) most_ms *= 2;
  most_ms = std::min(most_ms, options_.most_delay_ms);
  std::uniform_int_distribution<std::uint64_t> jitter_ms(0, most_ms);
  return std::chrono::milliseconds(status.retry_after_ms() + jitter_ms(random_));
}

}  // namespace tiercel
