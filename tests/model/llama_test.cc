// The real model against an independent float32 reference (tests/data/generate_logprob_data.py), and against itself.
#include "model/llama_model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/group_linear.h"
#include "model/llama_config.h"
#include "tests/model/test_model.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

struct Loaded {
  explicit Loaded(const LlamaOptions& options_) : options(options_) {
    auto file = GgufFile::open(test_model_path()).value();
    layout = llama_kv_layout(read_llama_config(file)->shape, options);
    model = load_llama(std::move(file), options).value();
    cache.emplace(
        KvCache::open({.capacity_bytes = std::size_t{256} << 20, .prefix_reuse = false}, layout, model->fingerprint())
            .value());
  }

  // Logits of every token, computed in chunks of the given sizes (the last one goes on to the end).
  std::vector<float> logits(const std::vector<TokenId>& ids, const std::vector<std::size_t>& chunks,
                            Arithmetic arithmetic = Arithmetic::Any) {
    auto lease = cache->admit(ids, {.max_tokens = ids.size()}).value();
    EXPECT_TRUE(lease.grow(ids.size()).ok());
    std::vector<float> out;
    for (std::size_t first = 0, i = 0; first < ids.size(); ++i) {
      const std::size_t left = ids.size() - first,
                        count = std::min(left, i < chunks.size() ? chunks[i] : options.max_logit_rows);
      const SequenceChunk chunk{.tokens = std::span(ids).subspan(first, count),
                                .first_position = first,
                                .block_table = lease.block_table(),
                                .logits = Logits::All,
                                .arithmetic = arithmetic};
      const auto rows = model->step({&chunk, 1}, cache->block(0)).value();
      out.insert(out.end(), rows.begin(), rows.end());
      first += count;
    }
    return out;
  }

  LlamaOptions options;
  KvLayout layout;
  std::unique_ptr<ModelRunner> model;
  std::optional<KvCache> cache;
};

double logprob(std::span<const float> logits, TokenId token) {
  double top = logits[0], sum = 0;
  for (const float logit : logits) top = std::max<double>(top, logit);
  for (const float logit : logits) sum += std::exp(logit - top);
  return logits[static_cast<std::size_t>(token)] - top - std::log(sum);
}

struct Deviation {
  double mean = 0, worst = 0;
};
Deviation deviation_from_reference(const LlamaOptions& options, Arithmetic arithmetic = Arithmetic::Any) {
  Loaded loaded(options);
  const std::size_t vocabulary = loaded.model->shape().vocabulary;
  nlohmann::json texts;
  std::ifstream(TIERCEL_TEST_DATA "/logprobs.json") >> texts;
  Deviation deviation;
  std::size_t count = 0;
  for (const auto& text : texts) {
    const std::vector<TokenId> ids = text["ids"];
    const auto logits = loaded.logits(ids, {}, arithmetic);
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const double off = std::abs(logprob(std::span(logits).subspan(i * vocabulary, vocabulary), ids[i + 1]) -
                                  text["logprobs"][i].get<double>());
      deviation.mean += off;
      deviation.worst = std::max(deviation.worst, off);
      ++count;
    }
  }
  EXPECT_GT(count, 400u);
  deviation.mean /= static_cast<double>(count);
  return deviation;
}

TEST(Llama, PreciseModeAgreesWithTheFloat32Reference) {
  REQUIRE_TEST_MODEL();
  const Deviation deviation =
      deviation_from_reference({.compute = Compute::Precise, .threads = 2, .max_batch_tokens = 256});
  EXPECT_LE(deviation.mean, 0.002);
  EXPECT_LE(deviation.worst, 0.02);
}

TEST(Llama, FastModeStaysWithinItsTolerance) {
  REQUIRE_TEST_MODEL();
  const Deviation deviation = deviation_from_reference({.threads = 2, .max_batch_tokens = 256});
  RecordProperty("mean_deviation", std::to_string(deviation.mean));
  RecordProperty("worst_deviation", std::to_string(deviation.worst));
  EXPECT_LE(deviation.mean, 0.03);
  EXPECT_GT(deviation.mean, 0.001) << "is this really the fast mode?";
}

TEST(Llama, TurboModeStaysWithinItsTolerance) {
  REQUIRE_TEST_MODEL();
  const Deviation deviation =
      deviation_from_reference({.compute = Compute::Turbo, .threads = 2, .max_batch_tokens = 256});
  RecordProperty("mean_deviation", std::to_string(deviation.mean));
  RecordProperty("worst_deviation", std::to_string(deviation.worst));
  EXPECT_LE(deviation.mean, 0.065);
  if (kernels::has_int8_products()) {
    EXPECT_GT(deviation.mean, 0.03) << "is this really the turbo mode?";
  }
}

// KV of 8 bits beside float32, where nothing else is rounded, and in the fast mode.
TEST(Llama, KvOfInt8StaysWithinItsTolerance) {
  REQUIRE_TEST_MODEL();
  const Deviation alone = deviation_from_reference(
      {.compute = Compute::Precise, .kv_dtype = KvDType::Int8, .threads = 2, .max_batch_tokens = 256});
  const Deviation fast = deviation_from_reference({.kv_dtype = KvDType::Int8, .threads = 2, .max_batch_tokens = 256});
  RecordProperty("mean_deviation", std::to_string(alone.mean));
  RecordProperty("worst_deviation", std::to_string(alone.worst));
  RecordProperty("fast_mean_deviation", std::to_string(fast.mean));
  EXPECT_LE(alone.mean, 0.03);
  EXPECT_GT(alone.mean, 0.002) << "is this really int8?";
  EXPECT_LE(fast.mean, 0.04);
}

