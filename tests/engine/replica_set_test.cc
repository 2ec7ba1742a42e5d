// Several step loops around the fake model behind one door: answers, load, failures, statistics, and what is asked of
// all caches. With threads, for ThreadSanitizer too, unless the order of things matters.
#include "engine/replica_set.h"

#include <atomic>
#include <latch>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "engine/engine_stats.h"
#include "engine/request_check.h"
#include "kv/kv_cache_state.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"
#include "tests/engine/step_loop_fixture.h"

namespace tiercel {
namespace {

struct Setup {
  std::size_t replicas = 2;
  std::size_t blocks = 400;  // of each
  std::size_t max_sequences = 16;
  std::size_t max_queued_requests = 10000;
  bool deterministic = false;
  std::vector<std::shared_ptr<TierStore>> tiers = {};
  bool by_hand = false;
  std::function<void(std::size_t, FakeModel&)> prepare = {};  // a model before its loop starts
};

// The replicas of the real thing. Every test ends with their accounts.
class Replicas {
 public:
  explicit Replicas(const Setup& setup) : tokenizer(make_byte_tokenizer()) {
    auto shared = setup.tiers.empty() ? nullptr : std::make_unique<SharedTiers>(setup.tiers);
    const SchedulerLimits limits{.max_sequences = setup.max_sequences,
                                 .max_tokens = 64,
                                 .max_logit_rows = setup.max_sequences + 8,
                                 .deterministic = setup.deterministic};
    const auto clock = [this] { return now(); };
    StatsOptions stats_options{.opened = opened, .labels = std::make_shared<EndpointLabels>(), .now = clock};
    std::vector<std::unique_ptr<Replica>> replicas;
    for (std::size_t i = 0; i < setup.replicas; ++i) {
      auto model = std::make_unique<FakeModel>(setup.max_sequences + 8, setup.deterministic);
      if (setup.prepare) setup.prepare(i, *model);
      models.push_back(model.get());
      auto cache = KvCache::open({.capacity_bytes = setup.blocks * FakeModel::layout().block_bytes(),
                                  .tiers = shared ? shared->handles() : std::vector<std::shared_ptr<TierStore>>()},
                                 FakeModel::layout(), model->fingerprint())
                       .value();
      stats_options.tier_names.clear();
      for (const KvTierStats& tier : cache.stats().tiers) stats_options.tier_names.push_back(tier.name);
      replicas.push_back(std::make_unique<Replica>(std::move(model), std::move(cache), tokenizer, stats_options,
                                                   StepLoopOptions{.limits = limits,
                                                                   .max_queued_requests = setup.max_queued_requests,
                                                                   .tier_names = stats_options.tier_names,
                                                                   .by_hand = setup.by_hand,
                                                                   .now = clock}));
    }
    set = std::make_unique<ReplicaSet>(std::move(replicas), std::move(shared), ReplicaSetOptions{.limits = limits});
  }
  ~Replicas() {
    set->close();
    const EngineStats stats = collect_stats(*set, 0);
    expect_identities(stats);
    EXPECT_EQ(stats.queued + stats.running, 0u);
    EXPECT_EQ(stats.submitted, submitted);
    ReplicaStats sum;
    for (const ReplicaStats& one : stats.replicas) {
      sum.submitted += one.submitted;
      sum.completed += one.completed;
      sum.failed += one.failed;
      sum.prompt_tokens += one.prompt_tokens;
      sum.reused_tokens += one.reused_tokens;
      sum.output_tokens += one.output_tokens;
      sum.steps += one.steps;
      sum.kv_capacity_bytes += one.kv_capacity_bytes;
    }
    EXPECT_EQ(sum.submitted, stats.submitted);
    EXPECT_EQ(sum.completed, stats.completed);
    EXPECT_EQ(sum.failed, stats.failed);
    EXPECT_EQ(sum.prompt_tokens, stats.prompt_tokens);
    EXPECT_EQ(sum.reused_tokens, stats.reused_tokens);
    EXPECT_EQ(sum.output_tokens, stats.output_tokens);
    EXPECT_EQ(sum.steps, stats.steps);
    EXPECT_EQ(sum.kv_capacity_bytes, stats.memory.kv_capacity_bytes);
    for (std::size_t i = 0; i < set->size(); ++i) {
      EXPECT_EQ(set->sequences(i), 0u) << "load of requests that have ended";
      EXPECT_EQ(KvCacheState::of(set->replica(i).cache()).audit(), "");
    }
  }

