#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace {
thread_local std::size_t allocations = 0;  // by operator new, since the thread began
}

// Not inlined: seen through, malloc and free look mismatched with new and delete to the compiler.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace tiercel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

Logits random_logits(std::mt19937_64& random, std::size_t size, double spread) {
  std::normal_distribution<double> normal(0, spread);
  Logits logits(size);
  for (float& logit : logits) logit = static_cast<float>(normal(random));
  return logits;
}

// The steps of request.h one after the other in double precision, on a full sort: probabilities of every token.
std::vector<double> reference_probabilities(Logits logits, const SamplingOptions& options,
                                            const std::set<TokenId>& seen) {
  for (const LogitBias& bias : options.logit_bias) logits[static_cast<std::size_t>(bias.token)] += bias.bias;
  for (const TokenId token : seen) {
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
  }
  std::vector<std::size_t> ranking;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i]) && logits[i] != -kInfinity) ranking.push_back(i);
  }
  std::ranges::stable_sort(ranking, std::greater<>(), [&](std::size_t i) { return logits[i]; });
  if (options.top_k > 0 && ranking.size() > options.top_k) ranking.resize(options.top_k);

  std::vector<double> probabilities(logits.size());
  const double temperature = options.temperature;
  double total = 0;
  for (const std::size_t i : ranking) {
    probabilities[i] =
        std::exp((static_cast<double>(logits[i]) - static_cast<double>(logits[ranking[0]])) / temperature);
    total += probabilities[i];
  }
  std::size_t kept = 0;
  for (double sum = 0; kept < ranking.size() && (kept == 0 || options.top_p == 1 || sum < options.top_p * total);
       ++kept) {
    sum += probabilities[ranking[kept]];
  }
  while (kept > 1 && probabilities[ranking[kept - 1]] < options.min_p) --kept;
  total = 0;
  for (std::size_t rank = 0; rank < ranking.size(); ++rank) {
    if (rank < kept) {
      total += probabilities[ranking[rank]];
    } else {
      probabilities[ranking[rank]] = 0;
    }
  }
  for (double& probability : probabilities) probability /= total;
  return probabilities;
}

std::vector<std::size_t> draw(Sampler& sampler, const Logits& logits, std::size_t draws) {
  std::vector<std::size_t> counts(logits.size());
  Logits scratch;
  for (std::size_t i = 0; i < draws; ++i) {
    scratch = logits;
    ++counts.at(static_cast<std::size_t>(sampler.sample(scratch)));
  }
  return counts;
}

// Pearson's chi-square over tokens whose expected count is at least 5 (the rest in one bin), against five standard
// deviations above its mean. Tokens of probability 0 must not come at all.
void expect_distribution(const std::vector<std::size_t>& counts, const std::vector<double>& probabilities) {
  const double draws = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::size_t{0}));
  double statistic = 0;
  double rest_expected = 0;
  double rest_seen = 0;
  double bins = 0;
  const auto add = [&](double seen, double expected) {
    statistic += (seen - expected) * (seen - expected) / expected;
    ++bins;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_EQ(counts[i], 0u) << "token " << i;
      continue;
    }
    const double expected = draws * probabilities[i];
    if (expected >= 5) {
      add(static_cast<double>(counts[i]), expected);
    } else {
      rest_expected += expected;
      rest_seen += static_cast<double>(counts[i]);
    }
  }
  if (rest_expected >= 5) {
    add(rest_seen, rest_expected);
  } else {
    EXPECT_LE(rest_seen, 25);
  }
  const double freedom = std::max(1.0, bins - 1);
  EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom) + 5) << "of " << bins << " bins";
}

void expect_as_reference(const SamplingOptions& options, const Logits& logits, std::size_t draws,
                         const std::vector<TokenId>& seen = {}) {
  ASSERT_TRUE(validate(options, logits.size()).ok());
  Sampler sampler(options, logits.size());
  for (const TokenId token : seen) sampler.observe(token);
  expect_distribution(draw(sampler, logits, draws),
                      reference_probabilities(logits, options, std::set<TokenId>(seen.begin(), seen.end())));
}

