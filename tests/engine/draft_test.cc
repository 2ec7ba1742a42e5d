// Where drafts come from, and how many pay.
#include "engine/draft.h"

#include <algorithm>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "engine/draft_budget.h"
#include "tests/engine/fake_model.h"

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;

TEST(PromptLookup, FindsTheLatestPlaceOfTheLongestNGram) {
  std::mt19937 random(1);
  std::size_t found = 0, as_expected = 0, tokens_seen = 0;
  for (int round = 0; round < 100; ++round) {
    Tokens tokens;
    PromptLookup lookup(300);
    const unsigned alphabet = 2 + random() % 20;
    while (tokens.size() < 300) {
      for (std::size_t more = 1 + random() % 3; more > 0 && tokens.size() < 300; --more) {
        tokens.push_back(static_cast<TokenId>(random() % alphabet));
      }
      lookup.extend(tokens);
      PromptLookup::Match expected;
      for (const std::size_t length : PromptLookup::kLengths) {
        for (std::size_t place = tokens.size() - 1; place >= length && expected.length == 0; --place) {
          if (std::equal(tokens.end() - static_cast<std::ptrdiff_t>(length), tokens.end(),
                         tokens.begin() + static_cast<std::ptrdiff_t>(place - length))) {
            expected = {.length = length, .place = place};
          }
        }
      }
      const PromptLookup::Match match = lookup.find(tokens);
      ++tokens_seen;
      as_expected += match.length == expected.length && match.place == expected.place;
      if (match.length == 0) continue;
      ++found;
      ASSERT_LT(match.place, tokens.size());
      ASSERT_TRUE(std::ranges::equal(std::span(tokens).subspan(match.place - match.length, match.length),
                                     std::span(tokens).last(match.length)));
    }
  }
  EXPECT_GT(found, tokens_seen / 2);
  EXPECT_GT(as_expected, tokens_seen * 9 / 10) << "all but where two n-grams met in one entry";
}

TEST(PromptLookup, GoesOnWithItsOwnWordsAtTheEnd) {
  const Tokens tokens = {1, 2, 3, 1, 2, 3};
  PromptLookup lookup(10);
  lookup.extend(tokens);
  const PromptLookup::Match match = lookup.find(tokens);
  EXPECT_EQ(match.length, 3u);
  Tokens out(7);
  PromptLookup::copy(tokens, match, out);
  EXPECT_EQ(out, Tokens({1, 2, 3, 1, 2, 3, 1}));
}

KvCache open_cache() {
  return KvCache::open({.capacity_bytes = 100 * FakeModel::layout().block_bytes()}, FakeModel::layout(), {}).value();
}

// A lease that has computed all but the last of the tokens.
Lease lease_of(KvCache& cache, const Tokens& tokens) {
  Lease lease = cache.admit(std::span(tokens).first(1), {.max_tokens = 200, .max_matched_tokens = 0}).value();
  EXPECT_TRUE(lease.grow(tokens.size()).ok());
  lease.commit(std::span(tokens).first(tokens.size() - 1));
  return lease;
}

TEST(Draft, SaysWhatTheCacheSaidAndLearnsWhetherItWasTrue) {
  KvCache cache = open_cache();
  Tokens answer(60);
  for (std::size_t i = 0; i < answer.size(); ++i) answer[i] = static_cast<TokenId>(i);
  { const Lease before = lease_of(cache, answer); }
  Tokens tokens(answer.begin(), answer.begin() + 20);
  Lease lease = lease_of(cache, tokens);
  DraftRecord record;
  Draft draft(200, 5);
  std::size_t said = 0;
  while (tokens.size() < 58) {
    ASSERT_TRUE(lease.grow(tokens.size() + 1).ok());
    draft.guess(tokens, lease, record);
    ASSERT_FALSE(draft.tokens().empty()) << tokens.size();
    EXPECT_TRUE(std::equal(draft.tokens().begin(), draft.tokens().end(),
                           answer.begin() + static_cast<std::ptrdiff_t>(tokens.size())));
    EXPECT_EQ(draft.chunk(1)[0], tokens.back());
    EXPECT_EQ(draft.chunk(1)[1], draft.tokens()[0]);
    said += draft.tokens().size();
    lease.commit({&tokens.back(), 1});
    tokens.push_back(answer[tokens.size()]);
  }
  EXPECT_GT(said, 150u);
  EXPECT_GT(draft.likelihood(), 0.9);
  // It goes another way: nothing is known, and the likelihood has fallen.
  tokens.back() = 77;
  draft.guess(tokens, lease, record);
  EXPECT_TRUE(draft.tokens().empty());
  EXPECT_LT(draft.likelihood(), 0.9);
}

