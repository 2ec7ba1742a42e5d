// Tokens that a model draws on its GPU, against those that the engine draws from its logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "engine/sampler.h"
#include "tests/cuemu/device.h"
#include "tests/device/device_serving.h"

namespace tiercel {

inline SamplingOptions draw_options(std::mt19937_64& random) {
  SamplingOptions options;
  options.seed = random() % 3;
  if (random() % 3 != 0) options.temperature = 0.5f + 0.5f * static_cast<float>(random() % 3);
  if (random() % 3 == 0) options.top_k = 1 + random() % 300;
  if (random() % 3 == 0) options.top_p = 0.8f;
  if (random() % 4 == 0) options.min_p = 0.05f;
  return options;
}

// Some chunks of a step are drawn from, the others' logits are returned, in whatever order they are. `decodes`: all
// have one token, which is a graph on a GPU alone. The model has nothing to copy but what its ranks are told, their
// parts of the logits, and results.
inline void expect_drawn_step(DeviceModel& model, std::uint64_t seed, bool decodes, int most_copies) {
  std::mt19937_64 random(seed);
  struct Part {
    Tokens tokens;
    Lease lease;
    Sampler sampler;
    std::vector<kernels::SamplingRow> draws;
    SequenceChunk chunk;
  };
  std::vector<Part> parts;
  for (std::uint32_t i = 0; i < 5; ++i) {
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
  EXPECT_LE(cuemu::device_counts().copies - before.copies, most_copies);

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

// Greedy and not, with seeds, choices, penalties, biases and scores.
inline std::vector<Request> drawn_requests(std::uint64_t seed) {
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
  return requests;
}

// `open` opens what serves with these options, changed as it likes, and calls with it what it is given. Whole answers,
// the second time with drafts, are the same where the model draws and where it does not. How many drafted tokens of
// answers that are not greedy came true: with none nothing was seen of them.
inline std::size_t expect_answers_of_the_host(
    std::uint64_t seed,
    const std::function<void(DeviceServing::Options, const std::function<void(DeviceServing&)>&)>& open) {
  const std::vector<Request> requests = drawn_requests(seed);
  std::vector<Response> answers[2];
  for (const bool draws : {false, true}) {
    open({.draws = draws, .max_draft_tokens = 4}, [&](DeviceServing& serving) {
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
    });
  }
  std::size_t accepted = 0;
  EXPECT_EQ(answers[0].size(), answers[1].size());
  if (answers[0].size() != answers[1].size()) return 0;
  for (std::size_t i = 0; i < answers[0].size(); ++i) {
    SCOPED_TRACE(i);
    const Response &host = answers[0][i], &device = answers[1][i];
    EXPECT_EQ(device.tokens, host.tokens);
    EXPECT_EQ(device.text, host.text);
    EXPECT_EQ(device.prompt_logprobs, host.prompt_logprobs);
    EXPECT_EQ(device.accepted_tokens, host.accepted_tokens);
    if (requests[i % requests.size()].sampling.temperature > 0) accepted += device.accepted_tokens;
    const auto is_near = [](float a, float b) { return std::abs(a - b) <= 1e-5f; };
    EXPECT_TRUE(std::ranges::equal(device.logprobs, host.logprobs, is_near));
    EXPECT_TRUE(std::ranges::equal(device.choices, host.choices, {}, &Choice::tokens, &Choice::tokens));
  }
  return accepted;
}

// Of a request whose tokens the GPU can draw.
inline void expect_no_logits_on_the_host(DeviceServing& serving) {
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

}  // namespace tiercel
