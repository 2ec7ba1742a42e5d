// A model on several emulated GPUs, by heads, by layers and both: against a plain transformer or one GPU, and when a
// rank is lost.
#include <array>
#include <atomic>
#include <cmath>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "model/micro_batches.h"
#include "tests/device/nccl_ranks.h"
#include "tests/device/tiny_device_model.h"
#include "tests/model/plain_llama.h"
#include "tests/ranks/recording_communicator.h"

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

const TinyModel& staged_model() {
  static const TinyModel model(Variant{.name = "Staged",
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .rotated = 64,
                                       .layers = 3,
                                       .feed_forward = 128,
                                       .vocabulary = 160,
                                       .type = TensorType::Q4_1});
  return model;
}

// How many ranks share the model, and in how many stages.
struct Grid {
  std::uint32_t size = 1, stages = 1;
};

DeviceLlamaOptions small_steps(Compute compute) {
  return {.compute = compute,
          .max_batch_tokens = 32,
          .max_sequences = 2,
          .max_logit_rows = 4,
          .context_tokens = 32,
          .block_tokens = 16};
}

// One rank's part of a model, with blocks of its own.
struct RankModel {
  RankModel(const TinyModel& tiny, std::uint32_t rank, Grid grid, const NcclId& id, DeviceLlamaOptions options,
            std::size_t blocks = 2) {
    const auto file = GgufFile::parse(as_bytes(tiny.bytes), "tiny").value();
    const ModelShape shape = read_llama_config(file)->shape;
    options.device = static_cast<int>(rank);
    if (grid.size > 1) options.shard = shard_model(shape, rank, grid.size, grid.stages).value();
    options.open_communicator = [&, rank, grid, id](const CudaStream& stream) {
      auto opened = open_nccl_communicator(nccl_options(rank, grid.size), id, stream);
      if (!opened.ok()) return opened;
      communicator = opened->get();
      auto recorded = std::make_unique<RecordingCommunicator>(*std::move(opened));
      recording = recorded.get();
      return Result<std::unique_ptr<Communicator>>(std::move(recorded));
    };
    auto loaded = load_device_llama(file, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    runner = std::move(loaded).value();
    layout = device_llama_kv_layout(shape, options);
    memory = DeviceBlockMemory::reserve(blocks, layout).value();
  }
  RankModel(std::uint32_t rank, std::uint32_t size, const NcclId& id, Compute compute)
      : RankModel(shared_model(), rank, {.size = size}, id, small_steps(compute)) {}

  Result<std::span<float>> step(std::span<const SequenceChunk> chunks) const {
    return runner->step(chunks, memory->block(0));
  }
  Result<std::span<float>> step(std::span<const TokenId> tokens, std::size_t position, Logits logits) const {
    static constexpr BlockId kTable[] = {1, 0};
    const SequenceChunk chunk{.tokens = tokens, .first_position = position, .block_table = kTable, .logits = logits};
    return step({&chunk, 1});
  }

  Communicator* communicator = nullptr;        // the runner's
  RecordingCommunicator* recording = nullptr;  // what it calls
  KvLayout layout;
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

// Steps of a server: a prompt in two pieces, the second of several micro-batches beside sequences that have a token
// each, some with logits and some without. Rank 0's logits.
constexpr std::size_t kPrompt = 3 * kDeviceMicroBatchRows + 5, kPiece = kDeviceMicroBatchRows + 7, kOthers = 5;

Floats logits_of_a_server(const RankModel& model) {
  static const Tokens prompt = draw_tokens(7, kPrompt, 160), others = draw_tokens(8, kOthers, 160);
  std::vector<BlockId> table(kPrompt / 16 + 1);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<BlockId>(table.size() - i + kOthers - 1);
  Floats all;
  const auto step = [&](std::span<const SequenceChunk> chunks) {
    const auto logits = model.step(chunks);
    EXPECT_TRUE(logits.ok()) << logits.status().to_string();
    if (logits.ok()) all.insert(all.end(), logits->begin(), logits->end());
  };
  const SequenceChunk first[] = {
      {.tokens = std::span(prompt).first(kPiece), .block_table = table, .arithmetic = Arithmetic::Prefill}};
  step(first);
  std::vector<SequenceChunk> second;
  const BlockId tables[] = {0, 1, 2, 3, 4};
  for (std::size_t i = 0; i < kOthers; ++i) {
    second.push_back({.tokens = std::span(others).subspan(i, 1),
                      .block_table = {&tables[i], 1},
                      .logits = i == 2 ? Logits::None : Logits::Last,
                      .arithmetic = Arithmetic::Decode});
  }
  second.insert(second.begin() + 3, {.tokens = std::span(prompt).subspan(kPiece),
                                     .first_position = kPiece,
                                     .block_table = table,
                                     .logits = Logits::All,
                                     .arithmetic = Arithmetic::Prefill});
  step(second);
  return all;
}

// Hidden states go from stage to stage as they are, so stages change no bit of what one computes; nor do micro-batches.
TEST_P(DeviceLlamaRanks, StagesHaveTheBitsOfOne) {
  const auto run = [&](Grid grid) {
    const NcclId id = create_nccl_id().value();
    Floats logits;
    run_gpus(grid.size, [&](std::uint32_t rank, CudaStream&) {
      const RankModel model(staged_model(), rank, grid, id,
                            {.compute = GetParam() == 1 ? Compute::Precise : Compute::Fast,
                             .deterministic = true,
                             .max_batch_tokens = kPrompt - kPiece + kOthers,
                             .max_sequences = kOthers + 1,
                             .max_logit_rows = kPrompt - kPiece + kOthers,
                             .context_tokens = 128,
                             .block_tokens = 16},
                            /*blocks=*/16);
      Floats own = logits_of_a_server(model);
      EXPECT_TRUE(rank == 0 || own.empty());
      if (rank == 0) logits = std::move(own);
    });
    EXPECT_EQ(logits.size(), (kPrompt - kPiece + kOthers - 1) * 160);
    return logits;
  };
  const Floats pair = run({2, 1});
  EXPECT_TRUE(run({4, 2}) == pair);
  if (kSanitized) return;
  const Floats alone = run({1, 1});
  EXPECT_FALSE(pair == alone) << "sums of two ranks are sums of two ranks";
  const std::uint32_t stages = GetParam() == 2 ? 3 : 2;
  EXPECT_TRUE(run({stages, stages}) == alone) << stages << " stages";
}

// Embedding and head are where they are needed, layers once.
TEST_P(DeviceLlamaRanks, AStageHasItsOwnLayersAlone) {
  const NcclId whole_id = create_nccl_id().value(), id = create_nccl_id().value();
  std::size_t whole = 0, block_bytes = 0;
  run_gpus(1, [&](std::uint32_t, CudaStream&) {
    const RankModel model(staged_model(), 0, {}, whole_id, small_steps(Compute::Fast));
    whole = model.runner->memory().packed_bytes;
    block_bytes = model.layout.block_bytes();
  });
  std::array<std::size_t, 3> of_stage{};
  std::atomic<std::size_t> all_blocks = 0;
  run_gpus(3, [&](std::uint32_t rank, CudaStream&) {
    const RankModel model(staged_model(), rank, {3, 3}, id, small_steps(Compute::Fast));
    of_stage[rank] = model.runner->memory().packed_bytes;
    all_blocks += model.layout.block_bytes();
    EXPECT_EQ(model.layout.layers, 1u);
    EXPECT_EQ(model.runner->shape().layers, 3u);
    EXPECT_EQ(model.runner->kernels().size(), rank == 2 ? 5u : 4u);
  });
  EXPECT_EQ(all_blocks, block_bytes);
  // The embedding is the head, too, which the first and the last one have.
  EXPECT_LT(of_stage[1], of_stage[0]);
  EXPECT_EQ(of_stage[0], of_stage[2]);
  EXPECT_LT(of_stage[0], whole);
}

// Stages compute at the same time: the first one gives away a micro-batch before it begins the next, and the second
// computes it before it asks for the next. What a step takes is measured at rank 0, so it ends with the last stage,
// where no logits come back too.
TEST_P(DeviceLlamaRanks, StagesComputeMicroBatchesAtTheSameTime) {
  constexpr std::size_t kRows = 2 * kDeviceMicroBatchRows + 1, kHidden = 64;
  const Tokens tokens = draw_tokens(5, kRows, 160);
  const NcclId id = create_nccl_id().value();
  std::array<RecordingCommunicator::Calls, 4> calls;
  run_gpus(4, [&](std::uint32_t rank, CudaStream&) {
    DeviceLlamaOptions options = small_steps(Compute::Precise);
    options.max_batch_tokens = options.context_tokens = kRows;
    const RankModel model(staged_model(), rank, {4, 2}, id, options, /*blocks=*/5);
    std::vector<BlockId> table = {4, 3, 2, 1, 0};
    model.recording->clear();
    const SequenceChunk chunk{.tokens = tokens, .block_table = table, .logits = Logits::Last};
    ASSERT_TRUE(model.step({&chunk, 1}).ok());
    const SequenceChunk silent{.tokens = std::span(tokens).first(1), .block_table = table};
    ASSERT_TRUE(model.step({&silent, 1}).ok());
    calls[rank] = model.recording->calls();
  });
  std::array<RecordingCommunicator::Calls, 4> expected;
  for (std::uint32_t rank = 0; rank < 4; ++rank) {
    RecordingCommunicator::Calls& of_rank = expected[rank];
    const auto batch = [&](std::size_t rows) {
      if (rank >= 2) of_rank.push_back(fmt::format("receive {} from {}", rows * kHidden, rank - 2));
      for (int i = 0; i < (rank < 2 ? 4 : 2); ++i) of_rank.push_back(fmt::format("sum {} of 2 ranks", rows * kHidden));
      if (rank < 2) of_rank.push_back(fmt::format("send {} to {}", rows * kHidden, rank + 2));
    };
    batch(kDeviceMicroBatchRows);
    batch(kDeviceMicroBatchRows + 1);
    if (rank == 0) of_rank.insert(of_rank.end(), {"receive 96 from 2", "receive 64 from 3"});
    if (rank >= 2) of_rank.push_back(fmt::format("send {} to 0", rank == 2 ? 96 : 64));
    batch(1);
    if (rank == 0) of_rank.push_back("receive 0 from 2");
    if (rank == 2) of_rank.push_back("send 0 to 0");
  }
  EXPECT_EQ(calls, expected);
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

// Of whatever stage; whoever has done its part already hears of it in the next step.
TEST_P(DeviceLlamaRanks, ALostRankOfAStageEndsAllStages) {
  const Tokens tokens = draw_tokens(3, 12, 160);
  for (const std::uint32_t lost : {0u, 3u}) {
    const NcclId id = create_nccl_id().value();
    run_gpus(4, [&](std::uint32_t rank, CudaStream&) {
      const RankModel model(staged_model(), rank, {4, 2}, id, small_steps(Compute::Fast));
      ASSERT_TRUE(model.step(tokens, 0, Logits::Last).ok());
      model.communicator->set_timeout_ms(300);
      if (rank == lost) return;
      Status status;
      for (std::size_t position = 12; position < 14 && status.ok(); ++position) {
        status = model.step(std::span(tokens).first(1), position, Logits::Last).status();
      }
      EXPECT_TRUE(status.code() == StatusCode::DeadlineExceeded || status.code() == StatusCode::Unavailable)
          << rank << " without " << lost << ": " << status.to_string();
    });
  }
}

}  // namespace
}  // namespace tiercel