TokenId sample_once(const SamplingOptions& options, Logits logits, const std::vector<TokenId>& seen = {}) {
  Sampler sampler(options, logits.size());
  for (const TokenId token : seen) sampler.observe(token);
  return sampler.sample(logits);
}

TEST(SamplerGreedy, TakesTheLargestAndTheLowestIdAmongEqualOnes) {
  std::mt19937_64 random(1);
  for (std::size_t size = 1; size < 200; ++size) {
    Logits logits = random_logits(random, size, 3);
    const auto winner = random() % size;
    logits[winner] = 100;
    EXPECT_EQ(sample_once({}, logits), static_cast<TokenId>(winner));
    logits[random() % size] = 100;
    EXPECT_EQ(sample_once({}, logits), std::ranges::find(logits, 100.0f) - logits.begin());
  }
  EXPECT_EQ(sample_once({}, {-5, -2, -3}), 1);
  EXPECT_EQ(sample_once({}, {-0.0f, 0.0f}), 0);
  // Filters change nothing, and the seed neither.
  EXPECT_EQ(sample_once({.top_k = 2, .top_p = 0.1f, .min_p = 0.5f, .seed = 99}, {1, 3, 2}), 1);
}

TEST(SamplerGreedy, AppliesBiasBeforeThePenalty) {
  EXPECT_EQ(sample_once({.logit_bias = {{.token = 2, .bias = 5}}}, {1, 3, 0}), 2);
  EXPECT_EQ(sample_once({.logit_bias = {{.token = 1, .bias = -kInfinity}}}, {1, 3, 0}), 0);
  EXPECT_EQ(sample_once({.logit_bias = {{.token = 2, .bias = 2}, {.token = 2, .bias = 2}}}, {1, 3, 0}), 2);
  // Divides positive logits, multiplies negative ones; a value below 1 favours repetition.
  EXPECT_EQ(sample_once({.repetition_penalty = 2}, {2, 3, 0}, {1}), 0);
  EXPECT_EQ(sample_once({.repetition_penalty = 2}, {-3, -2}, {1}), 0);
  EXPECT_EQ(sample_once({.repetition_penalty = 0.5f}, {2, 3}, {0}), 0);
  // 3 seen: (4 + 2) / 2 = 3 loses to 3.5; were the penalty first, 4 / 2 + 2 = 4 would win.
  EXPECT_EQ(sample_once({.repetition_penalty = 2, .logit_bias = {{.token = 1, .bias = 2}}}, {3.5f, 4}, {1}), 0);
}

TEST(SamplerGreedy, PenalisesATokenOnceHoweverOftenItWasSeenAndFromThenOn) {
  Sampler sampler({.repetition_penalty = 1.5f}, 3);
  const Logits logits = {3, 2.1f, 1.9f};
  Logits scratch = logits;
  EXPECT_EQ(sampler.sample(scratch), 0);
  for (int i = 0; i < 5; ++i) sampler.observe(0);  // 2.0 now, however often
  sampler.observe(-1);
  sampler.observe(3);
  sampler.observe(std::numeric_limits<TokenId>::max());
  scratch = logits;
  EXPECT_EQ(sampler.sample(scratch), 1);
  sampler.observe(1);  // 1.4
  scratch = logits;
  EXPECT_EQ(sampler.sample(scratch), 0);
}

TEST(Sampler, DrawsFromTheSoftmax) {
  const Logits logits = {std::log(0.5f), std::log(0.25f), std::log(0.15f), std::log(0.1f)};
  Sampler sampler({.temperature = 1, .seed = 3}, 4);
  const auto counts = draw(sampler, logits, 200000);
  expect_distribution(counts, {0.5, 0.25, 0.15, 0.1});
  EXPECT_NEAR(static_cast<double>(counts[0]), 100000, 1200);
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  std::mt19937_64 random(2);
  const Logits logits = random_logits(random, 60, 2);
  for (const float temperature : {0.3f, 0.8f, 1.0f, 2.5f, 50.0f})
    expect_as_reference({.temperature = temperature, .seed = 5}, logits, 60000);
}

