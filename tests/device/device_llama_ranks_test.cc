// A model on several emulated GPUs, by heads: against a plain transformer, and when a rank is lost.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/device/nccl_ranks.h"
#include "tests/device/tiny_device_model.h"
#include "tests/model/plain_llama.h"

namespace tiercel {
namespace {

const TinyModel& shared_model() {
  static const TinyModel model(Variant{.name = "Shared",
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .rotated = 64,
                                       .feed_forward = 128,
                                       .vocabulary = 160,
                                       .type = TensorType::Q4_1});
  return model;
}

// One rank's part of the model, with blocks of its own.
struct RankModel {
  RankModel(std::uint32_t rank, std::uint32_t size, const NcclId& id, Compute compute) {
    const auto file = GgufFile::parse(as_bytes(shared_model().bytes), "tiny").value();
    const ModelShape shape = read_llama_config(file)->shape;
    DeviceLlamaOptions options{.device = static_cast<int>(rank),
                               .compute = compute,
                               .max_batch_tokens = 32,
                               .max_sequences = 2,
                               .max_logit_rows = 4,
                               .context_tokens = 32,
                               .block_tokens = 16,
                               .shard = shard_model(shape, rank, size).value()};
    options.open_communicator = [&, rank, size, id](const CudaStream& stream) {
      auto opened = open_nccl_communicator(nccl_options(rank, size), id, stream);
      if (opened.ok()) communicator = opened->get();
      return opened;
    };
    auto loaded = load_device_llama(file, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    runner = std::move(loaded).value();
    memory = DeviceBlockMemory::reserve(2, device_llama_kv_layout(shape, options)).value();
  }
  Result<std::span<float>> step(std::span<const TokenId> tokens, std::size_t position, Logits logits) const {
    static constexpr BlockId kTable[] = {1, 0};
    const SequenceChunk chunk{.tokens = tokens, .first_position = position, .block_table = kTable, .logits = logits};
    return runner->step({&chunk, 1}, memory->block(0));
  }

  Communicator* communicator = nullptr;  // the runner's
  std::unique_ptr<ModelRunner> runner;
  std::shared_ptr<DeviceBlockMemory> memory;
};

class DeviceLlamaRanks : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceLlamaRanks, testing::Range(0, kSanitized ? 1 : 3));

// Two ranks have a KV head each; four share them, and have a query head each.
TEST_P(DeviceLlamaRanks, LogitsAgreeWithAPlainTransformer) {
  const Tokens tokens = draw_tokens(3, 18, 160);
  const Row expected = reference_logits(shared_model(), tokens);
  double largest = 0;
  for (const double logit : expected) largest = std::max(largest, std::abs(logit));
  for (const std::uint32_t size : {2u, 4u}) {
    for (const Compute compute : {Compute::Precise, Compute::Fast}) {
      const NcclId id = create_nccl_id().value();
      run_gpus(size, [&](std::uint32_t rank, CudaStream&) {
        const RankModel model(rank, size, id, compute);
        EXPECT_EQ(model.runner->shape().heads, 4u);
        ASSERT_TRUE(model.step(std::span(tokens).first(15), 0, Logits::None).ok());
        ASSERT_TRUE(model.step(std::span(tokens).subspan(15, 1), 15, Logits::Last).ok());
        const auto logits = model.step(std::span(tokens).last(2), 16, Logits::All);
        ASSERT_TRUE(logits.ok()) << logits.status().to_string();
        ASSERT_EQ(logits->size(), rank == 0 ? 2 * expected.size() : 0);
        if (rank > 0) return;
        for (std::size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR((*logits)[expected.size() + i], expected[i],
                      (compute == Compute::Precise ? 2e-5 : 0.05) * largest)
              << size << " ranks, logit " << i;
        }
      });
    }
  }
}

// What is left of them says so, soon, and never computes again.
TEST_P(DeviceLlamaRanks, ALostRankEndsTheOthers) {
  const Tokens tokens = draw_tokens(3, 12, 160);
  const NcclId id = create_nccl_id().value();
  run_gpus(2, [&](std::uint32_t rank, CudaStream&) {
    const RankModel model(rank, 2, id, Compute::Fast);
    ASSERT_TRUE(model.step(tokens, 0, Logits::Last).ok());
    model.communicator->set_timeout_ms(300);
    if (rank == 1) return;
    const auto lost = model.step(std::span(tokens).first(1), 12, Logits::Last);
    EXPECT_TRUE(lost.status().code() == StatusCode::DeadlineExceeded || lost.status().code() == StatusCode::Unavailable)
        << lost.status().to_string();
    EXPECT_EQ(model.step(std::span(tokens).first(1), 12, Logits::Last).status().message(), lost.status().message());
  });
}

}  // namespace
}  // namespace tiercel