  ResponseFuture submit(Request request) {
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096});
    EXPECT_TRUE(prompt.ok()) << prompt.status().to_string();
    ++submitted;
    auto choices = make_sequences(std::move(request), std::move(*prompt), 4096, now());
    ResponseFuture future(choices.front()->promise);
    set->submit(std::move(choices));
    return future;
  }
  // By hand: until nobody has anything to do.
  void run() {
    for (bool more = true; more;) {
      more = false;
      for (std::size_t i = 0; i < set->size(); ++i) {
        while (!set->replica(i).loop().idle()) set->replica(i).loop().run_one(), more = true;
      }
    }
  }
  // Stands still unless it is turned: how long the fake model takes decides nothing.
  Sequence::Clock::time_point now() const { return opened + std::chrono::milliseconds(ahead_ms); }
  EngineStats stats() const { return collect_stats(*set, 0); }
  std::vector<std::uint64_t> submitted_to() const {
    std::vector<std::uint64_t> requests;
    for (const ReplicaStats& one : stats().replicas) requests.push_back(one.submitted);
    return requests;
  }

  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::vector<FakeModel*> models;
  const Sequence::Clock::time_point opened = Sequence::Clock::now();
  std::atomic<std::int64_t> ahead_ms = 0;
  std::atomic<std::size_t> submitted = 0;
  std::unique_ptr<ReplicaSet> set;
};

// Different from the first token on for different `first`, below 256.
std::vector<TokenId> letters(TokenId first, std::size_t count) {
  std::vector<TokenId> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<TokenId>('a' + i * i % 26);
  tokens.front() = first;
  return tokens;
}

TEST(ReplicaSet, AnswersAreThoseOfOneWhoeverGivesThem) {
  for (const std::size_t replicas : {1u, 2u, 3u}) {
    Replicas all({.replicas = replicas, .blocks = 150});
    std::atomic<std::size_t> next = 0;
    std::mt19937 drawing(7);
    const auto prompts = random_prompts(drawing, 300);
    std::vector<std::thread> clients;
    for (int client = 0; client < 8; ++client) {
      clients.emplace_back([&, client] {
        std::mt19937 random(static_cast<unsigned>(client));
        for (std::size_t i = next++; i < prompts.size(); i = next++) {
          Request request{.priority = static_cast<int>(random() % 3),
                          .tokens = prompts[i],
                          .max_tokens = static_cast<std::uint32_t>(1 + random() % 30),
                          .endpoint = i % 2 ? "odd" : "even"};
          const std::size_t most = request.max_tokens;
          const auto response = all.submit(std::move(request)).get();
          ASSERT_TRUE(response.ok()) << response.status().to_string();
          EXPECT_EQ(response->tokens, FakeModel::expected_output(prompts[i], most));
        }
      });
    }
    for (int i = 0; i < 50; ++i) expect_identities(all.stats());
    for (std::thread& client : clients) client.join();
    const EngineStats stats = all.stats();
    EXPECT_EQ(stats.completed, prompts.size());
    EXPECT_EQ(stats.total.count, prompts.size());
    EXPECT_EQ(stats.window.completed, prompts.size());
    EXPECT_EQ(stats.window.total.count, prompts.size());
    ASSERT_EQ(stats.endpoints.size(), 2u) << "one list of labels for all";
    EXPECT_EQ(stats.endpoints[0].completed + stats.endpoints[1].completed, prompts.size());
    EXPECT_EQ(stats.endpoints[0].completed, stats.endpoints[1].completed);
  }
}

TEST(ReplicaSet, DeterministicAnswersAreTheSameInEach) {
  Replicas all({.replicas = 3, .deterministic = true});
  std::mt19937 drawing(3);
  const auto prompts = random_prompts(drawing, 60);
  std::vector<ResponseFuture> futures;
  for (const auto& prompt : prompts) futures.push_back(all.submit({.tokens = prompt, .max_tokens = 10}));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::size_t boundary = (prompts[i].size() - 1) / 8 * 8;
    EXPECT_EQ(futures[i].get()->tokens, FakeModel::expected_output(prompts[i], 10, boundary, true));
  }
  for (const std::uint64_t requests : all.submitted_to()) EXPECT_GT(requests, 0u);
}