TEST(Sampler, ExtremeTemperaturesAreTheLikeliestAndTheUniform) {
  std::mt19937_64 random(3);
  const Logits logits = random_logits(random, 100, 3);
  const auto best = static_cast<std::size_t>(std::ranges::max_element(logits) - logits.begin());
  for (const float temperature : {std::numeric_limits<float>::denorm_min(), 1e-38f, 1e-6f}) {
    Sampler sampler({.temperature = temperature}, logits.size());
    EXPECT_EQ(draw(sampler, logits, 100)[best], 100u) << temperature;
  }
  Sampler hottest({.temperature = std::numeric_limits<float>::max()}, logits.size());
  expect_distribution(draw(hottest, logits, 50000), std::vector<double>(100, 0.01));
  // However hot, top-k goes by the logits.
  Sampler first({.temperature = std::numeric_limits<float>::max(), .top_k = 1}, logits.size());
  EXPECT_EQ(draw(first, logits, 100)[best], 100u);
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  std::mt19937_64 random(4);
  const Logits logits = random_logits(random, 300, 2);
  for (const std::uint32_t k : {1u, 2u, 40u, 299u, 300u, 301u, 4000000000u}) {
    expect_as_reference({.temperature = 1, .top_k = k, .seed = k}, logits, 30000);
  }
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  const Logits halves = {std::log(0.125f), std::log(0.5f), std::log(0.25f), std::log(0.125f)};
  const auto kept = [&](float top_p) {
    Sampler sampler({.temperature = 1, .top_p = top_p}, 4);
    std::set<std::size_t> tokens;
    const auto counts = draw(sampler, halves, 3000);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0) tokens.insert(i);
    }
    return tokens;
  };
  EXPECT_EQ(kept(1e-9f), (std::set<std::size_t>{1}));
  EXPECT_EQ(kept(0.49f), (std::set<std::size_t>{1}));
  EXPECT_EQ(kept(0.51f), (std::set<std::size_t>{1, 2}));
  EXPECT_EQ(kept(0.74f), (std::set<std::size_t>{1, 2}));
  EXPECT_EQ(kept(0.76f), (std::set<std::size_t>{0, 1, 2}));  // of two equally likely ones the lower id
  EXPECT_EQ(kept(0.99f), (std::set<std::size_t>{0, 1, 2, 3}));

  std::mt19937_64 random(5);
  const Logits logits = random_logits(random, 300, 2);
  for (const float top_p : {0.05f, 0.5f, 0.9f, 0.999f})
    expect_as_reference({.temperature = 1, .top_p = top_p, .seed = 8}, logits, 30000);
}

TEST(Sampler, MinPDropsWhatIsFarBelowTheLikeliest) {
  std::mt19937_64 random(6);
  const Logits logits = random_logits(random, 300, 2);
  for (const float min_p : {0.001f, 0.1f, 0.9999f})
    expect_as_reference({.temperature = 1.2f, .min_p = min_p, .seed = 9}, logits, 30000);
}

