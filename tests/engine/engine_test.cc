// The engine with the real model, through its public API: what requests do to the cache, and what its methods do to it.
#include "tiercel/engine.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tiercel/disk_tier.h"

namespace tiercel {
namespace {

std::string long_text() {
  std::string text = "A list of facts.";
  for (int i = 0; i < 40; ++i)
    text += " Fact " + std::to_string(i) + " is about the number " + std::to_string(i * i) + ".";
  return text;
}

TEST(Engine, EqualPromptsAtOnceAreComputedOnce) {
  REQUIRE_TEST_MODEL();
  CheckedEngine engine = Engine::open({.model = test_model_path()}).value();
  const std::size_t prompt_tokens = engine.tokenize(long_text()).value().size();
  std::vector<ResponseFuture> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(engine.process_request({.text = long_text(), .max_tokens = 4}));
  std::vector<std::string> answers;
  for (ResponseFuture& future : futures) answers.push_back(future.get().value().text);
  for (const std::string& answer : answers) EXPECT_EQ(answer, answers[0]);
  const EngineStats stats = engine.get_stats();
  EXPECT_EQ(stats.prompt_tokens, 4 * prompt_tokens);
  EXPECT_LE(stats.computed_prompt_tokens, prompt_tokens + 3 * engine.info().block_tokens)
      << "of the last three, their tails only";
}

// A prompt that meets a cached one in the middle of a block gets the answer, to the last bit of its log-probabilities,
// of one computed without a cache.
TEST(Engine, APartOfABlockFromTheCacheChangesNoBit) {
  REQUIRE_TEST_MODEL();
  for (const auto& [deterministic, kv_dtype] : {std::pair(false, KvDType::Auto), std::pair(true, KvDType::Auto),
                                                std::pair(false, KvDType::Int8), std::pair(true, KvDType::Int8)}) {
    const EngineOptions options{
        .model = test_model_path(), .cache = {.kv_dtype = kv_dtype}, .deterministic = deterministic};
    CheckedEngine cached = Engine::open(options).value();
    EngineOptions without = options;
    without.cache.prefix_reuse = false;
    CheckedEngine computed = Engine::open(without).value();
    const std::vector<TokenId> stem = cached.tokenize(long_text()).value();
    ASSERT_TRUE(cached.process_request({.tokens = stem, .max_tokens = 1}).get().ok());
    std::size_t partly_reused = 0;
    for (const std::size_t common : {7u, 45u, 100u, 203u, 331u, 401u}) {
      std::vector<TokenId> prompt(stem.begin(), stem.begin() + static_cast<std::ptrdiff_t>(common));
      prompt.insert(prompt.end(), stem.begin() + 20, stem.begin() + 90);
      const Response hit = cached.process_request({.tokens = prompt, .max_tokens = 16}).get().value();
      const Response miss = computed.process_request({.tokens = prompt, .max_tokens = 16}).get().value();
      EXPECT_GE(hit.reused_tokens, common);
      partly_reused += hit.reused_tokens % 32 != 0;
      EXPECT_EQ(hit.tokens, miss.tokens) << common;
      EXPECT_EQ(hit.logprobs, miss.logprobs) << common;
    }
    EXPECT_GE(partly_reused, 5u);
  }
}

std::uint32_t reused_from(const Response& response, std::string_view tier) {
  for (const auto& [name, tokens] : response.reused_by_tier) {
    if (name == tier) return tokens;
  }
  return 0;
}

// What comes back from a tier that loses nothing gives the bits that a computed prompt gives.
class EngineTiers : public testing::Test {
 protected:
  EngineTiers() {
    options.model = test_model_path();
    options.deterministic = true;
    options.cache.capacity_bytes = 24u << 20;  // one prompt, and not two
  }

  static Request request(const std::string& head) {
    return {.text = head + long_text(), .max_tokens = 12, .ignore_end_of_text = true};
  }
  // Computed without any cache.
  Response cold(const std::string& head) const {
    EngineOptions without{.model = options.model, .cache = {.kv_dtype = options.cache.kv_dtype}, .deterministic = true};
    without.cache.prefix_reuse = false;
    CheckedEngine engine = Engine::open(without).value();
    return engine.process_request(request(head)).get().value();
  }
  static void expect_equal(const Response& answer, const Response& computed) {
    EXPECT_EQ(answer.tokens, computed.tokens);
    EXPECT_EQ(answer.logprobs, computed.logprobs);
    std::uint32_t sum = 0;
    for (const auto& [tier, tokens] : answer.reused_by_tier) sum += tokens;
    EXPECT_EQ(sum, answer.reused_tokens);
  }

