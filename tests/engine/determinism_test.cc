// Deterministic mode with the real model: the tokens of a request, and every bit of its log-probabilities, depend on
// nothing but the request: not on hits, not on batch neighbours, not on timing, not on a preemption.
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

// Of each type of KV.
constexpr int kMixes = 200;

// Prompts of 5 to 150 tokens that share beginnings of every length.
std::vector<Request> make_requests(Engine& engine, std::mt19937& random) {
  std::string text = "The harbour at dawn.";
  for (int i = 0; i < 20; ++i)
    text += " Boat " + std::to_string(i * 37 % 100) + " brought " + std::to_string(i) + " crates.";
  const std::vector<TokenId> stem = engine.tokenize(text).value();
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    const auto first = stem.begin() + 10 * (i % 4);
    std::vector<TokenId> prompt(first, first + 5 + random() % 130);
    for (int tail = static_cast<int>(random() % 12); tail > 0; --tail) prompt.push_back(stem[random() % stem.size()]);
    Request request{.tokens = std::move(prompt), .max_tokens = static_cast<std::uint32_t>(1 + random() % 9)};
    request.ignore_end_of_text = true;
    if (i % 3 == 0) request.sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = random()};
    requests.push_back(std::move(request));
  }
  return requests;
}

class Determinism : public testing::TestWithParam<KvDType> {};

TEST_P(Determinism, TwoHundredMixesGiveTheSameBits) {
  REQUIRE_TEST_MODEL();
  std::mt19937 random(20);
  EngineOptions options{
      .model = test_model_path(), .cache = {.kv_dtype = GetParam()}, .deterministic = true, .max_batch_sequences = 6};
  std::vector<Response> alone;
  std::vector<Request> requests;
  {
    EngineOptions cold = options;
    cold.cache.prefix_reuse = false;
    CheckedEngine engine = Engine::open(cold).value();
    requests = make_requests(engine, random);
    for (const Request& request : requests) alone.push_back(engine.process_request(request).get().value());
  }
  // 14 blocks: they evict each other.
  options.cache.capacity_bytes = GetParam() == KvDType::Int8 ? 14u * 380'160 : 10u << 20;
  CheckedEngine engine = Engine::open(options).value();
  std::uint32_t reused = 0, preemptions = 0;
  for (int mix = 0; mix < kMixes; ++mix) {
    std::vector<std::pair<std::size_t, ResponseFuture>> futures;
    for (std::size_t count = 1 + random() % 8; count > 0; --count) {
      const std::size_t which = random() % requests.size();
      Request request = requests[which];
      request.priority = static_cast<int>(random() % 3);
      futures.emplace_back(which, engine.process_request(std::move(request)));
      if (random() % 3 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 40));
    }
    for (auto& [which, future] : futures) {
      const Response answer = future.get().value();
      ASSERT_EQ(answer.tokens, alone[which].tokens) << "mix " << mix << ", request " << which;
      ASSERT_EQ(answer.logprobs, alone[which].logprobs) << "mix " << mix << ", request " << which;
      reused += answer.reused_tokens;
      preemptions += answer.preemptions;
    }
  }
  EXPECT_GT(reused, 5000u);
  EXPECT_GT(preemptions, 0u);
  EXPECT_GT(engine.get_stats().evicted_blocks, 100u);
}

INSTANTIATE_TEST_SUITE_P(KvDTypes, Determinism, testing::Values(KvDType::Auto, KvDType::Int8),
                         [](const auto& instance) { return instance.param == KvDType::Int8 ? "Int8" : "Auto"; });

}  // namespace
}  // namespace tiercel
