// Many callers at once around the fake model, who lose patience in every way there is. For ThreadSanitizer above all.
#include <atomic>
#include <future>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "kv/kv_cache_state.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"

namespace tiercel {
namespace {

constexpr std::size_t kRequests = 5000, kTogether = 200;

TEST(StepLoopLoad, FiveThousandRequestsTwoHundredAtATimeEndOnceEach) {
  const Tokenizer tokenizer = make_byte_tokenizer();
  const std::optional<ChatTemplate> chat_template;
  FakeModel model(24);
  KvCache cache = KvCache::open({.capacity_bytes = 120 * FakeModel::layout().block_bytes(),
                                 .tenant_quota_bytes = 80 * FakeModel::layout().block_bytes()},
                                FakeModel::layout(), model.fingerprint())
                      .value();
  StatsRecorder stats;
  StepLoop loop({.limits = {.max_sequences = 16, .max_tokens = 64, .max_logit_rows = 24, .aging_s = 0.05},
                 .max_queued_requests = 1000},
                model, cache, tokenizer, stats);
  std::vector<std::atomic<int>> answers(kRequests);
  std::atomic<std::size_t> next = 0, outcomes[16] = {};
  const auto serve = [&](std::size_t client) {
    std::mt19937 random(static_cast<unsigned>(client));
    for (std::size_t i = next++; i < kRequests; i = next++) {
      Request request{.priority = static_cast<int>(random() % 4),
                      .max_tokens = static_cast<std::uint32_t>(1 + random() % 20)};
      request.tokens.assign(1 + random() % 60, static_cast<TokenId>('a' + random() % 3));
      request.tokens.back() = static_cast<TokenId>(random() % 256);
      request.cache_salt = random() % 3 == 0 ? "another tenant" : "";
      if (random() % 10 == 0) request.timeout_ms = 1 + random() % 100;
      const bool drop = random() % 20 == 0, cancel = random() % 8 == 0;
      request.cancel_when_dropped = drop;
      const auto arrival = Sequence::Clock::now();
      auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096});
      ASSERT_TRUE(prompt.ok());
      auto choices = make_sequences(std::move(request), std::move(*prompt), 4096, arrival);
      ResponseFuture future(choices.front()->promise);
      loop.submit(std::move(choices));
      const std::chrono::microseconds patience(random() % 20'000);
      if (drop) {
        future.wait_for(std::chrono::milliseconds(patience.count() / 1000));
        answers[i] = 1;  // nobody is there to count it
      } else if (random() % 2 == 0) {
        const auto told = std::make_shared<std::promise<void>>();
        future.then([&, i, told](const Result<Response>& response) {
          ++outcomes[static_cast<std::size_t>(response.status().code())];
          if (++answers[i] == 1) told->set_value();
        });
        told->get_future().wait();
      } else {
        if (cancel && !future.wait_for(std::chrono::milliseconds(patience.count() / 1000))) future.cancel();
        ++outcomes[static_cast<std::size_t>(future.get().status().code())];
        ++answers[i];
      }
    }
  };
  std::vector<std::thread> clients;
  for (std::size_t client = 0; client < kTogether; ++client) clients.emplace_back(serve, client);
  for (std::thread& client : clients) client.join();
  while (stats.snapshot().queued + stats.snapshot().running > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // what was dropped
  }
  loop.close();
  for (const std::atomic<int>& count : answers) EXPECT_EQ(count, 1);
  const EngineStats s = stats.snapshot();
  expect_identities(s);
  EXPECT_EQ(s.submitted, kRequests);
  EXPECT_EQ(s.failed, 0u);
  EXPECT_GE(s.completed, outcomes[static_cast<std::size_t>(StatusCode::Ok)].load());
  EXPECT_GT(s.completed, kRequests / 2) << s.rejected << " rejected";
  EXPECT_GT(s.cancelled, 0u);
  EXPECT_GT(s.timed_out, 0u);
  const KvCacheStats c = cache.stats();
  EXPECT_EQ(c.leased_blocks + c.promised_blocks, 0u);
  EXPECT_EQ(KvCacheState::of(cache).audit(), "");
}

}  // namespace
}  // namespace tiercel
