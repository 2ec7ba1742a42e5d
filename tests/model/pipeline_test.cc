// A model in stages against the same model alone, or against one stage of as many ranks: which layers each has, that
// the bits of a token are the same, and that stages compute at the same time.
#include <algorithm>
#include <array>
#include <mutex>
#include <set>
#include <utility>

#include <gtest/gtest.h>

#include "model/micro_batches.h"
#include "ranks/gloo_communicator.h"
#include "ranks/tcp_communicator.h"
#include "tests/model/rank_model.h"
#include "tests/model/test_model.h"
#include "tests/ranks/recording_communicator.h"

namespace tiercel {
namespace {

constexpr std::size_t kHidden = 64;  // of tiny models

ModelShape smollm_shape() {
  ModelShape shape;
  shape.layers = 30;
  shape.heads = 9;
  shape.kv_heads = 3;
  shape.head_dim = 64;
  shape.feed_forward = 1536;
  shape.vocabulary = 49152;
  return shape;
}

using Range = ModelShard::Range;

TEST(Stages, HaveRunsOfLayersAndTheFirstOnesMore) {
  const Range layers[] = {{0, 8}, {8, 8}, {16, 7}, {23, 7}};
  for (std::uint32_t rank = 0; rank < 4; ++rank) {
    const auto shard = shard_model(smollm_shape(), rank, 4, 4).value();
    EXPECT_EQ(shard.layers, layers[rank]);
    EXPECT_EQ(shard.heads, (Range{0, 9}));
    EXPECT_EQ(shard.kv_heads, (Range{0, 3}));
    EXPECT_EQ(shard.feed_forward, (Range{0, 1536}));
    EXPECT_EQ(shard.vocabulary, rank == 3 ? (Range{0, 49152}) : Range());
    EXPECT_EQ(shard.stage(), rank);
  }
}

// Rank = stage * ranks of a stage + place; the ranks of a stage share what those of one stage share.
TEST(Stages, OfSeveralRanksShareHeadsAsOneStageDoes) {
  for (std::uint32_t rank = 0; rank < 12; ++rank) {
    const auto shard = shard_model(smollm_shape(), rank, 12, 3).value();
    const auto flat = shard_model(smollm_shape(), rank % 4, 4).value();
    EXPECT_EQ(shard.layers, (Range{rank / 4 * 10, 10}));
    EXPECT_EQ(shard.heads, flat.heads);
    EXPECT_EQ(shard.kv_heads, flat.kv_heads);
    EXPECT_EQ(shard.feed_forward, flat.feed_forward);
    EXPECT_EQ(shard.vocabulary, rank / 4 == 2 ? flat.vocabulary : Range());
  }
}

// Tiers give each rank its share of what rank 0 has.
TEST(Stages, NoRankHasLargerBlocksThanRank0) {
  for (std::uint32_t stages = 1; stages <= 30; ++stages) {
    for (std::uint32_t stage_ranks = 1; stage_ranks <= 9; ++stage_ranks) {
      const std::uint32_t size = stages * stage_ranks;
      LlamaOptions options{.shard = shard_model(smollm_shape(), 0, size, stages).value()};
      const std::size_t first = llama_kv_layout(smollm_shape(), options).block_bytes();
      std::uint32_t layers = 0;
      for (std::uint32_t rank = 0; rank < size; ++rank) {
        options.shard = shard_model(smollm_shape(), rank, size, stages).value();
        const KvLayout layout = llama_kv_layout(smollm_shape(), options);
        EXPECT_LE(layout.block_bytes(), first) << size << " ranks, " << stages << " stages, rank " << rank;
        EXPECT_EQ(layout.layers, options.shard.layers.count);
        if (options.shard.place() == 0) layers += layout.layers;
      }
      EXPECT_EQ(layers, 30u);
    }
  }
}

TEST(Stages, WhatCannotBeIsRefusedByName) {
  const auto refusal = [](std::uint32_t size, std::uint32_t stages) {
    const Status status = shard_model(smollm_shape(), 0, size, stages).status();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << status.to_string();
    return status.message();
  };
  EXPECT_NE(refusal(31, 31).find("30 layers"), std::string::npos);
  EXPECT_NE(refusal(20, 2).find("ranks are 10 in each of 2 stages"), std::string::npos) << refusal(20, 2);
  EXPECT_NE(refusal(3, 2).find("3 ranks are no 2 stages"), std::string::npos) << refusal(3, 2);
}

// ---- Bits

// What a rank of `stages` stages does; rank 0's result.
template <class Result>
Result of_ranks(std::uint32_t size, std::uint32_t stages, const RankModel::OpenFile& open_file,
                const LlamaOptions& options, const std::function<Result(RankModel&)>& work,
                OpenCommunicator open = open_tcp_communicator) {
  if (size == 1) {
    RankModel alone(open_file, options);
    return work(alone);
  }
  Result of_first;
  run_ranks(open, size, [&](Communicator& communicator) {
    RankModel rank(open_file, options, &communicator, stages);
    Result result = work(rank);
    if (communicator.rank() == 0) of_first = std::move(result);
  });
  return of_first;
}

// Steps of a server: prompts in chunks of several micro-batches, and batches of sequences that have one token each,
// some with logits and some without.
std::vector<float> logits_of_a_server(RankModel& model) {
  constexpr std::size_t kSequences = 150;
  const auto prompt = random_tokens(300, 170), others = random_tokens(2 * kSequences, 160);
  std::vector<std::vector<BlockId>> tables;
  for (BlockId block = 0; block < kSequences; ++block) tables.push_back({block});
  std::vector<BlockId> table;
  for (BlockId block = kSequences; block < RankModel::kBlocks; ++block) table.push_back(block);
  std::vector<float> all;
  const auto step = [&](const std::vector<SequenceChunk>& chunks) {
    const auto logits = model.step(chunks);
    all.insert(all.end(), logits.begin(), logits.end());
  };
  step({{.tokens = std::span(prompt).first(211),
         .block_table = table,
         .logits = Logits::Last,
         .arithmetic = Arithmetic::Prefill}});
  for (std::size_t position = 0; position < 2; ++position) {
    std::vector<SequenceChunk> chunks;
    for (std::size_t i = 0; i < kSequences; ++i) {
      chunks.push_back({.tokens = std::span(others).subspan(2 * i + position, 1),
                        .first_position = position,
                        .block_table = tables[i],
                        .logits = i % 7 == 3 ? Logits::None : Logits::Last,
                        .arithmetic = Arithmetic::Decode});
    }
    if (position == 1) {  // the rest of the prompt beside them, in two arithmetics
      chunks.insert(chunks.begin() + 20, {.tokens = std::span(prompt).subspan(211, 80),
                                          .first_position = 211,
                                          .block_table = table,
                                          .arithmetic = Arithmetic::Prefill});
      chunks.push_back({.tokens = std::span(prompt).subspan(291),
                        .first_position = 291,
                        .block_table = table,
                        .logits = Logits::All,
                        .arithmetic = Arithmetic::Decode});
    }
    step(chunks);
  }
  return all;
}

// Hidden states go from stage to stage as they are, so stages change no bit of what one computes; nor do micro-batches.
TEST(Pipeline, StagesHaveTheBitsOfOne) {
  for (const TensorType type : {TensorType::F32, TensorType::Q4_1}) {
    const TinyModel tiny = nine_heads("stages", type, 5);
    const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
    for (const Compute compute : {Compute::Precise, Compute::Fast, Compute::Turbo}) {
      const LlamaOptions options{
          .compute = compute, .deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 192};
      const auto run = [&](std::uint32_t size, std::uint32_t stages) {
        return of_ranks<std::vector<float>>(size, stages, open_file, options, logits_of_a_server);
      };
      const auto alone = run(1, 1);
      ASSERT_EQ(alone.size(), (1 + 129 + 129 + 9) * 170u);
      for (const std::uint32_t stages : {2u, 3u, 5u}) EXPECT_TRUE(run(stages, stages) == alone) << stages << " stages";
      const auto pair = run(2, 1);
      EXPECT_FALSE(pair == alone) << "sums of two ranks are sums of two ranks";
      for (const std::uint32_t stages : {2u, 3u})
        EXPECT_TRUE(run(2 * stages, stages) == pair) << stages << " stages of 2";
    }
  }
}

#if defined(TIERCEL_TEST_GLOO)
TEST(Pipeline, StagesHaveTheSameBitsOverGloo) {
  const TinyModel tiny = nine_heads("gloo", TensorType::Q4_1, 3);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const LlamaOptions options{.deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 192};
  const auto run = [&](OpenCommunicator open) {
    return of_ranks<std::vector<float>>(4, 2, open_file, options, logits_of_a_server, open);
  };
  EXPECT_TRUE(run(open_gloo_communicator) == run(open_tcp_communicator));
}
#endif

// The other arithmetic is chosen by the batch, so bits are others and values nearly the same.
TEST(Pipeline, StagesComputeNearlyWhatOneComputesInAnyArithmetic) {
  const TinyModel tiny = nine_heads("any", TensorType::Q8_0, 5);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(300, 170);
  for (const Compute compute : {Compute::Precise, Compute::Fast}) {
    const LlamaOptions options{.compute = compute, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 256};
    const auto alone = RankModel(open_file, options).logits(ids, 200);
    const double tolerance = largest(alone) * (compute == Compute::Precise ? 2e-5 : 0.05);
    const auto stages =
        logits_of_ranks(open_tcp_communicator, 6, open_file, options, ids, 200, Arithmetic::Any, /*stages=*/3);
    ASSERT_EQ(stages.size(), alone.size());
    for (std::size_t i = 0; i < alone.size(); ++i) ASSERT_NEAR(stages[i], alone[i], tolerance) << i;
  }
}

// ---- Who has what, and does what when

TEST(Pipeline, AStageHasItsOwnWeightsAlone) {
  const TinyModel tiny = nine_heads("weights", TensorType::Q4_1, 4);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const LlamaOptions options{.deterministic = true, .max_batch_tokens = 64};
  const ModelMemory whole = RankModel(open_file, options).model().memory();
  std::mutex mutex;
  std::size_t packed = 0, mapped = 0;
  run_ranks(open_tcp_communicator, 2, [&](Communicator& communicator) {
    RankModel rank(open_file, options, &communicator, /*stages=*/2);
    const std::lock_guard lock(mutex);
    packed += rank.model().memory().packed_bytes;
    mapped += rank.model().memory().mapped_bytes;
    EXPECT_EQ(rank.model().kernels().size(), communicator.rank() == 0 ? 4u : 5u);  // the head is the last stage's
  });
  EXPECT_GT(whole.packed_bytes, 0u);
  EXPECT_EQ(packed, whole.packed_bytes);
  const auto file = open_file();
  EXPECT_EQ(mapped, whole.mapped_bytes + file.find_tensor("token_embd.weight")->data.size());  // it is the head, too
}

TEST(Pipeline, AFingerprintTellsStagesAndTheirNumberApart) {
  const TinyModel tiny = nine_heads("fingerprint", TensorType::F32, 4);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const LlamaOptions options{.max_batch_tokens = 64};
  std::mutex mutex;
  std::set<std::array<std::uint64_t, 2>> fingerprints = {RankModel(open_file, options).model().fingerprint().words};
  const std::pair<std::uint32_t, std::uint32_t> setups[] = {{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};
  for (const auto& [size, stages] : setups) {
    run_ranks(open_tcp_communicator, size, [&, stages = stages](Communicator& communicator) {
      RankModel rank(open_file, options, &communicator, stages);
      const std::lock_guard lock(mutex);
      fingerprints.insert(rank.model().fingerprint().words);
    });
  }
  EXPECT_EQ(fingerprints.size(), 1u + 2 + 2 + 4 + 4 + 4);
}

// Stage 0 gives away a micro-batch before it begins the next, and stage 1 computes it before it asks for the next: so
// each computes while the other does. Sums are those of a stage.
TEST(Pipeline, StagesComputeMicroBatchesAtTheSameTime) {
  const TinyModel tiny = nine_heads("overlap", TensorType::F32, 4);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  constexpr std::size_t kRows = 3 * kMicroBatchRows + 8;
  const auto ids = random_tokens(kRows, 170);
  const LlamaOptions options{.deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 8};
  std::array<RecordingCommunicator::Calls, 4> calls;
  std::vector<BlockId> table;
  for (BlockId block = 0; block < RankModel::kBlocks; ++block) table.push_back(block);
  run_ranks(open_tcp_communicator, 4, [&](Communicator& communicator) {
    RecordingCommunicator recording(communicator);
    RankModel rank(open_file, options, &recording, /*stages=*/2);
    recording.clear();
    const SequenceChunk chunk{
        .tokens = ids, .block_table = table, .logits = Logits::Last, .arithmetic = Arithmetic::Prefill};
    rank.step({&chunk, 1});
    calls[communicator.rank()] = recording.calls();
  });
  std::array<RecordingCommunicator::Calls, 4> expected;
  for (std::size_t batch = 0; batch < 3; ++batch) {
    const std::size_t elements = (kRows * (batch + 1) / 3 - kRows * batch / 3) * kHidden;
    for (std::uint32_t rank = 0; rank < 4; ++rank) {
      const bool is_first = rank < 2;
      if (!is_first) expected[rank].push_back(fmt::format("receive {} from {}", elements, rank - 2));
      for (int i = 0; i < 4; ++i) {
        // The model's last layer goes on with the one row whose logits are wanted.
        const bool is_last_layer = !is_first && i >= 2;
        if (is_last_layer && batch < 2) continue;
        expected[rank].push_back(fmt::format("sum {} of 2 ranks", is_last_layer ? kHidden : elements));
      }
      if (is_first) expected[rank].push_back(fmt::format("send {} to {}", elements, rank + 2));
    }
  }
  expected[0].insert(expected[0].end(), {"receive 96 from 2", "receive 74 from 3"});
  expected[2].push_back("send 96 to 0");
  expected[3].push_back("send 74 to 0");
  EXPECT_EQ(calls, expected);
}

// What a step takes is measured at rank 0, so it does not run ahead of the last stage where no logits come back.
TEST(Pipeline, AStepWithoutLogitsWaitsForTheLastStage) {
  const TinyModel tiny = nine_heads("waits", TensorType::F32, 3);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(5, 170);
  const LlamaOptions options{.threads = 1, .max_batch_tokens = 64};
  const std::vector<BlockId> table = {0};
  std::array<RecordingCommunicator::Calls, 3> calls;
  run_ranks(open_tcp_communicator, 3, [&](Communicator& communicator) {
    RecordingCommunicator recording(communicator);
    RankModel rank(open_file, options, &recording, /*stages=*/3);
    recording.clear();
    const SequenceChunk chunk{.tokens = ids, .block_table = table};
    EXPECT_TRUE(rank.step({&chunk, 1}).empty());
    calls[communicator.rank()] = recording.calls();
  });
  EXPECT_EQ(calls[0], (RecordingCommunicator::Calls{"send 320 to 1", "receive 0 from 2"}));
  EXPECT_EQ(calls[1], (RecordingCommunicator::Calls{"receive 320 from 0", "send 320 to 2"}));
  EXPECT_EQ(calls[2], (RecordingCommunicator::Calls{"receive 320 from 1", "send 0 to 0"}));
}

// Messages beyond what connections hold: a sender waits until its receiver takes them, and nobody for each other.
TEST(Pipeline, LongStepsWithManyLogitsComeThrough) {
  const TinyModel tiny({.name = "long",
                        .heads = 4,
                        .kv_heads = 4,
                        .head_dim = 32,
                        .rotated = 32,
                        .layers = 3,
                        .feed_forward = 64,
                        .vocabulary = 6400});
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(2000, 6400);
  const LlamaOptions options{.compute = Compute::Precise,
                             .deterministic = true,
                             .threads = 1,
                             .max_batch_tokens = 2000,
                             .max_logit_rows = 2000};
  const auto alone = RankModel(open_file, options).logits(ids, 2000, Arithmetic::Prefill);
  const auto stages =
      logits_of_ranks(open_tcp_communicator, 3, open_file, options, ids, 2000, Arithmetic::Prefill, /*stages=*/3);
  EXPECT_TRUE(stages == alone);  // 51 MB of logits
}

// A rank that is lost in the middle of a step: the others are out of it with a Status, whichever stage it is of.
TEST(Pipeline, AStageThatIsLostEndsTheStepOfAll) {
  const TinyModel tiny = nine_heads("lost", TensorType::F32, 3);
  const auto open_file = [&] { return GgufFile::parse(as_bytes(tiny.bytes), "tiny").value(); };
  const auto ids = random_tokens(200, 170);
  const LlamaOptions options{.deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 8};
  std::vector<BlockId> table;
  for (BlockId block = 0; block < RankModel::kBlocks; ++block) table.push_back(block);
  const SequenceChunk chunk{
      .tokens = ids, .block_table = table, .logits = Logits::Last, .arithmetic = Arithmetic::Prefill};
  for (const bool is_dead : {true, false}) {
    for (const std::uint32_t lost : {0u, 2u, 5u}) {
      std::atomic<int> left = 0;
      run_ranks(
          open_tcp_communicator, 6,
          [&](Communicator& communicator) {
            RankModel rank(open_file, options, &communicator, /*stages=*/3);
            communicator.set_timeout_ms(500);
            if (communicator.rank() == lost) {
              if (is_dead) communicator.abort();
              while (left < 5) std::this_thread::yield();  // slower than the deadline
              return;
            }
            const Status status = rank.try_step({&chunk, 1}).status();
            // Who has done its part hears of it at the next word, as the steps of an engine begin with one.
            const Status next = status.ok() ? communicator.barrier() : status;
            EXPECT_TRUE(next.code() == StatusCode::Unavailable || next.code() == StatusCode::DeadlineExceeded)
                << communicator.rank() << ": " << next.to_string();
            ++left;
          },
          60'000);
    }
  }
}

// ---- The real model

TEST(Pipeline, TheRealModelHasTheBitsOfOneInUnevenStages) {
  REQUIRE_TEST_MODEL();
  const auto open_file = [] { return GgufFile::open(test_model_path()).value(); };
  const auto ids = random_tokens(200, 49152);
  const LlamaOptions options{
      .compute = Compute::Precise, .deterministic = true, .threads = 1, .max_batch_tokens = 256, .max_logit_rows = 64};
  const std::function<std::vector<float>(RankModel&)> work = [&](RankModel& model) {
    std::vector<BlockId> table;
    for (BlockId block = 0; block < RankModel::kBlocks; ++block) table.push_back(block);
    std::vector<float> all;
    const SequenceChunk chunks[] = {
        {.tokens = std::span(ids).first(170), .block_table = table, .arithmetic = Arithmetic::Prefill},
        {.tokens = std::span(ids).subspan(170),
         .first_position = 170,
         .block_table = table,
         .logits = Logits::All,
         .arithmetic = Arithmetic::Decode}};
    for (const SequenceChunk& chunk : chunks) {
      const auto logits = model.step({&chunk, 1});
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  const auto alone = of_ranks(1, 1, open_file, options, work);
  ASSERT_EQ(alone.size(), 30u * 49152);
  for (const std::uint32_t stages : {2u, 4u}) {
    EXPECT_TRUE(of_ranks(stages, stages, open_file, options, work) == alone) << stages;
  }
  const auto grid = of_ranks(4, 2, open_file, options, work);
  EXPECT_TRUE(grid == of_ranks(2, 1, open_file, options, work));
}

}  // namespace
}  // namespace tiercel