TEST(ReplicaSet, RequestsGoWhereTheirPrefixIs) {
  Replicas all({.by_hand = true});
  const auto first = letters(1, 200), second = letters(2, 200);
  auto one = all.submit({.tokens = first, .max_tokens = 1});
  auto two = all.submit({.tokens = second, .max_tokens = 1});
  all.run();
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{1, 1}));
  std::vector<ResponseFuture> futures;
  for (int i = 0; i < 10; ++i) {
    auto prompt = first;
    prompt.push_back('A' + i);
    futures.push_back(all.submit({.tokens = prompt, .max_tokens = 1}));
    all.run();
    EXPECT_GE(futures.back().get()->reused_tokens, 192u);
  }
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{11, 1}));
  // So does the next turn of a chat.
  auto turn = all.submit({.tokens = second, .max_tokens = 40, .ignore_end_of_text = true});
  all.run();
  auto history = second;
  const auto answer = turn.get()->tokens;
  history.insert(history.end(), answer.begin(), answer.end());
  history.push_back('Z');
  auto next = all.submit({.tokens = history, .max_tokens = 1});
  all.run();
  EXPECT_GE(next.get()->reused_tokens, 192u);
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{11, 3}));
}

TEST(ReplicaSet, PrefixesOfDifferentTenantsAreNoneOfEachOther) {
  Replicas all({.by_hand = true});
  auto one = all.submit({.tokens = letters(1, 200), .max_tokens = 1, .cache_salt = "a"});
  auto two = all.submit({.tokens = letters(1, 200), .max_tokens = 1, .cache_salt = "b"});
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{1, 1}));
  auto three = all.submit({.tokens = letters(1, 200), .max_tokens = 1, .cache_salt = "b"});
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{1, 2})) << "it is on its way there";
  all.run();
}

TEST(ReplicaSet, ChoicesStayTogether) {
  Replicas all({.by_hand = true});
  Request request{.tokens = letters(1, 100), .max_tokens = 5, .n = 6};
  request.sampling.temperature = 1;
  auto future = all.submit(std::move(request));
  EXPECT_EQ(all.set->sequences(0), 6u);
  EXPECT_EQ(all.set->sequences(1), 0u);
  all.run();
  EXPECT_EQ(future.get()->choices.size(), 6u);
  EXPECT_EQ(all.stats().prompt_tokens, 100u) << "computed once";
}

TEST(ReplicaSet, TheQueueHasRoomForAllTogether) {
  Replicas all({.max_sequences = 2, .max_queued_requests = 5, .by_hand = true});
  std::vector<ResponseFuture> futures;
  for (TokenId i = 0; i < 5; ++i) futures.push_back(all.submit({.tokens = letters(i, 50), .max_tokens = 2}));
  EXPECT_EQ(all.set->replica(0).loop().queued() + all.set->replica(1).loop().queued(), 5u);
  ResponseFuture sixth = all.submit({.tokens = letters(9, 50), .max_tokens = 2});
  ASSERT_TRUE(sixth.ready());
  const auto refused = sixth.get();
  EXPECT_EQ(refused.status().code(), StatusCode::Rejected);
  EXPECT_NE(refused.status().message().find("5 requests are waiting, and 5 may"), std::string::npos)
      << refused.status().message();
  for (const std::size_t i : {0u, 1u}) all.set->replica(i).loop().run_one();  // two and two enter
  futures.push_back(all.submit({.tokens = letters(9, 50), .max_tokens = 2}));
  all.run();
  for (ResponseFuture& future : futures) EXPECT_TRUE(future.get().ok());
  EXPECT_EQ(all.stats().rejected, 1u);
}

TEST(ReplicaSet, OneThatFailsIsLeftAloneForAWhile) {
  Replicas all({.by_hand = true});
  all.models[0]->fails = true;
  std::size_t failed = 0;
  for (TokenId i = 0; i < 40; ++i) {
    auto future = all.submit({.tokens = letters(i, 20), .max_tokens = 2});
    all.run();
    failed += !future.get().ok();
  }
  EXPECT_EQ(failed, static_cast<std::size_t>(CircuitBreaker::kMostFailures));
  EXPECT_FALSE(all.stats().replicas[0].available);
  EXPECT_TRUE(all.stats().replicas[1].available);
  // When it is well again it takes its part.
  all.models[0]->fails = false;
  all.ahead_ms += 2000;
  const std::uint64_t before = all.submitted_to()[0];
  for (TokenId i = 0; i < 10; ++i) {
    auto future = all.submit({.tokens = letters(100 + i, 20), .max_tokens = 2});
    all.run();
    EXPECT_TRUE(future.get().ok());
  }
  EXPECT_GT(all.submitted_to()[0], before);
  EXPECT_TRUE(all.stats().replicas[0].available);
}