TEST(Sampler, AllStepsTogetherAreTheReferences) {
  std::mt19937_64 random(7);
  const auto pick = [&](auto... values) {
    const float all[] = {static_cast<float>(values)...};
    return all[random() % std::size(all)];
  };
  for (int round = 0; round < 100; ++round) {
    const std::size_t size = 2 + random() % 400;
    Logits logits = random_logits(random, size, pick(0.1, 1, 3, 10));
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(logit);  // many ties
    }
    if (round % 5 == 0) logits[random() % size] = kNan;
    if (round % 7 == 0) logits[random() % size] = -kInfinity;
    SamplingOptions options{.temperature = pick(0.2, 0.7, 1, 1.7),
                            .top_k = static_cast<std::uint32_t>(pick(0, 0, 1, 5, 50, 1000)),
                            .top_p = pick(1, 1, 0.2, 0.8, 0.97),
                            .min_p = pick(0, 0, 0.02, 0.3),
                            .repetition_penalty = pick(1, 1.1, 0.8, 4),
                            .seed = random(),
                            .logit_bias = {}};
    for (int i = 0; i < 3; ++i) {
      options.logit_bias.push_back(
          {.token = static_cast<TokenId>(random() % size), .bias = pick(-kInfinity, -1, 0.5, 3)});
    }
    std::vector<TokenId> seen;
    for (int i = 0; i < 10; ++i) seen.push_back(static_cast<TokenId>(random() % size));
    SCOPED_TRACE(testing::Message() << "round " << round << " size " << size << " temperature " << options.temperature
                                    << " top_k " << options.top_k << " top_p " << options.top_p << " min_p "
                                    << options.min_p << " penalty " << options.repetition_penalty);
    // With few tokens a bias may forbid them all, which has a test of its own.
    const auto expected = reference_probabilities(logits, options, std::set<TokenId>(seen.begin(), seen.end()));
    if (std::isnan(expected[0])) continue;
    expect_as_reference(options, logits, 4000, seen);
  }
}

// The vocabulary of a real model, where the search for top-k and top-p goes through several depths.
TEST(Sampler, KeepsTheSameTokensAsTheReferenceInALargeVocabulary) {
  std::mt19937_64 random(8);
  for (const double spread : {0.0, 0.5, 2.0, 6.0}) {
    Logits logits = random_logits(random, 49152, spread);
    logits[1234] += static_cast<float>(4 * spread);
    for (const SamplingOptions& options :
         {SamplingOptions{.temperature = 1, .top_k = 40}, SamplingOptions{.temperature = 1, .top_k = 20000},
          SamplingOptions{.temperature = 0.7f, .top_p = 0.9f},
          SamplingOptions{.temperature = 1, .top_k = 100, .top_p = 0.6f}}) {
      SCOPED_TRACE(testing::Message() << "spread " << spread << " top_k " << options.top_k << " top_p "
                                      << options.top_p);
      expect_as_reference(options, logits, 50);
    }
  }
}

TEST(Sampler, SameSeedSameTokensAndOtherSeedOtherTokens) {
  std::mt19937_64 random(9);
  const Logits logits = random_logits(random, 1000, 1);
  const auto tokens = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed}, logits.size());
    std::vector<TokenId> drawn;
    for (int i = 0; i < 50; ++i) {
      Logits scratch = logits;
      drawn.push_back(sampler.sample(scratch));
    }
    return drawn;
  };
  std::set<std::vector<TokenId>> histories;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(tokens(seed), tokens(seed));
    histories.insert(tokens(seed));
  }
  EXPECT_EQ(histories.size(), 20u);
}

// Pinned, so that a change of the random numbers does not go unnoticed: people keep seeds.
TEST(Sampler, TheFirstTokensOfASeedStayTheSame) {
  Logits logits(10, 0.0f);
  Sampler sampler({.temperature = 1, .seed = 42}, logits.size());
  std::vector<TokenId> drawn;
  for (int i = 0; i < 8; ++i) {
    logits.assign(10, 0.0f);
    drawn.push_back(sampler.sample(logits));
  }
  // SplitMix64 of the draw's number from mix(seed + golden), times 10, shifted right by 64, computed apart from this
  // code.
  EXPECT_EQ(drawn, (std::vector<TokenId>{3, 9, 4, 0, 6, 0, 1, 7}));
}

TEST(Sampler, ADrawDoesNotDependOnTheOnesBeforeItsNumber) {
  const Logits ordinary = {0, 1, 2, 3, 4, 5};
  Sampler one({.temperature = 1, .seed = 7}, ordinary.size());
  Sampler other({.temperature = 1, .seed = 7}, ordinary.size());
  Logits scratch(ordinary.size(), 1.0f);
  (void)one.sample(scratch);
  scratch.assign(ordinary.size(), kNan);
  (void)other.sample(scratch);
  for (int i = 0; i < 100; ++i) {
    Logits first = ordinary;
    Logits second = ordinary;
    ASSERT_EQ(one.sample(first), other.sample(second));
  }
}

