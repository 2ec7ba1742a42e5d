// How a model on a GPU calls the CUDA runtime, and what comes of calls that fail. On the emulated one.
#include <gtest/gtest.h>

#include "base/step_profile.h"
#include "tests/cuemu/device.h"
#include "tests/device/tiny_device_model.h"

namespace tiercel {
namespace {

SequenceChunk last_token(const Lease& lease, const Tokens& tokens) {
  return {.tokens = std::span(tokens).last(1),
          .first_position = tokens.size() - 1,
          .block_table = lease.block_table(),
          .logits = Logits::Last,
          .arithmetic = Arithmetic::Decode};
}

// Decoding steps are graphs, made once for each kind of step, and compute what other steps do; prompts are not.
TEST(DeviceLlamaCalls, DecodingStepsAreGraphs) {
  cuemu::reset_device({.seed = 5});
  DeviceModel model(small_model(), Compute::Fast);
  const Tokens tokens = draw_tokens(1, 24, 50);
  const Floats by_launches = model.compute(tokens, 24, Arithmetic::Decode);
  EXPECT_EQ(cuemu::device_counts().graph_launches, 0);
  auto lease = model.cache->admit(tokens, {.max_tokens = tokens.size(), .max_matched_tokens = 0}).value();
  model.compute(lease, Tokens(tokens.begin(), tokens.begin() + 18), 18, Arithmetic::Decode);
  const auto before = cuemu::device_counts();
  EXPECT_EQ(model.compute(lease, tokens, 1, Arithmetic::Decode), by_launches);
  EXPECT_EQ(cuemu::device_counts().graph_launches, 6);
  // Two at once are another graph, and then one again is the first.
  auto other = model.cache->admit(tokens, {.max_tokens = tokens.size(), .max_matched_tokens = 0}).value();
  model.compute(other, Tokens(tokens.begin(), tokens.begin() + 23), 23, Arithmetic::Decode);
  SequenceChunk chunks[] = {last_token(lease, tokens), last_token(other, tokens)};
  for (const std::size_t count : {2, 1, 2}) {
    const auto rows = model.runner->step(std::span(chunks).first(count), model.cache->block(0));
    ASSERT_TRUE(rows.ok()) << rows.status().to_string();
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_TRUE(std::ranges::equal(rows->subspan(i * by_launches.size(), by_launches.size()), by_launches)) << i;
    }
  }
  // As many logits as one alone has, of the second; nothing of it is left from before.
  model.compute(draw_tokens(2, 24, 50), 24, Arithmetic::Decode);
  chunks[0].logits = Logits::None;
  const auto second = model.runner->step(chunks, model.cache->block(0));
  ASSERT_TRUE(second.ok()) << second.status().to_string();
  EXPECT_TRUE(std::ranges::equal(*second, by_launches));
  EXPECT_EQ(cuemu::device_counts().graph_launches, 10);
  // A context that one graph's length does not cover: the same full block again and again.
  const std::vector<BlockId> table(kContext / 16, lease.block_table().front());
  SequenceChunk both{.tokens = std::span(tokens).last(2),
                     .first_position = 600,
                     .block_table = table,
                     .logits = Logits::Last,
                     .arithmetic = Arithmetic::Decode};
  const auto far = model.runner->step({&both, 1}, model.cache->block(0));
  ASSERT_TRUE(far.ok()) << far.status().to_string();
  const Floats far_by_launches(far->begin(), far->end());
  SequenceChunk last = both;
  last.tokens = both.tokens.last(1);
  last.first_position = 601;
  const auto far_by_graph = model.runner->step({&last, 1}, model.cache->block(0));
  ASSERT_TRUE(far_by_graph.ok()) << far_by_graph.status().to_string();
  EXPECT_TRUE(std::ranges::equal(*far_by_graph, far_by_launches));
  EXPECT_EQ(cuemu::device_counts().graph_launches, 11);
  EXPECT_EQ(cuemu::device_counts().pageable_copies, before.pageable_copies);
}

// With a profile every part that a step has takes time, the step's copies among them, and what is computed is the same.
TEST(DeviceLlamaCalls, PartsOfAStepAreTimed) {
  cuemu::reset_device({.seed = 6});
  const Tokens tokens = draw_tokens(1, 20, 50);
  DeviceModel plain(small_model(), Compute::Fast), timed(small_model(), Compute::Fast, 24, {}, false, /*profile=*/true);
  EXPECT_EQ(plain.runner->profile(), nullptr);
  StepProfile* const profile = timed.runner->profile();
  ASSERT_NE(profile, nullptr);
  for (const std::size_t chunk_tokens : {19u, 1u}) {
    EXPECT_EQ(timed.compute(tokens, chunk_tokens, Arithmetic::Decode),
              plain.compute(tokens, chunk_tokens, Arithmetic::Decode));
  }
  auto lease = timed.cache->admit(tokens, {.max_tokens = 20, .max_matched_tokens = 0}).value();
  ASSERT_TRUE(lease.grow(20).ok());
  const kernels::SamplingRow draw;
  const SequenceChunk chunk{
      .tokens = tokens, .block_table = lease.block_table(), .logits = Logits::Last, .draws = {&draw, 1}};
  ASSERT_TRUE(timed.runner->step({&chunk, 1}, timed.cache->block(0)).ok());
  profile->publish();
  for (const PartTime& part : profile->parts()) {
    const bool is_host = part.name == "schedule" || part.name == "cache" || part.name == "answer";
    if (is_host || part.name == "exchange" || part.name == "idle") continue;
    EXPECT_GT(part.seconds, 0) << part.name;
  }
}

// Each call that loading and two steps make fails once: a Status, no crash, and reset_device() finds nothing left.
TEST(DeviceLlamaCalls, EveryCallMayFail) {
  const Tokens tokens = draw_tokens(2, 20, 50);
  const auto file = GgufFile::parse(as_bytes(small_model().bytes), "tiny").value();
  const DeviceLlamaOptions options{
      .max_batch_tokens = 32, .max_sequences = 2, .max_logit_rows = 2, .context_tokens = 32, .block_tokens = 16};
  const KvLayout layout = device_llama_kv_layout(read_llama_config(file)->shape, options);
  const BlockId table[] = {1, 0};
  // Ok: all of it went through.
  const auto run = [&]() -> Status {
    auto runner = load_device_llama(file, options);
    if (!runner.ok()) return runner.status();
    auto memory = DeviceBlockMemory::reserve(2, layout);
    if (!memory.ok()) return memory.status();
    const SequenceChunk prompt{.tokens = std::span(tokens).first(19), .block_table = table};
    const SequenceChunk next{
        .tokens = std::span(tokens).last(1), .first_position = 19, .block_table = table, .logits = Logits::Last};
    for (const SequenceChunk& chunk : {prompt, next}) {
      const auto rows = (*runner)->step({&chunk, 1}, (*memory)->block(0));
      if (rows.ok()) continue;
      // What the GPU's state is then, nobody knows.
      EXPECT_EQ((*runner)->step({&chunk, 1}, (*memory)->block(0)).status().message(), rows.status().message());
      return rows.status();
    }
    return {};
  };
  cuemu::reset_device({});
  ASSERT_TRUE(run().ok());
  for (const char* function :
       {"cudaSetDevice", "cudaDeviceGetAttribute", "cudaMalloc", "cudaHostAlloc", "cudaMemcpy", "cudaMemcpyAsync",
        "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaEventRecord", "cudaEventSynchronize",
        "cudaLaunchKernelEx", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate",
        "cudaGraphLaunch"}) {
    int failures = 0;
    for (int nth = 1;; nth += kSanitized ? 7 : 1) {
      cuemu::reset_device({.seed = static_cast<std::uint64_t>(nth)});
      cuemu::fail_call(function, nth, cudaErrorMemoryAllocation);
      const Status status = run();
      if (status.ok()) break;
      EXPECT_FALSE(status.message().empty());
      ++failures;
    }
    EXPECT_GT(failures, 0) << function << " is not called any more";
  }
  for (int nth = 1; nth < 200; nth += kSanitized ? 61 : 23) {
    cuemu::reset_device({});
    cuemu::fail_operation(nth, cudaErrorIllegalAddress);
    const Status status = run();
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::Unavailable) << status.to_string();
  }
}

}  // namespace
}  // namespace tiercel