TEST(ReplicaSet, OneThatHangsHoldsItsOwnRequestsOnly) {
  std::latch hanging(1), goes_on(1);
  std::atomic<bool> hangs = false;
  Replicas all({.prepare = [&](std::size_t i, FakeModel& model) {
    if (i > 0) return;
    model.before_step = [&] {
      if (!hangs.exchange(false)) return;
      hanging.count_down();
      goes_on.wait();
    };
  }});
  // Its prefix is in the first.
  ASSERT_TRUE(all.submit({.tokens = letters(1, 200), .max_tokens = 1}).get().ok());
  ASSERT_EQ(all.submitted_to()[0], 1u);
  hangs = true;
  ResponseFuture held = all.submit({.tokens = letters(1, 200), .max_tokens = 1});
  hanging.wait();
  for (TokenId i = 0; i < 20; ++i) {
    EXPECT_TRUE(all.submit({.tokens = letters(50 + i, 100), .max_tokens = 3}).get().ok());
  }
  all.ahead_ms += static_cast<std::int64_t>(1e3 * ReplicaHealth::kLongestStep_s) + 1;
  // The other's last step ends a moment after its last answer.
  while (!all.set->replica(1).is_available()) std::this_thread::yield();
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(all.submit({.tokens = letters(1, 200), .max_tokens = 1}).get().ok()) << "its prefix is no reason";
  }
  EXPECT_FALSE(held.ready());
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{2, 25}));
  goes_on.count_down();
  EXPECT_TRUE(held.get().ok());
}

TEST(ReplicaSet, EveryReplicaEndsWhatItHasWhenAllClose) {
  // All but the first are in a long step when they are asked to close.
  std::latch stepping(2);
  std::atomic<bool> steps[3] = {};
  Replicas all({.replicas = 3, .max_sequences = 2, .prepare = [&](std::size_t i, FakeModel& model) {
                  if (i == 0) return;
                  model.token_time = std::chrono::milliseconds(3);
                  model.before_step = [&, i] {
                    if (!steps[i].exchange(true)) stepping.count_down();
                  };
                }});
  std::vector<ResponseFuture> futures;
  for (TokenId i = 0; i < 200; ++i) {
    futures.push_back(all.submit({.tokens = letters(i, 60), .max_tokens = 500, .ignore_end_of_text = true}));
  }
  futures[7].cancel();
  stepping.wait();
  all.set->close();
  for (ResponseFuture& future : futures) {
    ASSERT_TRUE(future.ready());
    const auto response = future.get();
    EXPECT_TRUE(response.ok() || response.status().code() == StatusCode::Cancelled);
  }
  EXPECT_EQ(all.submit({.tokens = letters(1, 10)}).get().status().code(), StatusCode::Cancelled);
}

TEST(ReplicaSet, OneThatHangsDoesNotKeepOthersFromClosing) {
  std::latch hanging(1), goes_on(1);
  std::atomic<bool> hangs = true;
  Replicas all({.prepare = [&](std::size_t i, FakeModel& model) {
    model.token_time = std::chrono::milliseconds(i);
    if (i > 0) return;
    model.before_step = [&] {
      if (!hangs.exchange(false)) return;
      hanging.count_down();
      goes_on.wait();
    };
  }});
  ResponseFuture held = all.submit({.tokens = letters(1, 20), .max_tokens = 1});
  hanging.wait();
  ResponseFuture other = all.submit({.tokens = letters(2, 20), .max_tokens = 2000, .ignore_end_of_text = true});
  ASSERT_EQ(all.submitted_to()[1], 1u);
  std::thread closing([&] { all.set->close(); });
  EXPECT_EQ(other.get().status().code(), StatusCode::Cancelled);
  EXPECT_FALSE(held.ready());
  goes_on.count_down();
  closing.join();
  held.wait();
}