TEST(Sampler, SurvivesNanAndInfiniteLogits) {
  for (const SamplingOptions& options :
       {SamplingOptions{}, SamplingOptions{.temperature = 1}, SamplingOptions{.temperature = 1, .top_k = 2},
        SamplingOptions{.temperature = 1, .top_p = 0.5f, .min_p = 0.1f}}) {
    EXPECT_EQ(sample_once(options, {kNan, kNan, kNan}), 0);
    EXPECT_EQ(sample_once(options, {-kInfinity, -kInfinity, -kInfinity}), 0);
    EXPECT_EQ(sample_once(options, {kNan, -kInfinity, -100, kNan}), 2);
    EXPECT_EQ(sample_once(options, {kNan, 3e38f, kInfinity, -3e38f}), 2);
    EXPECT_EQ(sample_once(options, {-3e38f, 3e38f, kNan, kNan}), 1);
  }
  Sampler sampler({.temperature = 1}, 4);
  expect_distribution(draw(sampler, {kInfinity, 5, kInfinity, kNan}, 2000), {0.5, 0, 0.5, 0});
}

TEST(Sampler, WhereEverythingIsForbiddenTheLikeliestIsTakenWithoutBias) {
  for (const float temperature : {0.0f, 1.0f}) {
    const SamplingOptions options{
        .temperature = temperature,
        .logit_bias = {{0, -kInfinity}, {1, -kInfinity}, {2, -kInfinity}, {1, 1.0f}, {1, -kInfinity}}};
    EXPECT_EQ(sample_once(options, {1, 3, 2}), 1);
    EXPECT_EQ(sample_once(options, {1, kNan, 2}), 2);
  }
}

TEST(Sampler, AllocatesNothingAfterConstruction) {
  std::mt19937_64 random(10);
  const std::size_t size = 49152;
  const Logits logits = random_logits(random, size, 1);
  for (SamplingOptions options : {SamplingOptions{}, SamplingOptions{.temperature = 1, .min_p = 0.1f},
                                  SamplingOptions{.temperature = 1, .top_k = 50, .top_p = 0.9f},
                                  SamplingOptions{.temperature = 3, .top_p = 0.9f}}) {
    options.repetition_penalty = 1.1f;
    options.logit_bias = {{.token = 3, .bias = 1}};
    Sampler sampler(options, size);
    Logits scratch = logits;
    const std::size_t before = allocations;
    for (TokenId token = 0; token < static_cast<TokenId>(size); ++token) sampler.observe(token);
    for (int i = 0; i < 3; ++i) {
      std::ranges::copy(logits, scratch.begin());
      sampler.observe(sampler.sample(scratch));
    }
    (void)kernels::logprob_of(logits, 5);
    EXPECT_EQ(allocations, before);
  }
}

double reference_logprob(const Logits& logits, std::size_t token) {
  long double maximum = -std::numeric_limits<long double>::infinity();
  for (const float logit : logits) maximum = std::max(maximum, static_cast<long double>(logit));
  long double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit) - maximum);
  return static_cast<double>(static_cast<long double>(logits[token]) - maximum - std::log(sum));
}

TEST(Logprob, IsTheLogSoftmax) {
  std::mt19937_64 random(11);
  for (const std::size_t size : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 49152u, 128256u}) {
    for (const double spread : {0.0, 0.01, 1.0, 10.0, 1000.0}) {
      Logits logits = random_logits(random, size, spread);
      for (float& logit : logits) logit += 500;  // overflows exp without the shift
      for (int i = 0; i < 5; ++i) {
        const std::size_t token = random() % size;
        const double expected = reference_logprob(logits, token);
        EXPECT_NEAR(kernels::logprob_of(logits, static_cast<TokenId>(token)), expected, 1e-5 + 1e-6 * std::abs(expected))
            << size << " " << spread;
      }
    }
  }
  EXPECT_EQ(kernels::logprob_of(Logits{5}, 0), 0.0f);
  EXPECT_FLOAT_EQ(kernels::logprob_of(Logits(4, -3e38f), 2), std::log(0.25f));
}

