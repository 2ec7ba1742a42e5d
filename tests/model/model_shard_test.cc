// A model shared by ranks against the same model alone: which part each has, and that the parts make the whole.
#include "model/model_shard.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "gguf/tensor_slice.h"
#include "model/llama_config.h"
#include "model/llama_model.h"
#include "ranks/gloo_communicator.h"
#include "ranks/tcp_communicator.h"
#include "tests/model/rank_model.h"
#include "tests/model/test_model.h"
#include "tests/model/tiny_model.h"

namespace tiercel {
namespace {

ModelShape shape_of(std::uint32_t heads, std::uint32_t kv_heads, std::uint32_t head_dim = 64) {
  ModelShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.feed_forward = 1536;
  shape.vocabulary = 49152;
  return shape;
}

using Range = ModelShard::Range;

TEST(ModelShard, RanksUpToTheKvHeadsHaveWholeOnes) {
  const auto first = shard_model(shape_of(9, 3), 0, 2).value(), second = shard_model(shape_of(9, 3), 1, 2).value();
  EXPECT_EQ(first.kv_heads, (Range{0, 2}));
  EXPECT_EQ(first.heads, (Range{0, 6}));
  EXPECT_EQ(second.kv_heads, (Range{2, 1}));
  EXPECT_EQ(second.heads, (Range{6, 3}));
}

TEST(ModelShard, MoreRanksThanKvHeadsShareTheirQueries) {
  const Range heads[] = {{0, 2}, {2, 1}, {3, 3}, {6, 3}}, kv_heads[] = {{0, 1}, {0, 1}, {1, 1}, {2, 1}};
  for (std::uint32_t rank = 0; rank < 4; ++rank) {
    const auto shard = shard_model(shape_of(9, 3), rank, 4).value();
    EXPECT_EQ(shard.heads, heads[rank]);
    EXPECT_EQ(shard.kv_heads, kv_heads[rank]);
  }
}

TEST(ModelShard, EveryHeadRowAndTokenIsOnOneRankBesideItsKvHead) {
  for (const auto& shape : {shape_of(9, 3), shape_of(32, 8), shape_of(12, 12), shape_of(16, 1), shape_of(40, 5)}) {
    const std::uint32_t group = shape.heads / shape.kv_heads;
    for (std::uint32_t size = 1; size <= shape.heads; ++size) {
      std::uint32_t next_head = 0, next_row = 0, next_token = 0;
      std::set<std::uint32_t> kv_heads;
      for (std::uint32_t rank = 0; rank < size; ++rank) {
        const auto shard = shard_model(shape, rank, size).value();
        EXPECT_EQ(shard.heads.first, std::exchange(next_head, next_head + shard.heads.count));
        EXPECT_EQ(shard.feed_forward.first, std::exchange(next_row, next_row + shard.feed_forward.count));
        EXPECT_EQ(shard.vocabulary.first, std::exchange(next_token, next_token + shard.vocabulary.count));
        ASSERT_GT(shard.heads.count, 0u);
        EXPECT_EQ(shard.feed_forward.count % 32, 0u);
        // Each KV head of a rank has as many of its query heads.
        ASSERT_EQ(shard.heads.count % shard.kv_heads.count, 0u);
        const std::uint32_t own_group = shard.heads.count / shard.kv_heads.count;
        for (std::uint32_t head = 0; head < shard.heads.count; ++head) {
          EXPECT_EQ((shard.heads.first + head) / group, shard.kv_heads.first + head / own_group);
        }
        for (std::uint32_t kv = 0; kv < shard.kv_heads.count; ++kv) kv_heads.insert(shard.kv_heads.first + kv);
      }
      EXPECT_EQ(next_head, shape.heads);
      EXPECT_EQ(next_row, shape.feed_forward);
      EXPECT_EQ(next_token, shape.vocabulary);
      EXPECT_EQ(kv_heads.size(), shape.kv_heads);
    }
  }
}

TEST(ModelShard, WhatCannotBeSharedIsRefused) {
  const auto too_many = shard_model(shape_of(9, 3), 0, 10);
  EXPECT_EQ(too_many.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(too_many.status().message().find("9 query heads"), std::string::npos) << too_many.status().to_string();
  EXPECT_EQ(shard_model(shape_of(8, 4, 80), 0, 2).status().code(), StatusCode::InvalidArgument);
  EXPECT_TRUE(shard_model(shape_of(8, 4, 80), 0, 1).ok());
}

TEST(TensorSlice, RowsAndColumnsHaveTheValuesOfTheWhole) {
  for (const TensorType type : {TensorType::F32, TensorType::BF16, TensorType::Q8_0, TensorType::Q4_1}) {
    TinyModel model({.name = "slices", .type = type});
    const auto file = GgufFile::parse(as_bytes(model.bytes), "tiny").value();
    const GgufTensor& matrix = *file.find_tensor("blk.0.ffn_down.weight");  // 64 rows of 96 columns
    const Matrix& values = model.tensors.at("blk.0.ffn_down.weight");
    std::vector<std::byte> storage;
    const GgufTensor slice = slice_rows(slice_columns(matrix, 32, 64, storage), 5, 20);
    ASSERT_EQ(slice.columns(), 64u);
    ASSERT_EQ(slice.rows(), 20u);
    std::vector<float> sliced(20 * 64);
    dequantize(type, slice.data, sliced);
    for (std::size_t row = 0; row < 20; ++row) {
      for (std::size_t column = 0; column < 64; ++column) {
        ASSERT_EQ(sliced[row * 64 + column], values[(row + 5) * 96 + column + 32]);
      }
    }
  }
}

class TinyRanks : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(
    Variants, TinyRanks,
    testing::Values(Variant{.name = "ThreeKvHeads", .heads = 9, .kv_heads = 3},
                    Variant{.name = "NoGrouping", .heads = 4, .kv_heads = 4, .own_head = true},
                    Variant{.name = "OneKvHead", .heads = 5, .kv_heads = 1, .type = TensorType::F16},
                    Variant{.name = "Q8_0", .heads = 6, .kv_heads = 2, .type = TensorType::Q8_0},
                    Variant{.name = "Q4_1", .heads = 9, .kv_heads = 3, .own_head = true, .type = TensorType::Q4_1}),
    [](const auto& variant) { return std::string(variant.param.name); });

TEST_P(TinyRanks, ComputeWhatOneComputes) {
  Variant variant = GetParam();
  variant.head_dim = variant.rotated = 32;
  variant.feed_forward = 160;
  variant.vocabulary = 170;
  const TinyModel tiny(variant);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(70, variant.vocabulary);
  for (const Compute compute : {Compute::Precise, Compute::Fast}) {
    const LlamaOptions options{.compute = compute, .threads = 1, .max_batch_tokens = 64, .max_logit_rows = 64};
    for (const std::size_t step_tokens : {40u, 1u}) {
      const auto alone = RankModel(open_file, options).logits(ids, step_tokens);
      const double tolerance = largest(alone) * (compute == Compute::Precise ? 2e-5 : 0.05);
      for (const std::uint32_t size : {2u, 3u, 4u}) {
        const auto ranks = logits_of_ranks(open_tcp_communicator, size, open_file, options, ids, step_tokens);
        ASSERT_EQ(ranks.size(), alone.size());
        for (std::size_t i = 0; i < alone.size(); ++i) {
          ASSERT_NEAR(ranks[i], alone[i], tolerance) << size << " ranks, steps of " << step_tokens << ", logit " << i;
        }
      }
    }
  }
}

// Sums over ranks are in one order whatever is beside them, so what holds for one alone holds for ranks.
TEST(Ranks, ATokenHasTheSameBitsInEveryBatch) {
  const TinyModel tiny = nine_heads("bits", TensorType::Q4_1);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(200, 170);
  const LlamaOptions options{.deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 256};
  // 200 rows of 64 floats are beyond what is sent whole, one row is not.
  const auto together = logits_of_ranks(open_tcp_communicator, 4, open_file, options, ids, 200, Arithmetic::Decode);
  const auto one_by_one = logits_of_ranks(open_tcp_communicator, 4, open_file, options, ids, 1, Arithmetic::Decode);
  EXPECT_TRUE(together == one_by_one);
}

TEST(Ranks, AFingerprintTellsRanksAndTheirNumberApart) {
  const TinyModel tiny = nine_heads("fingerprint", TensorType::F32);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const LlamaOptions options{.max_batch_tokens = 64};
  std::mutex mutex;
  std::set<std::array<std::uint64_t, 2>> fingerprints = {RankModel(open_file, options).model().fingerprint().words};
  for (const std::uint32_t size : {2u, 4u}) {  // of 4, ranks 0 and 1 have the same KV head
    run_ranks(open_tcp_communicator, size, [&](Communicator& communicator) {
      RankModel rank(open_file, options, &communicator);
      const std::lock_guard lock(mutex);
      fingerprints.insert(rank.model().fingerprint().words);
    });
  }
  EXPECT_EQ(fingerprints.size(), 7u);
}

TEST(Ranks, DifferentModelsAreRefusedByAll) {
  const Variant variant{.name = "a", .heads = 4, .head_dim = 32, .rotated = 32, .feed_forward = 160, .vocabulary = 170};
  Variant other = variant;
  other.own_head = true;
  const TinyModel models[] = {TinyModel(variant), TinyModel(other)};
  run_ranks(open_tcp_communicator, 2, [&](Communicator& communicator) {
    auto file = GgufFile::parse(as_bytes(models[communicator.rank()].bytes), "tiny").value();
    LlamaOptions options{.max_batch_tokens = 64, .communicator = &communicator};
    options.shard = shard_model(read_llama_config(file)->shape, communicator.rank(), 2).value();
    const auto loaded = load_llama(std::move(file), options);
    EXPECT_EQ(loaded.status().code(), StatusCode::InvalidArgument);
    EXPECT_NE(loaded.status().message().find("ranks 0 and 1"), std::string::npos) << loaded.status().to_string();
  });
}

// The real model, text by text: the likeliest token at every place is that of one rank, over both transports.
TEST(Ranks, TheRealModelHasTheSameLikeliestTokens) {
  REQUIRE_TEST_MODEL();
  const auto open_file = [] { return GgufFile::open(test_model_path()).value(); };
  nlohmann::json texts;
  std::ifstream(TIERCEL_TEST_DATA "/logprobs.json") >> texts;
  const std::vector<TokenId> ids = texts.front()["ids"];
  const LlamaOptions options{.compute = Compute::Precise, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 64};
  const auto alone = RankModel(open_file, options).logits(ids, 64);
  struct Setup {
    OpenCommunicator open;
    std::uint32_t size;
  };
  std::vector<Setup> setups = {{open_tcp_communicator, 2}, {open_tcp_communicator, 4}};
#if defined(TIERCEL_TEST_GLOO)
  setups.insert(setups.end(), {{open_gloo_communicator, 2}, {open_gloo_communicator, 4}});
#endif
  for (const auto& [open, size] : setups) {
    const auto ranks = logits_of_ranks(open, size, open_file, options, ids, 64);
    ASSERT_EQ(ranks.size(), alone.size());
    const std::size_t vocabulary = alone.size() / ids.size();
    double worst = 0;
    for (std::size_t i = 0; i < alone.size(); ++i) worst = std::max<double>(worst, std::abs(ranks[i] - alone[i]));
    EXPECT_LT(worst, 2e-3) << size << " ranks";
    for (std::size_t row = 0; row < ids.size(); ++row) {
      const auto likeliest = [&](const std::vector<float>& logits) {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * vocabulary);
        return std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocabulary)) - begin;
      };
      ASSERT_EQ(likeliest(ranks), likeliest(alone)) << size << " ranks, token " << row;
    }
  }
}

}  // namespace
}  // namespace tiercel
