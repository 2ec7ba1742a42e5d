// Small random models of every variant that the architecture allows, against a plain transformer in double precision:
// what the one real model at hand does not exercise (RoPE scalings, own output head, no grouping, partial rotation,
// other types).
#include <cmath>
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "model/llama_config.h"
#include "model/llama_model.h"
#include "tests/model/plain_llama.h"
#include "tests/model/tiny_model.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

std::vector<float> engine_logits(const TinyModel& m, const std::vector<TokenId>& ids, Compute compute,
                                 std::size_t chunk_tokens) {
  auto file = GgufFile::parse(as_bytes(m.bytes), "tiny").value();
  const LlamaOptions options{.compute = compute, .threads = 2, .max_batch_tokens = 64, .max_logit_rows = 8};
  const KvLayout layout = llama_kv_layout(read_llama_config(file)->shape, options);
  auto model = load_llama(std::move(file), options).value();
  auto cache = KvCache::open({.capacity_bytes = 8 * layout.block_bytes()}, layout, model->fingerprint()).value();
  auto lease = cache.admit(ids, {.max_tokens = ids.size()}).value();
  EXPECT_TRUE(lease.grow(ids.size()).ok());
  std::span<float> rows;
  for (std::size_t first = 0; first < ids.size(); first += chunk_tokens) {
    const std::size_t count = std::min(chunk_tokens, ids.size() - first);
    const SequenceChunk chunk{.tokens = std::span(ids).subspan(first, count),
                              .first_position = first,
                              .block_table = lease.block_table(),
                              .logits = first + count == ids.size() ? Logits::Last : Logits::None};
    rows = model->step({&chunk, 1}, cache.block(0)).value();
  }
  return {rows.begin(), rows.end()};
}

class LlamaReference : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(
    Variants, LlamaReference,
    testing::Values(Variant{.name = "Plain"}, Variant{.name = "NoGrouping", .heads = 2, .kv_heads = 2},
                    Variant{.name = "OneKvHead", .kv_heads = 1},
                    Variant{.name = "WideHeads", .heads = 3, .kv_heads = 3, .head_dim = 32, .rotated = 32},
                    Variant{.name = "PartlyRotated", .rotated = 8},
                    Variant{.name = "LinearScaling", .linear_factor = 4},
                    Variant{.name = "Llama3Scaling", .rope_base = 500000, .rope_divisors = true},
                    Variant{.name = "OwnHead", .own_head = true}, Variant{.name = "F16", .type = TensorType::F16},
                    Variant{.name = "BF16", .own_head = true, .type = TensorType::BF16},
                    Variant{.name = "Q8_0", .type = TensorType::Q8_0},
                    Variant{.name = "Q4_0", .own_head = true, .type = TensorType::Q4_0},
                    Variant{.name = "Q4_1", .type = TensorType::Q4_1}),
    [](const auto& variant) { return std::string(variant.param.name); });

TEST_P(LlamaReference, LogitsAgree) {
  const TinyModel model(GetParam());
  std::vector<TokenId> ids;
  std::mt19937 random(3);
  for (int i = 0; i < 45; ++i) ids.push_back(static_cast<TokenId>(random() % GetParam().vocabulary));
  const Row expected = reference_logits(model, ids);
  double size = 0;
  for (const double logit : expected) size = std::max(size, std::abs(logit));
  for (const std::size_t chunk_tokens : {45u, 7u, 1u}) {
    const auto precise = engine_logits(model, ids, Compute::Precise, chunk_tokens),
               fast = engine_logits(model, ids, Compute::Fast, chunk_tokens);
    ASSERT_EQ(precise.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(precise[i], expected[i], 2e-5 * size) << "chunks of " << chunk_tokens << ", logit " << i;
      EXPECT_NEAR(fast[i], expected[i], 0.05 * size) << "chunks of " << chunk_tokens << ", logit " << i;
    }
  }
}

std::string error_of(const std::function<void(GgufBuilder&)>& change, Variant variant = {.name = "Base"}) {
  TinyModel model(variant);
  change(model.file);
  const std::string bytes = model.file.build();
  auto file = GgufFile::parse(as_bytes(bytes), "tiny");
  if (!file.ok()) return file.status().message();
  const auto loaded = load_llama(std::move(*file), {.max_batch_tokens = 64, .max_logit_rows = 8});
  return loaded.ok() ? "" : loaded.status().to_string();
}

TEST(LlamaErrors, AnotherModelThanThisArchitectureIsRefusedByName) {
  EXPECT_EQ(error_of([](GgufBuilder&) {}), "");
  const auto extra =
      error_of([](GgufBuilder& f) { f.tensor("blk.0.attn_q.bias", {64}, TensorType::F32, std::string(256, '\0')); });
  EXPECT_NE(extra.find("blk.0.attn_q.bias"), std::string::npos) << extra;
  const auto experts = error_of([](GgufBuilder& f) { f.number("llama.expert_count", GgufKind::U32, 8u); });
  EXPECT_NE(experts.find("mixture-of-experts"), std::string::npos) << experts;
  const auto yarn = error_of([](GgufBuilder& f) { f.text("llama.rope.scaling.type", "yarn"); });
  EXPECT_NE(yarn.find("yarn"), std::string::npos) << yarn;
  const auto heads = error_of([](GgufBuilder&) {}, {.name = "Uneven", .heads = 4, .kv_heads = 3});
  EXPECT_NE(heads.find("evenly"), std::string::npos) << heads;
  const auto size = error_of([](GgufBuilder&) {}, {.name = "OddHead", .head_dim = 24, .rotated = 24});
  EXPECT_NE(size.find("multiple of 16"), std::string::npos) << size;
}

}  // namespace
}  // namespace tiercel