TEST(ReplicaSet, WhatIsAskedOfTheCacheIsAskedOfAll) {
  Replicas all({.blocks = 100, .by_hand = true});
  const PrefixScope scope;
  const auto tokens = letters(1, 81), other = letters(2, 41);
  EXPECT_EQ(all.set->pin(tokens, scope, 0).status().code(), StatusCode::NotFound);
  // Ten blocks in both, five in one.
  const auto compute = [&](std::size_t replica, const std::vector<TokenId>& prompt) {
    for (std::size_t i = 0; i < all.set->size(); ++i) all.models[i]->fails = i != replica;
    Request request{.tokens = prompt, .max_tokens = 0};
    auto checked = check_request(request, {all.tokenizer, all.chat_template, kFakeVocabulary, 4096});
    auto choices = make_sequences(std::move(request), *std::move(checked), 4096, Sequence::Clock::now());
    ResponseFuture future(choices.front()->promise);
    ++all.submitted;
    all.set->replica(replica).loop().submit(std::move(choices));
    all.run();
    EXPECT_TRUE(future.get().ok());
  };
  for (const std::size_t i : {0u, 1u}) compute(i, tokens);
  compute(1, other);
  EXPECT_EQ(all.set->lookup(tokens, scope), 80u);
  EXPECT_EQ(all.set->lookup(other, scope), 40u) << "of the best";
  EXPECT_EQ(all.set->pin(tokens, scope, 0).value(), 80u);
  EXPECT_EQ(all.set->pin(other, scope, 0).value(), 40u);
  EXPECT_EQ(all.set->replica(0).cache().stats().pinned_blocks, 10u);
  EXPECT_EQ(all.set->replica(1).cache().stats().pinned_blocks, 15u);
  EXPECT_EQ(all.set->unpin(tokens, scope), 2u);
  EXPECT_EQ(all.set->unpin(other, scope), 1u);
  EXPECT_EQ(all.set->invalidate(std::span(tokens).first(8), scope), 20u);
  EXPECT_EQ(all.set->lookup(tokens, scope), 0u);
  EXPECT_EQ(all.set->invalidate_tenant("another"), 0u);
  EXPECT_EQ(all.set->invalidate_tenant(""), 5u);
  compute(0, tokens);
  EXPECT_EQ(all.set->invalidate_all(), 10u);
  EXPECT_TRUE(all.set->flush(1000).ok());
}

TEST(ReplicaSet, WhatOneComputedAnotherFindsInATier) {
  const auto store = memory_tier({.capacity_bytes = 1u << 20}).value();
  Replicas all({.tiers = {store}});
  const auto tokens = letters(1, 161);
  ASSERT_TRUE(all.submit({.tokens = tokens, .max_tokens = 1}).get().ok());
  for (int i = 0; i < 10000 && store->stats().stored_blocks < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_EQ(store->stats().stored_blocks, 20u);
  // What the first has is gone, what the tier has is not.
  const auto evict = [&] {
    KvCache& cache = all.set->replica(0).cache();
    const std::size_t room = cache.stats().capacity_blocks * 8;
    Lease everything = cache.admit({}, {.max_tokens = room}).value();
    ASSERT_TRUE(everything.grow(room).ok());
  };
  evict();
  ASSERT_EQ(all.set->lookup(tokens, {}), 0u);
  // The second has been given less to compute until now.
  const Response found = all.submit({.tokens = tokens, .max_tokens = 1}).get().value();
  EXPECT_EQ(all.submitted_to(), (std::vector<std::uint64_t>{1, 1}));
  EXPECT_EQ(found.reused_tokens, 160u);
  ASSERT_EQ(found.reused_by_tier.size(), 2u);
  EXPECT_EQ(found.reused_by_tier[1].second, 160u);
  const EngineStats stats = all.stats();
  ASSERT_EQ(stats.tiers.size(), 1u);
  EXPECT_EQ(stats.tiers[0].store.stored_blocks, 20u) << "one store, counted once";
  EXPECT_EQ(stats.tiers[0].matched_tokens, 160u);
  ASSERT_EQ(stats.hits.size(), 2u);
  EXPECT_EQ(stats.hits[1].tokens, 160u);
  // Forgotten by both and by the tier.
  all.set->invalidate_all();
  EXPECT_EQ(all.submit({.tokens = tokens, .max_tokens = 1}).get()->reused_tokens, 0u);
}

TEST(ReplicaPace, IsTheLeastOfLateAndForgetsIt) {
  ReplicaPace pace;
  for (int i = 1; i < ReplicaPace::kLeastSamples; ++i) {
    pace.measured(100, 0.1);
    EXPECT_EQ(pace.seconds(), 0) << "a few say nothing";
  }
  pace.measured(100, 5);  // disturbed
  EXPECT_NEAR(pace.seconds(), 1e-3, 1e-4);
  pace.measured(0, 1);
  pace.measured(100, 0);
  EXPECT_NEAR(pace.seconds(), 1e-3, 1e-4);
  for (int i = 0; i < 100; ++i) pace.measured(100, 1);  // it has become slow
  EXPECT_NEAR(pace.seconds(), 1e-2, 1e-6);
}

}  // namespace
}  // namespace tiercel
