// Engines whose ranks are on emulated GPUs: one after the other the same answers, hits in every tier, losses, and what
// cannot be.
#include "tests/device/gpu_engine.h"

namespace tiercel {
namespace {

using Answers = std::vector<Response>;

Tokens tokens_of(std::string_view text) { return {text.begin(), text.end()}; }

// Prompts of a few blocks of 8 tokens each; the second begins as the first does, by a block and a part of one.
std::vector<Request> some_requests(std::uint32_t max_tokens = 3) {
  std::vector<Request> requests;
  for (const char* text : {"The lighthouse kept", "The lighthous at n", "0123456789abcdef01"}) {
    requests.push_back({.tokens = tokens_of(text), .max_tokens = max_tokens, .ignore_end_of_text = true});
  }
  return requests;
}

Answers answers_of(Engine& engine, const std::vector<Request>& requests) {
  Answers answers;
  for (const Request& request : requests) {
    auto answer = engine.process_request(request).get();
    EXPECT_TRUE(answer.ok()) << answer.status().to_string();
    if (answer.ok()) answers.push_back(*std::move(answer));
  }
  return answers;
}

void expect_same(const Answers& some, const Answers& others, bool bits) {
  ASSERT_EQ(some.size(), others.size());
  for (std::size_t i = 0; i < some.size(); ++i) {
    EXPECT_EQ(some[i].tokens, others[i].tokens) << i;
    if (bits) {
      EXPECT_EQ(some[i].logprobs, others[i].logprobs) << i;
    }
  }
}

std::size_t found_in(const Answers& answers, std::string_view tier) {
  std::size_t found = 0;
  for (const Response& answer : answers) {
    for (const auto& [name, tokens] : answer.reused_by_tier) found += name == tier ? tokens : 0;
  }
  return found;
}

// From an engine of so many ranks.
Answers answers_of_ranks(std::uint32_t size, const EngineOptions& options, const std::vector<Request>& requests) {
  GpuRanks ranks(options, size);
  Answers answers;
  {
    auto opened = Engine::open(ranks.first());
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    if (!opened.ok()) return {};
    CheckedEngine engine = *std::move(opened);
    answers = answers_of(engine, requests);
  }
  ranks.expect_good_ends();
  return answers;
}

class EngineGpuRanks : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, EngineGpuRanks, testing::Range(0, kSanitized ? 1 : 3));

// Nothing but the order of sums differs. Two ranks have a KV head each; four share them.
TEST_P(EngineGpuRanks, GiveTheGreedyTokensOfOne) {
  const auto requests = some_requests();
  Answers alone;
  {
    CheckedEngine engine = Engine::open(gpu_options()).value();
    alone = answers_of(engine, requests);
  }
  for (const std::uint32_t size : {2u, 4u}) {
    GpuRanks ranks(gpu_options(), size);
    {
      auto opened = Engine::open(ranks.first());
      ASSERT_TRUE(opened.ok()) << opened.status().to_string();
      CheckedEngine engine = *std::move(opened);
      EXPECT_EQ(engine.info().kv_heads, 2u);
      EXPECT_NE(engine.info().device, "cpu");
      const Answers shared = answers_of(engine, requests);
      expect_same(shared, alone, false);
      // A block, and a part of one that each rank copies.
      EXPECT_EQ(found_in(shared, "hot"), 13u);
      // Again, from the arenas, and all at once.
      const auto together = engine.process_batch(requests);
      for (std::size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(together[i].ok()) << together[i].status().to_string();
        EXPECT_EQ(together[i]->tokens, alone[i].tokens) << i;
      }
    }
    ranks.expect_good_ends();
  }
}

// Sums of two ranks are the same in any order, so that not a bit may differ.
TEST_P(EngineGpuRanks, AHitIsTheSameBits) {
  auto options = gpu_options(Compute::Fast);
  options.deterministic = true;
  const auto requests = some_requests();
  auto cold = options;
  cold.cache.prefix_reuse = false;
  const Answers computed = answers_of_ranks(2, cold, requests);
  EXPECT_EQ(found_in(computed, "hot"), 0u);
  const Answers found = answers_of_ranks(2, options, requests);
  EXPECT_EQ(found_in(found, "hot"), 13u);
  expect_same(found, computed, true);
}

}  // namespace
}  // namespace tiercel
