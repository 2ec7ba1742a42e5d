// Whole models on an emulated GPU: against a plain transformer, in batches, and with blocks from a tier. Nothing here
// needs the emulator: `tiercel gpu-check` runs it on a real one.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/device/tiny_device_model.h"
#include "tests/model/plain_llama.h"

namespace tiercel {
namespace {

class DeviceLlamaTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override { cuemu::reset_device({.seed = 11}); }
};
// Head sizes are those of the kernels.
INSTANTIATE_TEST_SUITE_P(
    Variants, DeviceLlamaTest,
    testing::Values(
        Variant{.name = "Plain", .heads = 2, .kv_heads = 1, .head_dim = 64, .rotated = 64},
        Variant{.name = "WideHeads", .heads = 3, .kv_heads = 3, .head_dim = 96, .rotated = 96},
        Variant{.name = "PartlyRotated", .head_dim = 64, .rotated = 32},
        Variant{.name = "OwnHead", .heads = 2, .head_dim = 80, .rotated = 80, .own_head = true},
        Variant{.name = "Q8_0", .heads = 2, .head_dim = 64, .rotated = 64, .type = TensorType::Q8_0},
        Variant{.name = "Q4_1", .heads = 2, .head_dim = 64, .rotated = 64, .own_head = true, .type = TensorType::Q4_1}),
    [](const auto& variant) { return std::string(variant.param.name); });

TEST_P(DeviceLlamaTest, LogitsAgreeWithAPlainTransformer) {
  const TinyModel tiny(GetParam());
  const Tokens tokens = draw_tokens(3, 22, GetParam().vocabulary);
  const Row expected = reference_logits(tiny, tokens);
  double size = 0;
  for (const double logit : expected) size = std::max(size, std::abs(logit));
  DeviceModel precise(tiny, Compute::Precise), fast(tiny, Compute::Fast);
  for (const std::size_t chunk_tokens : {22u, 9u, 3u}) {
    if (kSanitized && chunk_tokens != 9) continue;  // prompts, and a rest that decodes
    const Floats exact = precise.compute(tokens, chunk_tokens), rounded = fast.compute(tokens, chunk_tokens);
    ASSERT_EQ(exact.size(), expected.size());
    ASSERT_EQ(rounded.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(exact[i], expected[i], 2e-5 * size) << "chunks of " << chunk_tokens << ", logit " << i;
      ASSERT_NEAR(rounded[i], expected[i], 0.05 * size) << "chunks of " << chunk_tokens << ", logit " << i;
    }
  }
}

// With the arithmetic named, a token's bits do not depend on who shares its step.
TEST(DeviceLlama, ARowHasTheSameBitsInEveryBatch) {
  for (std::uint64_t seed = 1; seed <= (kSanitized ? 1 : 3); ++seed) {
    cuemu::reset_device({.seed = seed});
    DeviceModel model(small_model(), Compute::Fast, 24, {}, /*deterministic=*/true);
    struct Sequence {
      Tokens tokens;
      Arithmetic arithmetic;
      Floats alone;
      Lease lease;
    };
    std::vector<Sequence> sequences;
    for (std::uint32_t i = 0; i < 4; ++i) {
      Sequence s{.tokens = draw_tokens(i, 5 + 7 * i, 50),
                 .arithmetic = i % 2 == 0 ? Arithmetic::Decode : Arithmetic::Prefill,
                 .alone = {},
                 .lease = {}};
      s.alone = model.compute(s.tokens, 100, s.arithmetic);
      s.lease = model.cache->admit(s.tokens, {.max_tokens = s.tokens.size(), .max_matched_tokens = 0}).value();
      ASSERT_TRUE(s.lease.grow(s.tokens.size()).ok());
      sequences.push_back(std::move(s));
    }
    std::vector<SequenceChunk> chunks;
    for (const Sequence& s : sequences) {
      chunks.push_back({.tokens = s.tokens,
                        .block_table = s.lease.block_table(),
                        .logits = Logits::Last,
                        .arithmetic = s.arithmetic});
    }
    const auto rows = model.runner->step(chunks, model.cache->block(0));
    ASSERT_TRUE(rows.ok()) << rows.status().to_string();
    const std::size_t vocabulary = model.runner->shape().vocabulary;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(Floats(rows->begin() + static_cast<std::ptrdiff_t>(i * vocabulary),
                       rows->begin() + static_cast<std::ptrdiff_t>((i + 1) * vocabulary)),
                sequences[i].alone)
          << i;
    }
  }
}

// A prefix goes to a tier, leaves the GPU, comes back, and gives the bits that computing it gave.
TEST(DeviceLlama, BlocksFromATierGiveTheBitsOfComputedOnes) {
  for (std::uint64_t seed = 0; seed < (kSanitized ? 1 : 3); ++seed) {
    cuemu::reset_device({.seed = seed});
    DeviceModel model(small_model(), Compute::Fast, 4,
                      {.tiers = {memory_tier({.capacity_bytes = std::size_t{1} << 20}).value()}});
    const Tokens tokens = draw_tokens(8, 37, 50), others = draw_tokens(9, 64, 50);
    const Floats computed = model.compute(tokens, 16, Arithmetic::Prefill);
    model.turn_tiers();
    model.cache->report_prefill(16, 0, 1.0);  // computing takes time, so loading pays
    {
      auto lease = model.cache->admit(others, {.max_tokens = others.size()}).value();
      model.compute(lease, others, 16, Arithmetic::Prefill);  // takes all blocks
    }
    ASSERT_EQ(model.cache->lookup(tokens, {}), 0u);
    auto expected = model.cache->expect(tokens, {});
    model.turn_tiers();
    auto lease = model.cache->admit(tokens, {.max_tokens = tokens.size(), .max_matched_tokens = 32}, &expected).value();
    ASSERT_EQ(lease.matched_tokens(), 32u);
    ASSERT_EQ(lease.matched_tokens_from(0), 32u);
    EXPECT_EQ(model.compute(lease, tokens, 16, Arithmetic::Prefill), computed);
  }
}

// A block whose beginning matches is copied on the GPU.
TEST(DeviceLlama, APartOfABlockIsCopied) {
  cuemu::reset_device({.seed = 4});
  DeviceModel model(small_model(), Compute::Precise);
  const Tokens first = draw_tokens(8, 32, 50);
  Tokens second(first.begin(), first.begin() + 30);
  second[27] = (first[27] + 1) % 50;
  const Floats computed = model.compute(second, 5);
  DeviceModel other(small_model(), Compute::Precise);
  other.compute(first, 5);
  auto lease = other.cache->admit(second, {.max_tokens = second.size()}).value();
  ASSERT_EQ(lease.matched_tokens(), 27u);
  EXPECT_EQ(other.compute(lease, second, 3, Arithmetic::Any), computed);
}

TEST(DeviceLlama, WhatNoKernelHasIsRefused) {
  cuemu::reset_device({});
  const TinyModel tiny(Variant{.name = "SmallHeads"});
  const auto file = GgufFile::parse(as_bytes(tiny.bytes), "tiny").value();
  const auto loaded = load_device_llama(file, {});
  EXPECT_EQ(loaded.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(loaded.status().message().find("heads have 16 dimensions"), std::string::npos);
  const auto too_many = load_device_llama(file, {.max_batch_tokens = 65536});
  EXPECT_NE(too_many.status().message().find("max_batch_tokens is 65536"), std::string::npos);
}

}  // namespace
}  // namespace tiercel
