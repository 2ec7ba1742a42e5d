// Trying again, later and not all at once, what was refused because too much was going on.
//
//   auto answer = tiercel::retry({.attempts = 5}, [&](std::uint32_t attempt) {
//     request.attempt = attempt;  // for the statistics
//     return engine.process_request(request).get();
//   });
//
// Delays grow exponentially with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015),
// above the time that the refusal itself names (Status::retry_after_ms).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <thread>
#include <type_traits>

#include "tiercel/status.h"

namespace tiercel {

struct RetryOptions {
  std::uint32_t attempts = 5;           // in all. At least 1
  std::uint64_t first_delay_ms = 20;    // the longest one before the second attempt; it doubles for each further one
  std::uint64_t most_delay_ms = 5'000;  // of one attempt; what a refusal names may be more
  std::uint64_t seed = 0;               // of the jitter. 0: another one each time
};

// The delays of one call. Not thread-safe.
class RetryPolicy {
 public:
  explicit RetryPolicy(const RetryOptions& options = {});

  // After a failed attempt: how long to wait before the next one. Empty where there is to be none: the attempts are
  // used up, or another one cannot help (only Rejected and Unavailable may pass by themselves).
  std::optional<std::chrono::milliseconds> next_delay(const Status& status);

 private:
  RetryOptions options_;
  std::uint32_t failed_ = 0;
  std::mt19937_64 random_;
};

// Calls `call`, which returns a Status or a Result, until it succeeds or there is no sense in it any more; returns its
// last answer. `call` takes nothing, or the number of calls before. Sleeps in between on the calling thread.
template <class Call>
auto retry(const RetryOptions& options, Call&& call) {
  const auto call_at = [&]([[maybe_unused]] std::uint32_t attempt) {
    if constexpr (std::is_invocable_v<Call&, std::uint32_t>) {
      return call(attempt);
    } else {
      return call();
    }
  };
  const auto status_of = [](const auto& answer) -> Status {
    if constexpr (requires { answer.status(); }) {
      return answer.status();
    } else {
      return answer;
    }
  };
  RetryPolicy policy(options);
  for (std::uint32_t attempt = 0;; ++attempt) {
    auto answer = call_at(attempt);
    const auto delay = answer.ok() ? std::nullopt : policy.next_delay(status_of(answer));
    if (!delay) return answer;
    std::this_thread::sleep_for(*delay);
  }
}

}  // namespace tiercel