  TemporaryDirectory directory;
  EngineOptions options;
};

TEST_F(EngineTiers, MemoryGivesBackTheSameBits) {
  REQUIRE_TEST_MODEL();
  options.cache.memory_tier_bytes = 200u << 20;
  CheckedEngine engine = Engine::open(options).value();
  for (const char* head : {"One. ", "Two. ", "Three. "}) ASSERT_TRUE(engine.process_request(request(head)).get().ok());
  const Response answer = engine.process_request(request("One. ")).get().value();
  EXPECT_GT(reused_from(answer, "memory"), 300u);
  expect_equal(answer, cold("One. "));
  const EngineStats stats = engine.get_stats();
  ASSERT_EQ(stats.tiers.size(), 1u);
  EXPECT_EQ(stats.tiers[0].matched_tokens, reused_from(answer, "memory"));
  ASSERT_EQ(stats.hits.size(), 2u);
  EXPECT_EQ(stats.hits[1].tier, "memory");
  EXPECT_EQ(stats.hits[1].tokens, reused_from(answer, "memory"));
  EXPECT_EQ(stats.memory.limited_bytes, stats.memory.weights_bytes + stats.memory.mapped_weights_bytes +
                                            stats.memory.workspace_bytes + stats.memory.kv_capacity_bytes +
                                            options.cache.memory_tier_bytes);
}

// What computing costs is measured when the engine opens, within what a step may have.
TEST_F(EngineTiers, OpensWithTheSmallestSteps) {
  REQUIRE_TEST_MODEL();
  options.cache.memory_tier_bytes = 200u << 20;
  options.max_batch_sequences = options.max_batch_tokens = 32;
  CheckedEngine engine = Engine::open(options).value();
  const Response first = engine.process_request(request("One. ")).get().value();
  EXPECT_EQ(engine.process_request(request("One. ")).get().value().tokens, first.tokens);
}

TEST_F(EngineTiers, ADirectoryGivesBackTheSameBitsToTheNextProcess) {
  REQUIRE_TEST_MODEL();
  const Response computed = cold("");
  for (const Codec codec : {Codec::Raw, Codec::Lossless}) {
    options.cache.disk_dir = directory / std::string(to_string(codec));
    options.cache.disk_codec = codec;
    {
      CheckedEngine first = Engine::open(options).value();
      expect_equal(first.process_request(request("")).get().value(), computed);
      EXPECT_TRUE(first.flush().ok());
      const EngineStats stats = first.get_stats();
      EXPECT_EQ(stats.tiers[0].store.stored_bytes, inspect_disk_directory(options.cache.disk_dir)->file_bytes);
      EXPECT_EQ(stats.disk.written_bytes, stats.tiers[0].store.written_bytes);
      EXPECT_GT(stats.disk.written_blocks, 8u);
      EXPECT_EQ(stats.network.written_bytes, 0u);
      EXPECT_EQ(Engine::open(options).status().code(), StatusCode::Rejected) << "one writer at a time";
    }
    CheckedEngine second = Engine::open(options).value();
    const Response answer = second.process_request(request("")).get().value();
    EXPECT_GT(reused_from(answer, "disk"), 300u);
    expect_equal(answer, computed);
    const Response again = second.process_request(request("")).get().value();
    EXPECT_GT(reused_from(again, "hot"), 300u);
    expect_equal(again, computed);
    // And nothing is found that was forgotten, in the next process neither.
    second.invalidate_all();
  }
  CheckedEngine third = Engine::open(options).value();
  EXPECT_EQ(third.process_request(request("")).get()->reused_tokens, 0u);
}

// KV of 8 bits is in the tiers as it is in the arena: from memory and from disk, in this process and in the next, come
// the codes that were computed.
TEST_F(EngineTiers, GiveBackTheCodesOfKvOfInt8) {
  REQUIRE_TEST_MODEL();
  options.cache.kv_dtype = KvDType::Int8;
  options.cache.capacity_bytes = 12u << 20;  // one prompt, and not two
  const Response computed = cold("One. ");
  options.cache.memory_tier_bytes = 200u << 20;
  {
    CheckedEngine engine = Engine::open(options).value();
    EXPECT_EQ(engine.info().kv_dtype, "int8");
    EXPECT_EQ(engine.info().kv_token_bytes, 11'880u);
    for (const char* head : {"One. ", "Two. ", "Three. "})
      ASSERT_TRUE(engine.process_request(request(head)).get().ok());
    const Response answer = engine.process_request(request("One. ")).get().value();
    EXPECT_GT(reused_from(answer, "memory"), 300u);
    expect_equal(answer, computed);
  }
  options.cache.memory_tier_bytes = 0;
  for (const Codec codec : {Codec::Raw, Codec::Lossless}) {
    options.cache.disk_dir = directory / std::string(to_string(codec));
    options.cache.disk_codec = codec;
    {
      CheckedEngine first = Engine::open(options).value();
      expect_equal(first.process_request(request("One. ")).get().value(), computed);
      EXPECT_TRUE(first.flush().ok());
    }
    CheckedEngine second = Engine::open(options).value();
    const Response answer = second.process_request(request("One. ")).get().value();
    EXPECT_GT(reused_from(answer, "disk"), 300u);
    expect_equal(answer, computed);
  }
}

// The cache has room for one of them: when the one of higher priority comes, the other gives its place, is kept in a
// tier meanwhile, and goes on from there.
TEST_F(EngineTiers, ARequestThatGaveItsPlaceGoesOnWithTheSameBits) {
  REQUIRE_TEST_MODEL();
  const Response undisturbed = cold("Low. "), undisturbed_high = cold("High. ");
  for (const bool on_disk : {false, true}) {
    SCOPED_TRACE(on_disk ? "disk" : "memory");
    EngineOptions tiered = options;
    tiered.cache.capacity_bytes = 16u << 20;
    if (on_disk) {
      tiered.cache.disk_dir = directory / "demoted";
    } else {
      tiered.cache.memory_tier_bytes = 200u << 20;
    }
    CheckedEngine engine = Engine::open(tiered).value();
    ResponseFuture high;
    Request low = request("Low. ");
    low.on_token = [&](const TokenEvent&) {
      if (high.valid()) return;
      Request above = request("High. ");
      above.priority = 5;
      high = engine.process_request(std::move(above));
    };
    const Response answer = engine.process_request(std::move(low)).get().value();
    EXPECT_EQ(answer.preemptions, 1u);
    expect_equal(answer, undisturbed);
    expect_equal(high.get().value(), undisturbed_high);
    const EngineStats stats = engine.get_stats();
    EXPECT_EQ(stats.preemptions, 1u);
    EXPECT_EQ(stats.demotions, 1u);
    EXPECT_GT(stats.tiers[0].loaded_blocks, 0u) << "it was computed again";
    EXPECT_EQ(stats.prompt_tokens, answer.prompt_tokens.size() + undisturbed_high.prompt_tokens.size())
        << "each token counts once";
  }
}

TEST_F(EngineTiers, OtherSettingsNeverMatch) {
  REQUIRE_TEST_MODEL();
  options.cache.disk_dir = directory / "kv";
  const auto reused = [this] {
    CheckedEngine engine = Engine::open(options).value();
    return engine.process_request(request("")).get()->reused_tokens;
  };
  EXPECT_EQ(reused(), 0u);
  options.deterministic = false;  // other arithmetic
  EXPECT_EQ(reused(), 0u);
  options.cache.block_tokens = 16;
  EXPECT_EQ(reused(), 0u);
  options.cache.kv_dtype = KvDType::Int8;
  EXPECT_EQ(reused(), 0u);
  EXPECT_GT(reused(), 300u);
  options.cache.kv_dtype = KvDType::Auto;
  EXPECT_GT(reused(), 300u) << "each has its own there";
}

TEST(Engine, APrefixIsWarmedPinnedAndForgotten) {
  REQUIRE_TEST_MODEL();
  CheckedEngine engine = Engine::open({.model = test_model_path(), .cache = {.capacity_bytes = 64u << 20}}).value();
  const std::vector<TokenId> tokens = engine.tokenize(long_text()).value();
  const std::size_t whole_blocks = (tokens.size() - 1) / 32 * 32;
  EXPECT_EQ(engine.pin(tokens).status().code(), StatusCode::NotFound);

  const auto warmed = engine.process_request({.tokens = tokens, .max_tokens = 0}).get();
  ASSERT_TRUE(warmed.ok()) << warmed.status().to_string();
  EXPECT_TRUE(warmed->tokens.empty());
  EXPECT_EQ(engine.lookup(tokens), whole_blocks);
  EXPECT_EQ(engine.pin(tokens).value(), whole_blocks);

  // 91 blocks fit; these prompts need more.
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(engine.process_request({.text = std::to_string(i) + long_text(), .max_tokens = 0}).get().ok());
  }
  EXPECT_GT(engine.get_stats().evicted_blocks, 0u);
  EXPECT_EQ(engine.lookup(tokens), whole_blocks);
  EXPECT_EQ(engine.unpin(tokens), 1u);
  EXPECT_EQ(engine.lookup(tokens, "another tenant"), 0u);
  EXPECT_GE(engine.invalidate(tokens), 1u);
  EXPECT_LT(engine.lookup(tokens), whole_blocks);
  EXPECT_GT(engine.invalidate_all(), 0u);
  EXPECT_EQ(engine.lookup(tokens), 0u);
}

}  // namespace
}  // namespace tiercel
