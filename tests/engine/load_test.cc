// The engine with the real model under load: two thousand requests (or TIERCEL_LOAD_REQUESTS), two hundred at a time,
// cancelled, timed out and of every priority at random. Every future is answered, every block comes back, memory stays
// flat.
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tiercel/engine.h"
#include "tiercel/retry.h"

namespace tiercel {
namespace {

constexpr std::size_t kTogether = 200;
// Of more than a block of KV, so that requests find it in the cache.
constexpr const char* kSystemPrompt =
    "You are the assistant of a library. You answer briefly and politely, in plain words, and name the shelf where a "
    "reader finds more. What you do not know you say that you do not know.";

TEST(Load, ThousandsOfRequestsTwoHundredAtATime) {
  REQUIRE_TEST_MODEL();
  const char* const given = std::getenv("TIERCEL_LOAD_REQUESTS");
  const std::size_t requests = given ? std::strtoull(given, nullptr, 10) : 2000;
  CheckedEngine engine =
      Engine::open({.model = test_model_path(), .cache = {.capacity_bytes = 64u << 20}, .max_queued_requests = 150})
          .value();
  // The first request is as long as there are blocks: an arena costs memory when its blocks are first written, which
  // would else be whenever most requests happen to run at once.
  const std::size_t kv_tokens = engine.get_stats().memory.kv_capacity_bytes / engine.info().kv_token_bytes;
  const Request longest{.tokens = std::vector<TokenId>(kv_tokens - 64, 11), .max_tokens = 1, .endpoint = "awaited"};
  ASSERT_TRUE(engine.process_request(longest).get().ok());
  engine.invalidate_all();
  std::atomic<std::size_t> next = 1, outcomes[10] = {};
  outcomes[static_cast<std::size_t>(StatusCode::Ok)] = 1;
  std::atomic<std::size_t> resident_early = 0, resident_late = 0;
  std::vector<std::thread> clients;
  for (std::size_t client = 0; client < kTogether; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random(static_cast<unsigned>(client));
      while (true) {
        const std::size_t i = next++;
        if (i >= requests) return;
        // Measured before the request is drawn: one that is dropped has no answer to measure after.
        if (i == requests * 2 / 5) resident_early = engine.get_stats().memory.resident_bytes;
        if (i == requests - 1) resident_late = engine.get_stats().memory.resident_bytes;
        // A shared system prompt, and questions of which some were asked before.
        Request request{.priority = static_cast<int>(random() % 4) - 1,
                        .messages = {{.role = "system", .content = kSystemPrompt},
                                     {.role = "user", .content = "Query " + std::to_string(random() % 1500)}},
                        .max_tokens = static_cast<std::uint32_t>(1 + random() % 6)};
        request.cache_salt = random() % 10 == 0 ? "another tenant" : "";
        if (random() % 20 == 0) request.timeout_ms = 1 + random() % 2000;
        if (random() % 50 == 0) {
          request.sampling.temperature = 1;
          request.n = 2 + random() % 3;
        }
        const bool drop = random() % 40 == 0, cancel = random() % 15 == 0;
        request.cancel_when_dropped = drop;
        request.endpoint = drop ? "dropped" : "awaited";
        const std::chrono::milliseconds patience(random() % 1500);
        if (drop) {
          engine.process_request(std::move(request)).wait_for(patience);
          continue;
        }
        const auto answer = [&](std::uint32_t attempt) -> Result<Response> {
          request.attempt = attempt;
          auto future = engine.process_request(request);
          if (cancel && !future.wait_for(patience)) future.cancel();
          return future.get();
        };
        const RetryOptions often{.attempts = 1000, .first_delay_ms = 20, .most_delay_ms = 200, .seed = i + 1};
        const auto response = retry(often, answer);
        ++outcomes[static_cast<std::size_t>(response.status().code())];
      }
    });
  }
  for (std::thread& client : clients) client.join();
  const auto count = [&](StatusCode code) { return outcomes[static_cast<std::size_t>(code)].load(); };
  // What was dropped ends, too.
  while (engine.get_stats().queued + engine.get_stats().running > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(count(StatusCode::Ok), requests / 2);
  EXPECT_GT(count(StatusCode::Cancelled), 0u);
  EXPECT_GT(count(StatusCode::DeadlineExceeded), 0u);
  EXPECT_EQ(count(StatusCode::Internal) + count(StatusCode::ResourceExhausted) + count(StatusCode::InvalidArgument) +
                count(StatusCode::Corruption),
            0u);
  ASSERT_GT(resident_early, 0u);
  ASSERT_GT(resident_late, 0u);
  const EngineStats stats = engine.get_stats();
  EXPECT_EQ(stats.submitted, requests + stats.retries);
  EXPECT_EQ(stats.submitted, stats.completed + stats.failed + stats.timed_out + stats.cancelled + stats.rejected);
  EXPECT_EQ(stats.failed, 0u);
  EXPECT_GT(stats.reused_tokens, stats.prompt_tokens / 4);
  // What the statistics say is what the callers were told.
  ASSERT_EQ(stats.endpoints.size(), 2u);
  const EndpointStats& awaited = stats.endpoints[stats.endpoints[0].endpoint == "awaited" ? 0 : 1];
  EXPECT_EQ(stats.endpoints[0].submitted + stats.endpoints[1].submitted, stats.submitted);
  EXPECT_EQ(awaited.completed, count(StatusCode::Ok));
  EXPECT_EQ(awaited.timed_out, count(StatusCode::DeadlineExceeded));
  EXPECT_EQ(awaited.cancelled, count(StatusCode::Cancelled));
  EXPECT_EQ(awaited.rejected, count(StatusCode::Rejected) + awaited.retries);
  EXPECT_EQ(stats.memory.kv_leased_bytes, 0u);
  EXPECT_LT(static_cast<double>(resident_late), 1.05 * static_cast<double>(resident_early) + (16 << 20));
}

}  // namespace
}  // namespace tiercel