TEST(Logprob, SumsToOneOverALargeVocabulary) {
  std::mt19937_64 random(12);
  const Logits logits = random_logits(random, 3000, 3);
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    sum += std::exp(static_cast<double>(kernels::logprob_of(logits, static_cast<TokenId>(i))));
  EXPECT_NEAR(sum, 1, 1e-5);
}

TEST(Logprob, NanAndInfiniteLogits) {
  const Logits logits = {kNan, 1, -kInfinity, 1};
  EXPECT_EQ(kernels::logprob_of(logits, 0), -kInfinity);
  EXPECT_EQ(kernels::logprob_of(logits, 2), -kInfinity);
  EXPECT_FLOAT_EQ(kernels::logprob_of(logits, 1), std::log(0.5f));
  EXPECT_EQ(kernels::logprob_of(Logits{kNan, kNan}, 1), -kInfinity);
  EXPECT_FLOAT_EQ(kernels::logprob_of(Logits{kInfinity, 0, kInfinity}, 2), std::log(0.5f));
  EXPECT_EQ(kernels::logprob_of(Logits{kInfinity, 0, kInfinity}, 1), -kInfinity);
}

TEST(SamplingOptionsCheck, AcceptsTheEdgesOfEveryRange) {
  EXPECT_TRUE(validate({}, 100).ok());
  EXPECT_TRUE(
      validate({.temperature = 1000, .top_k = 4000000000, .top_p = 1e-30f, .min_p = 0.999f, .repetition_penalty = 10},
               100)
          .ok());
  EXPECT_TRUE(validate({.repetition_penalty = 1e-30f, .logit_bias = {{0, -kInfinity}, {99, 1e38f}, {0, 1}}}, 100).ok());
}

TEST(SamplingOptionsCheck, NamesTheFieldTheValueAndTheRange) {
  const auto refused = [](const SamplingOptions& options, const std::vector<std::string>& parts) {
    const Status status = validate(options, 100);
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    for (const std::string& part : parts)
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << " lacks " << part;
  };
  refused({.temperature = kNan}, {"temperature is nan", "at least 0"});
  refused({.temperature = kInfinity}, {"temperature is inf", "finite"});
  refused({.temperature = -0.5f}, {"temperature is -0.5", "at least 0"});
  for (const auto& [value, text] :
       std::map<float, std::string>{{0.0f, "0"}, {-1.0f, "-1"}, {1.5f, "1.5"}, {kInfinity, "inf"}}) {
    refused({.top_p = value}, {"top_p is " + text, "above 0 and at most 1"});
  }
  refused({.top_p = kNan}, {"top_p is nan"});
  for (const auto& [value, text] : std::map<float, std::string>{{1.0f, "1"}, {-0.25f, "-0.25"}, {-kInfinity, "-inf"}}) {
    refused({.min_p = value}, {"min_p is " + text, "at least 0 and below 1"});
  }
  refused({.min_p = kNan}, {"min_p is nan"});
  for (const auto& [value, text] :
       std::map<float, std::string>{{0.0f, "0"}, {-1.0f, "-1"}, {10.5f, "10.5"}, {kInfinity, "inf"}}) {
    refused({.repetition_penalty = value}, {"repetition_penalty is " + text, "above 0 and at most 10"});
  }
  refused({.repetition_penalty = kNan}, {"repetition_penalty is nan"});
  refused({.logit_bias = {{0, 0}, {100, 0}}}, {"logit_bias[1].token is 100", "0 to 99"});
  refused({.logit_bias = {{-1, 0}}}, {"logit_bias[0].token is -1", "0 to 99"});
  refused({.logit_bias = {{5, kNan}}}, {"logit_bias[0].bias is nan", "finite"});
  refused({.logit_bias = {{5, 1}, {5, kInfinity}}}, {"logit_bias[1].bias is inf", "finite"});
}

}  // namespace
}  // namespace tiercel