TEST(Draft, CopiesFromItsOwnTokensWhereTheCacheKnowsNothing) {
  KvCache cache = open_cache();
  const Tokens tokens = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 8, 7};
  const Lease lease = lease_of(cache, tokens);
  DraftRecord record;
  Draft draft(50, 4);
  draft.guess(tokens, lease, record);
  EXPECT_TRUE(std::ranges::equal(draft.tokens(), Tokens({6, 5, 4, 3})));
}

// Steps of a machine: what streams take, and what each row of a draft adds.
struct Machine {
  double stream_s = 0.005, row_s = 0;
  std::size_t streams = 1;
  std::mt19937 random{1};

  // Drafted tokens of so many steps, whose drafts have these likelihoods.
  std::size_t run(DraftBudget& budget, std::size_t steps, const std::vector<double>& likelihoods) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < steps; ++i) {
      const std::size_t drafted = budget.tokens(streams, likelihoods);
      sum += drafted;
      const double stall_s = random() % 20 == 0 ? 0.05 : 0;  // another process has the processor
      budget.measured(streams, drafted, stream_s + row_s * static_cast<double>(drafted) + stall_s);
    }
    return sum;
  }
};

TEST(DraftBudget, CheapRowsAreAllTaken) {
  DraftBudget budget(0);
  Machine machine{.row_s = 0.0001};
  const std::vector<double> sure(7, 0.95);
  machine.run(budget, 100, sure);
  EXPECT_GT(machine.run(budget, 1000, sure), 6500u);
}

TEST(DraftBudget, DearRowsStayAwayButForAProbe) {
  DraftBudget budget(0);
  Machine machine{.row_s = 0.005};
  machine.run(budget, 300, std::vector<double>(7, 0.5));
  EXPECT_LT(machine.run(budget, 2000, std::vector<double>(7, 0.5)), 30u);
}

TEST(DraftBudget, UnlikelyTokensStayAway) {
  DraftBudget budget(0);
  Machine machine{.row_s = 0.001};
  std::vector<double> unlikely;
  for (double likelihood = 0.2; unlikely.size() < 7; likelihood *= 0.2) unlikely.push_back(likelihood);
  machine.run(budget, 300, unlikely);
  EXPECT_LT(machine.run(budget, 2000, unlikely), 60u);
}

TEST(DraftBudget, TakesThemAgainWhenTheyPayAgain) {
  DraftBudget budget(0);
  Machine machine{.row_s = 0.005};
  const std::vector<double> likely(4, 0.8);
  machine.run(budget, 500, likely);
  machine.row_s = 0.0002;
  machine.run(budget, 3000, likely);
  EXPECT_GT(machine.run(budget, 1000, likely), 3500u);
}

TEST(DraftBudget, OthersDoNotWaitMuchLongerForTheirTokens) {
  DraftBudget budget(0);
  Machine machine{.stream_s = 0.010, .row_s = 0.001, .streams = 4};
  const std::vector<double> sure(40, 1.0);
  machine.run(budget, 300, sure);
  const std::size_t drafted = machine.run(budget, 1000, sure);
  EXPECT_GT(drafted, 5000u);
  EXPECT_LT(drafted, 9000u) << "7.5 rows make a step 1.75 times as long";
  DraftBudget strict(0.012);
  machine.run(strict, 300, sure);
  EXPECT_LT(machine.run(strict, 1000, sure), 2500u);
  machine.streams = DraftBudget::kMostStreams + 1;
  EXPECT_EQ(machine.run(budget, 200, sure), 0u);
}

}  // namespace
}  // namespace tiercel
