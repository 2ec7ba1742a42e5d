// Tokens that a model draws on its GPU are those that the engine draws from its logits.
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "engine/sampler.h"
#include "tests/cuemu/device.h"
#include "tests/device/device_serving.h"

namespace tiercel {
namespace {

SamplingOptions draw_options(std::mt19937_64& random) {
  SamplingOptions options;
  options.seed = random() % 3;
  if (random() % 3 != 0) options.temperature = 0.5f + 0.5f * static_cast<float>(random() % 3);
  if (random() % 3 == 0) options.top_k = 1 + random() % 300;
  if (random() % 3 == 0) options.top_p = 0.8f;
  if (random() % 4 == 0) options.min_p = 0.05f;
  return options;
}

// Some chunks of a step are drawn from, the others' logits are returned, in whatever order they are.
TEST(DeviceSampling, AStepDrawsWhatTheSamplerDraws) {
  for (std::uint64_t seed = 1; seed <= (kSanitized ? 4 : 12); ++seed) {
    SCOPED_TRACE(seed);
    cuemu::reset_device({.seed = seed});
    std::mt19937_64 random(seed);
    DeviceModel model(DeviceServing::tiny_model(), Compute::Fast);
    struct Part {
      Tokens tokens;
      Lease lease;
      Sampler sampler;
      std::vector<kernels::SamplingRow> draws;
      SequenceChunk chunk;
    };
    std::vector<Part> parts;
    for (std::uint32_t i = 0; i < 5; ++i) {
      const bool decodes = seed % 2 == 0;  // a graph
      const Logits wanted = decodes || random() % 2 == 0 ? Logits::Last : Logits::All;
      const std::size_t count = wanted == Logits::All ? 1 + random() % 4 : 3 + random() % 9;
      Part part{.tokens = draw_tokens(static_cast<std::uint32_t>(random()), count, kFakeVocabulary),
                .lease = {},
                .sampler = Sampler(draw_options(random), kFakeVocabulary),
                .draws = {},
                .chunk = {}};
      part.lease = model.cache->admit(part.tokens, {.max_tokens = 20, .max_matched_tokens = 0}).value();
      if (decodes) model.compute(part.lease, Tokens(part.tokens.begin(), part.tokens.end() - 1), 20, Arithmetic::Any);
      ASSERT_TRUE(part.lease.grow(part.tokens.size()).ok());
      const std::size_t first = part.lease.committed_tokens();
      part.chunk = {.tokens = std::span(part.tokens).subspan(first),
                    .first_position = first,
                    .block_table = part.lease.block_table(),
                    .logits = wanted};
      const std::size_t rows = wanted == Logits::All ? count : 1, draws = random() % 2 == 0 ? rows : 0;
      for (std::size_t row = 0; row < draws; ++row) part.draws.push_back(part.sampler.next_draw(row));
      parts.push_back(std::move(part));
    }
    std::vector<SequenceChunk> chunks;
    for (const Part& part : parts) chunks.push_back(part.chunk);
    const auto returned = model.runner->step(chunks, model.cache->block(0));
    ASSERT_TRUE(returned.ok()) << returned.status().to_string();
    const Floats all(returned->begin(), returned->end());
    for (std::size_t i = 0; i < parts.size(); ++i) chunks[i].draws = parts[i].draws;
    const auto before = cuemu::device_counts();
    const auto others = model.runner->step(chunks, model.cache->block(0));
    ASSERT_TRUE(others.ok()) << others.status().to_string();
    EXPECT_LE(cuemu::device_counts().copies - before.copies, 3);

    std::size_t row = 0, other = 0, drawn = 0;
    for (Part& part : parts) {
      const std::size_t rows = part.chunk.logits == Logits::All ? part.chunk.tokens.size() : 1;
      for (std::size_t i = 0; i < rows; ++i, ++row) {
        const auto logits = std::span(all).subspan(row * kFakeVocabulary, kFakeVocabulary);
        if (part.draws.empty()) {
          EXPECT_TRUE(std::ranges::equal(others->subspan(other++ * kFakeVocabulary, kFakeVocabulary), logits));
          continue;
        }
        Floats scratch(logits.begin(), logits.end());
        const TokenId token = part.sampler.sample(scratch);
        ASSERT_LT(drawn, model.runner->drawn().size());
        const kernels::DrawnToken got = model.runner->drawn()[drawn++];
        EXPECT_EQ(got.token, token) << "row " << row;
        EXPECT_NEAR(got.logprob, kernels::logprob_of(logits, token), 1e-5) << "row " << row;
      }
    }
    EXPECT_EQ(others->size(), other * kFakeVocabulary);
    EXPECT_EQ(model.runner->drawn().size(), drawn);
  }
}

// Whole answers: greedy and not, with seeds, choices, drafts, penalties, biases and scores.
TEST(DeviceSampling, AnswersAreThoseOfTheHost) {
  std::size_t accepted = 0;
  for (std::uint64_t seed = 1; seed <= (kSanitized ? 1 : 2); ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<Request> requests;
    for (int i = 0; i < (kSanitized ? 5 : 9); ++i) {
      Request request;
      request.tokens = draw_tokens(static_cast<std::uint32_t>(random()), 1 + random() % 12, kFakeVocabulary);
      if (i % 3 == 1) request.tokens = requests.back().tokens;
      request.sampling = draw_options(random);
      request.max_tokens = kSanitized ? 8 : 24;
      request.ignore_end_of_text = true;
      if (i % 5 == 1) request.sampling.repetition_penalty = 1.4f;
      if (i % 5 == 2) request.sampling.logit_bias = {{.token = 97, .bias = 4}};
      if (i % 5 == 3) request.prompt_logprobs = true;
      if (i % 5 == 4) {
        request.sampling.temperature = 1;
        request.n = 2;
      }
      requests.push_back(std::move(request));
    }
    std::vector<Response> answers[2];
    for (const bool draws : {false, true}) {
      cuemu::reset_device({.seed = seed});
      DeviceServing serving({.deterministic = seed % 2 == 0, .draws = draws, .max_draft_tokens = 4});
      // The second time drafts are what was answered the first time.
      std::vector<ResponseFuture> futures;
      for (int times = 0; times < 2; ++times) {
        for (const Request& request : requests) futures.push_back(serving.submit(request));
        serving.run();
      }
      for (ResponseFuture& future : futures) {
        auto response = future.get();
        ASSERT_TRUE(response.ok()) << response.status().to_string();
        answers[draws].push_back(*std::move(response));
      }
      EXPECT_EQ(serving.model.drawn_rows > 0, draws);
      EXPECT_GT(serving.model.returned_rows, 0u) << "what must be drawn on the host is";
    }
    for (std::size_t i = 0; i < answers[0].size(); ++i) {
      SCOPED_TRACE(i);
      const Response &host = answers[0][i], &device = answers[1][i];
      EXPECT_EQ(device.tokens, host.tokens);
      EXPECT_EQ(device.text, host.text);
      EXPECT_EQ(device.prompt_logprobs, host.prompt_logprobs);
      EXPECT_EQ(device.accepted_tokens, host.accepted_tokens);
      if (requests[i % requests.size()].sampling.temperature > 0) accepted += device.accepted_tokens;
      ASSERT_EQ(device.logprobs.size(), host.logprobs.size());
      for (std::size_t t = 0; t < host.logprobs.size(); ++t) EXPECT_NEAR(device.logprobs[t], host.logprobs[t], 1e-5);
      ASSERT_EQ(device.choices.size(), host.choices.size());
      for (std::size_t c = 0; c < host.choices.size(); ++c) EXPECT_EQ(device.choices[c].tokens, host.choices[c].tokens);
    }
  }
  EXPECT_GT(accepted, 0u) << "no draft came true: nothing was seen of them";
}

// A request whose tokens the GPU can draw has no row of logits on the host.
TEST(DeviceSampling, NoLogitsGoToTheHostForNothing) {
  cuemu::reset_device({.seed = 3});
  DeviceServing serving({.max_draft_tokens = 4});
  Request request;
  request.tokens = draw_tokens(5, 9, kFakeVocabulary);
  request.sampling.temperature = 0.8f;
  request.max_tokens = 6;
  request.ignore_end_of_text = true;
  auto future = serving.submit(request);
  serving.run();
  ASSERT_TRUE(future.get().ok());
  EXPECT_EQ(serving.model.returned_rows, 0u);
  EXPECT_GE(serving.model.drawn_rows, 6u);
}

}  // namespace
}  // namespace tiercel
