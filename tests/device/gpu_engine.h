// Whole engines on emulated GPUs, with a tiny model in a file: alone, or one of several ranks, each a thread of this
// process with a GPU of its own.
#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tests/device/nccl_ranks.h"
#include "tests/device/tiny_device_model.h"
#include "tests/engine/checked_engine.h"
#include "tests/ranks/rank_threads.h"
#include "tiercel/engine.h"

namespace tiercel {

// A model of 4 query heads and 2 KV heads, whose tokens are bytes.
class TinyModelFile {
 public:
  explicit TinyModelFile(std::uint32_t layers = 2) {
    TinyModel model(Variant{.name = "Shared",
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 64,
                            .rotated = 64,
                            .layers = layers,
                            .feed_forward = 128,
                            .vocabulary = 256,
                            .type = TensorType::Q4_1});
    std::vector<std::string> tokens;
    int next_stand_in = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      const int code = shown ? byte : next_stand_in++;
      tokens.push_back(code < 0x80
                           ? std::string{static_cast<char>(code)}
                           : std::string{static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))});
    }
    model.file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    model.file.texts("tokenizer.ggml.tokens", tokens).texts("tokenizer.ggml.merges", {});
    std::ofstream(path(), std::ios::binary) << model.file.build();
  }
  std::string path() const { return directory_ / "tiny.gguf"; }

 private:
  TemporaryDirectory directory_;
};

inline constexpr std::uint32_t kBlockTokens = 8;

inline EngineOptions gpu_options(Compute compute = Compute::Precise) {
  static const TinyModelFile model;
  EngineOptions options{.model = model.path(),
                        .device = "cuda",
                        .compute = compute,
                        .threads = 1,
                        .context_tokens = 64,
                        .max_batch_sequences = 4,
                        .max_batch_tokens = 32,
                        .speculation = false};
  options.cache.capacity_bytes = std::size_t{1} << 20;
  options.cache.block_tokens = kBlockTokens;
  options.cache.tier_deadline_ms = 300'000;
  return options;
}

inline constexpr std::uint64_t kLong_ms = 300'000;  // that nobody should need

// The ranks above 0 of an engine, each in Engine::serve_rank() on a thread.
class GpuRanks {
 public:
  // In options.ranks.pipeline stages. `change` is called for the options of each rank above 0.
  GpuRanks(EngineOptions options, std::uint32_t size, const std::function<void(EngineOptions&)>& change = {},
           std::uint64_t timeout_ms = kLong_ms, std::uint64_t open_timeout_ms = kLong_ms)
      : first_(std::move(options)), statuses_(size - 1) {
    first_.ranks = {.size = size,
                    .pipeline = first_.ranks.pipeline,
                    .address = free_address(),
                    .timeout_ms = timeout_ms,
                    .open_timeout_ms = open_timeout_ms};
    for (std::uint32_t rank = 1; rank < size; ++rank) {
      EngineOptions of_rank{.model = first_.model, .threads = 1, .ranks = first_.ranks};
      of_rank.device = "cuda:" + std::to_string(rank);
      of_rank.ranks.rank = rank;
      of_rank.ranks.pipeline = 1;  // rank 0 says what there is
      if (!first_.cache.disk_dir.empty()) {
        of_rank.cache.disk_dir = first_.cache.disk_dir + "/rank-" + std::to_string(rank);
      }
      if (change) change(of_rank);
      threads_.emplace_back([this, of_rank, rank] { statuses_[rank - 1] = Engine::serve_rank(of_rank); });
    }
  }
  ~GpuRanks() { join(); }

  // For Engine::open().
  const EngineOptions& first() const { return first_; }
  // What each ended with, when the engine has.
  const std::vector<Status>& join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return statuses_;
  }
  void expect_good_ends() {
    for (const Status& status : join()) EXPECT_TRUE(status.ok()) << status.to_string();
  }

 private:
  EngineOptions first_;
  std::vector<Status> statuses_;
  std::vector<std::thread> threads_;
};

}  // namespace tiercel
