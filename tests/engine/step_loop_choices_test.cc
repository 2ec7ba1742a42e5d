// Several answers to one prompt.
#include <algorithm>
#include <future>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/step_loop_fixture.h"

namespace tiercel {
namespace {

TEST(StepLoop, MoreChoicesThanTheQueueHoldsCanNeverBeDrawn) {
  Harness harness({.max_queued_requests = 3});
  Request request{.text = "several", .max_tokens = 2, .best_of = 4};
  request.sampling.temperature = 1;
  const auto refused = harness.submit(request).get();
  EXPECT_EQ(refused.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(refused.status().message().find("max_queued_requests"), std::string::npos) << refused.status().message();
  request.best_of = 3;
  EXPECT_TRUE(harness.submit(request).get().ok());
  harness.check_accounts();
}

TEST(StepLoop, ChoicesShareThePromptAndDifferBySeed) {
  for (const std::size_t blocks : {200u, 12u}) {  // 12: no room to fork; they go one after the other
    Harness harness({.blocks = blocks, .max_sequences = 6, .by_hand = true});
    Request request{.tokens = std::vector<TokenId>(50, 'x'), .max_tokens = 20};
    request.sampling.temperature = 4;
    request.ignore_end_of_text = true;
    const auto answer_of = [&](const Request& asked) {
      auto future = harness.submit(asked);
      for (int step = 0; step < 500 && !harness.loop.idle(); ++step) harness.loop.run_one();
      return future.get().value();
    };
    const Response alone = answer_of(request);
    EXPECT_TRUE(alone.choices.empty());
    std::vector<std::vector<TokenId>> streamed(5);
    request.n = 5;
    request.on_token = [&](const TokenEvent& event) { streamed[event.choice].push_back(event.token); };
    request.cache_salt = "new";
    const Response several = answer_of(request);
    ASSERT_EQ(several.choices.size(), 5u);
    EXPECT_EQ(several.tokens, alone.tokens) << "the first choice is what one alone would have been";
    EXPECT_EQ(several.text, alone.text);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(several.choices[i].tokens, streamed[i]);
      EXPECT_EQ(several.choices[i].tokens.size(), 20u);
      for (std::size_t j = 0; j < i; ++j) EXPECT_NE(several.choices[i].tokens, several.choices[j].tokens);
    }
    EXPECT_EQ(harness.stats.snapshot().prompt_tokens, 100u) << "computed once for all choices";
    EXPECT_EQ(harness.stats.snapshot().completed, 2u) << "one request, however many choices";
    request.n = 2;
    request.best_of = 5;
    const Response best = answer_of(request);
    ASSERT_EQ(best.choices.size(), 2u);
    const auto mean = [](const Choice& choice) {
      double sum = 0;
      for (const float logprob : choice.logprobs) sum += static_cast<double>(logprob);
      return sum / static_cast<double>(choice.logprobs.size());
    };
    std::vector<double> all;
    for (const Choice& choice : several.choices) all.push_back(mean(choice));
    std::ranges::sort(all, std::greater());
    EXPECT_NEAR(mean(best.choices[0]), all[0], 1e-5);
    EXPECT_NEAR(mean(best.choices[1]), all[1], 1e-5);
    harness.check_accounts();
  }
}

TEST(StepLoop, ChoicesAreCancelledTogether) {
  Harness harness({.by_hand = true});
  for (const int steps : {0, 1, 3}) {
    Request request{.text = "several", .max_tokens = 50, .ignore_end_of_text = true, .n = 4};
    request.sampling.temperature = 1;
    auto future = harness.submit(std::move(request));
    for (int i = 0; i < steps; ++i) harness.loop.run_one();
    future.cancel();
    harness.loop.run_one();
    ASSERT_TRUE(future.ready());
    EXPECT_EQ(future.get().status().code(), StatusCode::Cancelled);
    EXPECT_TRUE(harness.loop.idle());
  }
  EXPECT_EQ(harness.stats.snapshot().cancelled, 3u);
  harness.check_accounts();
}

}  // namespace
}  // namespace tiercel