TEST(Llama, BothDeterministicArithmeticsStayWithinTheTolerance) {
  REQUIRE_TEST_MODEL();
  for (const Arithmetic arithmetic : {Arithmetic::Prefill, Arithmetic::Decode}) {
    EXPECT_LE(deviation_from_reference({.deterministic = true, .threads = 2, .max_batch_tokens = 256}, arithmetic).mean,
              0.03);
  }
}

std::vector<TokenId> some_tokens(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(1000 + random() % 20000);
  return ids;
}

void expect_same_bits_in_every_chunking(const LlamaOptions& options) {
  Loaded loaded(options);
  const auto ids = some_tokens(150, 1);
  for (const Arithmetic arithmetic : {Arithmetic::Prefill, Arithmetic::Decode}) {
    const auto whole = loaded.logits(ids, {128, 22}, arithmetic);
    for (const auto& chunks :
         std::vector<std::vector<std::size_t>>{{1, 31, 32, 86}, {100, 1, 1, 48}, {17, 17, 17, 17, 17, 65}}) {
      const auto parts = loaded.logits(ids, chunks, arithmetic);
      ASSERT_EQ(parts.size(), whole.size());
      EXPECT_EQ(std::memcmp(whole.data(), parts.data(), whole.size() * sizeof(float)), 0);
    }
  }
}

TEST(Llama, DeterministicArithmeticGivesTheSameBitsInEveryChunking) {
  REQUIRE_TEST_MODEL();
  expect_same_bits_in_every_chunking({.deterministic = true, .threads = 2, .max_batch_tokens = 256});
}

// A chunk's own keys and values too are read from their codes.
TEST(Llama, KvOfInt8GivesTheSameBitsInEveryChunking) {
  REQUIRE_TEST_MODEL();
  for (const std::uint32_t block_tokens : {8u, 32u}) {
    expect_same_bits_in_every_chunking({.kv_dtype = KvDType::Int8,
                                        .deterministic = true,
                                        .threads = 2,
                                        .max_batch_tokens = 256,
                                        .block_tokens = block_tokens});
  }
}

// Sequences of one step must not see each other, whatever their lengths, however their blocks lie, and whichever of
// their rows go through the last layer.
TEST(Llama, ABatchComputesEachSequenceAsIfAlone) {
  REQUIRE_TEST_MODEL();
  Loaded loaded({.deterministic = true, .threads = 2, .max_batch_tokens = 256});
  const std::size_t vocabulary = loaded.model->shape().vocabulary;
  std::vector<std::vector<TokenId>> prompts;
  std::vector<Lease> leases;
  for (unsigned i = 0; i < 6; ++i) {
    prompts.push_back(some_tokens(1 + i * 11, 10 + i));
    leases.push_back(loaded.cache->admit(prompts.back(), {.max_tokens = 100}).value());
  }
  // Grown in turns, so that block tables interleave.
  for (std::size_t tokens = 1; tokens <= 60; ++tokens) {
    for (std::size_t i = 0; i < leases.size(); ++i)
      ASSERT_TRUE(leases[i].grow(std::min(tokens, prompts[i].size())).ok());
  }
  std::vector<SequenceChunk> chunks;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    chunks.push_back({.tokens = prompts[i],
                      .first_position = 0,
                      .block_table = leases[i].block_table(),
                      .logits = std::array{Logits::Last, Logits::None, Logits::All}[i % 3],
                      .arithmetic = Arithmetic::Decode});
  }
  const auto rows = loaded.model->step(chunks, loaded.cache->block(0)).value();
  const std::vector<float> together(rows.begin(), rows.end());
  std::size_t next = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (chunks[i].logits == Logits::None) continue;
    const auto alone = loaded.logits(prompts[i], {}, Arithmetic::Decode);
    const std::size_t floats = chunks[i].logits == Logits::All ? alone.size() : vocabulary;
    ASSERT_LE(next + floats, together.size());
    EXPECT_EQ(std::memcmp(&together[next], &alone[alone.size() - floats], floats * sizeof(float)), 0)
        << "sequence " << i;
    next += floats;
  }
  EXPECT_EQ(next, together.size());
}

TEST(Llama, AFingerprintTellsModelsLayoutsAndModesApart) {
  REQUIRE_TEST_MODEL();
  const Fingerprint fast = Loaded({.max_batch_tokens = 64}).model->fingerprint();
  EXPECT_EQ(fast, Loaded({.max_batch_tokens = 128}).model->fingerprint()) << "batch size changes no KV value";
  EXPECT_NE(fast, Loaded({.max_batch_tokens = 64, .block_tokens = 16}).model->fingerprint());
  EXPECT_NE(fast, Loaded({.compute = Compute::Precise, .max_batch_tokens = 64}).model->fingerprint());
  EXPECT_NE(fast, Loaded({.kv_dtype = KvDType::Int8, .max_batch_tokens = 64}).model->fingerprint());
}

}  // namespace
}  // namespace tiercel
