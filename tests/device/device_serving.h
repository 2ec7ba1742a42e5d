// The step loop, turned by hand, around a tiny model on a GPU, emulated or not.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "tests/device/tiny_device_model.h"
#include "tests/engine/fake_model.h"

namespace tiercel {

// A model on a GPU, which draws tokens or has the caller do it; it makes the clock go on as a processor would.
class TimedDeviceModel final : public ModelRunner {
 public:
  TimedDeviceModel(ModelRunner& runner, bool draws, Sequence::Clock::time_point& now)
      : runner_(runner), draws_(draws), now_(now) {}

  const ModelShape& shape() const override { return runner_.shape(); }
  const Fingerprint& fingerprint() const override { return runner_.fingerprint(); }
  ModelMemory memory() const override { return runner_.memory(); }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return runner_.kernels(); }
  std::size_t max_logit_rows() const override { return runner_.max_logit_rows(); }
  bool draws_tokens() const override { return draws_ && runner_.draws_tokens(); }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    std::size_t rows = 0;
    for (const SequenceChunk& chunk : chunks) rows += chunk.tokens.size();
    now_ += std::chrono::microseconds(1000 + 10 * rows);
    auto logits = runner_.step(chunks, arena);
    if (!logits.ok()) return logits;
    returned_rows += logits->size() / shape().vocabulary;
    drawn_rows += runner_.drawn().size();
    return logits;
  }
  std::span<const kernels::DrawnToken> drawn() const override { return runner_.drawn(); }

  std::size_t returned_rows = 0, drawn_rows = 0;

 private:
  ModelRunner& runner_;
  const bool draws_;
  Sequence::Clock::time_point& now_;
};

struct DeviceServing {
  struct Options {
    Compute compute = Compute::Fast;
    bool deterministic = false;
    bool draws = true;
    DeviceModel::Load load = DeviceModel::load_alone;
    std::size_t blocks = 24;
    std::size_t max_draft_tokens = 0;
    KvCacheOptions cache = {};
  };

  explicit DeviceServing(const Options& options)
      : device(tiny_model(), options.compute, options.blocks, options.cache, options.deterministic, /*profile=*/false,
               options.load),
        model(*device.runner, options.draws, now),
        loop({.limits = {.max_sequences = 6,
                         .max_tokens = kMostTokens,
                         .max_logit_rows = kMostLogits,
                         .deterministic = options.deterministic},
              .max_draft_tokens = options.max_draft_tokens,
              .by_hand = true,
              .now = [this] { return now; }},
             model, *device.cache, tokenizer, stats) {}

  static const TinyModel& tiny_model() {
    static const TinyModel model(Variant{.name = "Bytes",
                                         .heads = 2,
                                         .kv_heads = 1,
                                         .head_dim = 64,
                                         .rotated = 64,
                                         .vocabulary = kFakeVocabulary,
                                         .type = TensorType::Q4_1});
    return model;
  }

  ResponseFuture submit(Request request) {
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, kContext});
    EXPECT_TRUE(prompt.ok()) << prompt.status().to_string();
    auto choices = make_sequences(std::move(request), *std::move(prompt), kContext, now);
    ResponseFuture future(choices.front()->promise);
    loop.submit(std::move(choices));
    return future;
  }
  // Until nothing is left to do.
  void run() {
    while (!loop.idle()) {
      loop.run_one();
      device.turn_tiers();
    }
  }

  Sequence::Clock::time_point now{std::chrono::seconds(1000)};
  Tokenizer tokenizer = make_byte_tokenizer();
  std::optional<ChatTemplate> chat_template;
  DeviceModel device;
  TimedDeviceModel model;
  StatsRecorder stats;
  StepLoop loop;
};

}  // namespace tiercel
