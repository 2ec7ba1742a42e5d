// Where requests go: single decisions, and whole workloads on plain simulated replicas.
#include "engine/router.h"

#include <numeric>

#include <gtest/gtest.h>

#include "tests/engine/routing_simulation.h"

namespace tiercel {
namespace {

constexpr std::size_t kBlock = 32;
const RouterLimits kTwo{.replicas = 2, .step_tokens = 1024, .places = 64, .block_tokens = kBlock};

std::vector<PrefixKey> keys(PrefixKey first, std::size_t count) {
  std::vector<PrefixKey> keys(count);
  std::iota(keys.begin(), keys.end(), first);
  return keys;
}

// Views of replicas that have so many tokens cached.
std::vector<ReplicaView> cached(std::initializer_list<std::size_t> tokens) {
  std::vector<ReplicaView> views;
  for (const std::size_t of_one : tokens) views.push_back({.cached_tokens = of_one});
  return views;
}

TEST(Router, GoesWhereThePrefixIsUntilTheBacklogCostsMore) {
  Router router(kTwo);
  // 3,000 of 3,100 tokens are cached in the second.
  const RoutedPrompt prompt{.tokens = 3100};
  std::size_t in_second = 0;
  for (;; ++in_second) {
    ASSERT_LT(in_second, 1000u);
    const Router::Decision decision = router.route(prompt, cached({0, 3000}));
    if (decision.replica == 0) break;
    EXPECT_EQ(decision.expected_tokens, 3000u);
  }
  // What waits in the second, 100 tokens for each, costs as much as computing 3,000 or more.
  EXPECT_GT(in_second, 10u);
  EXPECT_LT(in_second, 60u);
  // From then on it is in both.
  const Router::Decision next = router.route(prompt, cached({3000, 3000}));
  EXPECT_EQ(next.replica, 1u) << "where less waits: 3,100 tokens in the first";
}

TEST(Router, APrefixThatIsOnItsWayIsNotComputedTwice) {
  Router router({.replicas = 8, .step_tokens = 1024, .places = 64, .block_tokens = kBlock});
  const std::vector<ReplicaView> nothing(8);
  std::vector<PrefixKey> path = keys(1, 60);
  const std::size_t first = router.route({.tokens = 60 * kBlock + 20, .keys = path}, nothing).replica;
  for (int i = 0; i < 5; ++i) {  // the same prefix with other questions, at once
    path.resize(60);
    path.push_back(1000 + static_cast<PrefixKey>(i));
    const Router::Decision decision = router.route({.tokens = 61 * kBlock + 20, .keys = path}, nothing);
    EXPECT_EQ(decision.replica, first);
    EXPECT_EQ(decision.expected_tokens, 60 * kBlock);
  }
}

TEST(Router, WhatIsComputedOrEndedIsNoPrefixOnItsWay) {
  Router router(kTwo);
  const std::vector<PrefixKey> path = keys(1, 10);
  const Router::Decision computed = router.route({.tokens = 330, .keys = path}, cached({0, 0}));
  EXPECT_EQ(router.keys(), 10u);
  EXPECT_EQ(router.prompt_tokens(computed.replica), 330u);
  router.set_prompt_left(computed.ticket, 100);
  EXPECT_EQ(router.keys(), 10u);
  EXPECT_EQ(router.prompt_tokens(computed.replica), 100u);
  router.set_prompt_left(computed.ticket, 0);
  EXPECT_EQ(router.keys(), 0u) << "it is in the arena now, or nowhere";
  EXPECT_EQ(router.sequences(computed.replica), 1u);
  const Router::Decision ended = router.route({.tokens = 330, .keys = path}, cached({0, 0}));
  router.end(ended.ticket);
  router.end(ended.ticket);
  router.end(computed.ticket);
  router.set_prompt_left(computed.ticket, 50);
  EXPECT_EQ(router.keys(), 0u);
  for (const std::size_t i : {0u, 1u}) {
    EXPECT_EQ(router.sequences(i), 0u);
    EXPECT_EQ(router.prompt_tokens(i), 0u);
  }
}

TEST(Router, IdleReplicasFillEvenly) {
  Router router(kTwo);
  std::size_t requests[2] = {};
  for (PrefixKey i = 0; i < 100; ++i) {
    const Router::Decision decision = router.route({.tokens = 320, .keys = keys(1000 * i, 10)}, cached({0, 0}));
    ++requests[decision.replica];
    router.end(decision.ticket);
  }
  EXPECT_EQ(requests[0], 50u);
  EXPECT_EQ(requests[1], 50u);
}

TEST(Router, OnlyWhatGoesBeforeIsWaitedFor) {
  Router router(kTwo);
  EXPECT_EQ(router.route({.tokens = 4000, .priority = 0}, cached({0, 0})).replica, 0u);
  EXPECT_EQ(router.route({.tokens = 500, .priority = 5}, cached({0, 0})).replica, 1u);
  // Of equal priority it waits behind the 500; of higher, behind none: there its prefix decides.
  EXPECT_EQ(router.route({.tokens = 400, .priority = 3}, cached({100, 0})).replica, 0u);
  EXPECT_EQ(router.route({.tokens = 400, .priority = 0}, cached({100, 0})).replica, 1u);
}

TEST(Router, AReplicaThatIsNotWellIsLeftOut) {
  Router router(kTwo);
  std::vector<ReplicaView> views = cached({3000, 0});
  views[0].available = false;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(router.route({.tokens = 3100}, views).replica, 1u);
  views[1].available = false;  // no better choice
  EXPECT_EQ(router.route({.tokens = 3100}, views).replica, 0u);
}

TEST(Router, ASlowReplicaCountsByItsPace) {
  Router router(kTwo);
  std::vector<ReplicaView> views = cached({0, 0});
  views[0].pace_s = 1e-3, views[1].pace_s = 1e-4;
  std::size_t slow = 0;
  for (int i = 0; i < 20; ++i) slow += router.route({.tokens = 1000}, views).replica == 0;
  EXPECT_LE(slow, 4u);
  EXPECT_GE(slow, 1u) << "it still helps";
}

TEST(Router, PlacesThatAreTakenCost) {
  Router router({.replicas = 2, .step_tokens = 1024, .places = 4, .block_tokens = kBlock});
  std::size_t first = 0;
  for (int i = 0; i < 8; ++i) {
    const Router::Decision decision = router.route({.tokens = 300, .output_tokens = 500}, cached({290, 0}));
    router.set_prompt_left(decision.ticket, 0);  // they stream
    first += decision.replica == 0;
  }
  EXPECT_EQ(first, 4u) << "the prefix is worth less than a place";
}

TEST(Router, NobodyIsGivenFarMoreThanTheLeast) {
  Router router(kTwo);
  for (int i = 0; i < 300; ++i) {
    const std::size_t least = std::min(router.sequences(0), router.sequences(1));
    const Router::Decision decision = router.route({.tokens = 100'000}, cached({99'990, 0}));
    router.set_prompt_left(decision.ticket, 0);  // they stream
    const std::size_t most = std::max(router.sequences(0), router.sequences(1));
    EXPECT_LE(most, std::max(least + kTwo.places / 4, least + least / 2) + 1);
  }
  EXPECT_GT(router.sequences(0), router.sequences(1));
}

TEST(Router, WhatReusesNothingIgnoresPrefixes) {
  Router router(kTwo);
  router.route({.tokens = 100}, cached({0, 0}));
  EXPECT_EQ(router.route({.tokens = 3100, .reuses = false}, cached({3000, 0})).replica, 1u);
}

TEST(RoutedPrefixes, ForgetTheEarliestWhereThereIsNoRoom) {
  RoutedPrefixes prefixes(2, 25);
  prefixes.add(1, 0, keys(100, 10));
  prefixes.add(2, 0, keys(100, 10));
  prefixes.add(3, 1, keys(300, 10));  // the first is forgotten, the second has the same blocks
  EXPECT_EQ(prefixes.keys(), 20u);
  EXPECT_EQ(prefixes.leading(0, keys(100, 20)), 10u);
  EXPECT_EQ(prefixes.leading(1, keys(100, 20)), 0u);
  prefixes.remove(1);
  EXPECT_EQ(prefixes.leading(0, keys(100, 20)), 10u);
  prefixes.remove(2);
  EXPECT_EQ(prefixes.leading(0, keys(100, 20)), 0u);
  prefixes.add(4, 0, keys(400, 1000));  // as much as there is room for
  EXPECT_EQ(prefixes.keys(), 25u);
  EXPECT_EQ(prefixes.leading(0, keys(400, 1000)), 25u);
  EXPECT_EQ(prefixes.leading(1, keys(300, 10)), 0u);
}

// ---- Whole workloads

struct Row {
  const char* name;
  Routing routing;
};
constexpr Row kRows[] = {{"cache-aware", Routing::Cache},
                         {"round-robin", Routing::RoundRobin},
                         {"least-loaded", Routing::LeastLoaded},
                         {"longest prefix", Routing::LongestPrefix}};

std::vector<SimulationResult> run_all(const std::vector<SimulatedRequest>& requests, const SimulationOptions& options) {
  std::vector<SimulationResult> results;
  for (const Row& row : kRows) {
    const SimulationResult& result = results.emplace_back(simulate(requests, row.routing, options));
    std::printf("  %-15s hit rate %5.1f %%  first token %6.3f s, worst %6.3f s  all in %6.1f s  apart %zu\n", row.name,
                100 * result.hit_rate, result.mean_ttft_s, result.worst_ttft_s, result.end_s,
                result.most_sequences_apart);
    EXPECT_EQ(result.answered, requests.size()) << row.name;
  }
  return results;
}

class RoutedWorkloads : public testing::TestWithParam<std::uint64_t> {};

// More prefixes than one arena has room for: each replica keeps its own.
TEST_P(RoutedWorkloads, SharedPrefixesAreFoundMoreOften) {
  for (const std::size_t replicas : {2u, 4u}) {
    const auto requests = make_workload({.seed = GetParam(),
                                         .requests = 3000,
                                         .groups = 60,
                                         .requests_per_s = 6. * static_cast<double>(replicas),
                                         .skew = 0.6});
    const SimulationOptions options{.replicas = replicas, .cached_blocks = 1200 / replicas};
    const auto results = run_all(requests, options);
    const SimulationResult &aware = results[0], &round_robin = results[1], &least_loaded = results[2];
    EXPECT_GT(aware.hit_rate, round_robin.hit_rate + 0.1);
    EXPECT_GT(aware.hit_rate, least_loaded.hit_rate + 0.1);
    EXPECT_LT(aware.mean_ttft_s, round_robin.mean_ttft_s);
    EXPECT_LT(aware.mean_ttft_s, least_loaded.mean_ttft_s);
    EXPECT_LT(aware.worst_ttft_s, 2 * least_loaded.worst_ttft_s) << "nobody starves";
    EXPECT_LT(aware.most_sequences_apart, options.places) << "one batch's worth, whatever ends meanwhile";
    EXPECT_LT(aware.most_sequences_apart, round_robin.most_sequences_apart);
    for (const std::size_t left : aware.left_sequences) EXPECT_EQ(left, 0u);
    for (const std::size_t of_one : aware.requests) {
      EXPECT_GT(of_one, requests.size() / replicas / 2) << "each has its part of the work";
    }
  }
}

// One prefix for all, and more requests than one replica can answer: it spills, and is hot in both.
TEST_P(RoutedWorkloads, AHotPrefixSpillsOver) {
  const auto requests =
      make_workload({.seed = GetParam(), .requests = 2000, .groups = 1, .prefix_blocks = 60, .requests_per_s = 50});
  const auto results = run_all(requests, {.replicas = 2});
  const SimulationResult &aware = results[0], &longest = results[3];
  EXPECT_LT(aware.mean_ttft_s, longest.mean_ttft_s / 2);
  EXPECT_GT(aware.requests[0], requests.size() / 4);
  EXPECT_GT(aware.requests[1], requests.size() / 4);
  EXPECT_GT(aware.hit_rate, 0.9 * longest.hit_rate) << "computed in each, once";
}

// One of three is ten times slower: it has less to do, and the others do not wait for it.
TEST_P(RoutedWorkloads, ASlowReplicaTakesNobodyDown) {
  const auto requests = make_workload({.seed = GetParam(), .requests = 2000, .groups = 60, .requests_per_s = 12});
  const auto results = run_all(requests, {.replicas = 3, .cached_blocks = 400, .token_s = {3e-3, 3e-4, 3e-4}});
  const SimulationResult &aware = results[0], &round_robin = results[1];
  EXPECT_LT(aware.mean_ttft_s, round_robin.mean_ttft_s / 2);
  EXPECT_LT(aware.requests[0], requests.size() / 6);
  EXPECT_LT(aware.end_s, round_robin.end_s);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RoutedWorkloads, testing::Values(1, 2, 3));

}  // namespace
}  // namespace tiercel
