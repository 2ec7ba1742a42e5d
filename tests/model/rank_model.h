// Ranks of a model, each with KV of its own, and models for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "kv/block_arena.h"
#include "model/llama_config.h"
#include "model/llama_model.h"
#include "model/model_shard.h"
#include "tests/model/tiny_model.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {

// One rank, or the model alone.
class RankModel {
 public:
  using OpenFile = std::function<GgufFile()>;

  RankModel(const OpenFile& open_file, LlamaOptions options, Communicator* communicator = nullptr,
            std::uint32_t stages = 1)
      : options_(options) {
    auto file = open_file();
    const ModelShape shape = read_llama_config(file)->shape;
    if (communicator != nullptr) {
      options_.communicator = communicator;
      options_.shard = shard_model(shape, communicator->rank(), communicator->size(), stages).value();
    }
    const KvLayout layout = llama_kv_layout(shape, options_);
    model_ = load_llama(std::move(file), options_).value();
    arena_.emplace(BlockArena::reserve(kBlocks, layout.block_bytes()).value());
    for (BlockId block = 0; block < kBlocks; ++block) table_.push_back(kBlocks - 1 - block);
  }

  // Logits of every token, in steps of so many.
  std::vector<float> logits(std::span<const TokenId> ids, std::size_t step_tokens,
                            Arithmetic arithmetic = Arithmetic::Any) {
    std::vector<float> all;
    for (std::size_t first = 0; first < ids.size(); first += step_tokens) {
      const SequenceChunk chunk{.tokens = ids.subspan(first, std::min(step_tokens, ids.size() - first)),
                                .first_position = first,
                                .block_table = table_,
                                .logits = Logits::All,
                                .arithmetic = arithmetic};
      const auto rows = step({&chunk, 1});
      all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }

  // Logits of a step of these chunks, whose tables are of blocks below kBlocks.
  std::vector<float> step(std::span<const SequenceChunk> chunks) {
    const auto rows = try_step(chunks).value();
    return {rows.begin(), rows.end()};
  }
  Result<std::span<float>> try_step(std::span<const SequenceChunk> chunks) {
    return model_->step(chunks, arena_->block(0));
  }

  const ModelRunner& model() const { return *model_; }
  const LlamaOptions& options() const { return options_; }

  static constexpr BlockId kBlocks = 160;

 private:
  LlamaOptions options_;
  std::unique_ptr<ModelRunner> model_;
  std::optional<BlockArena> arena_;
  std::vector<BlockId> table_;
};

// Rank 0's, of so many ranks in so many stages.
inline std::vector<float> logits_of_ranks(OpenCommunicator open, std::uint32_t size,
                                          const RankModel::OpenFile& open_file, const LlamaOptions& options,
                                          std::span<const TokenId> ids, std::size_t step_tokens,
                                          Arithmetic arithmetic = Arithmetic::Any, std::uint32_t stages = 1) {
  std::vector<float> logits;
  run_ranks(open, size, [&](Communicator& communicator) {
    RankModel rank(open_file, options, &communicator, stages);
    auto own = rank.logits(ids, step_tokens, arithmetic);
    if (communicator.rank() == 0) logits = std::move(own);
  });
  return logits;
}

inline double largest(std::span<const float> values) {
  double size = 0;
  for (const float value : values) size = std::max<double>(size, std::abs(value));
  return size;
}

inline std::vector<TokenId> random_tokens(std::size_t count, std::uint32_t vocabulary) {
  std::mt19937 random(3);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % vocabulary);
  return ids;
}

// 9 query and 3 KV heads, as SmolLM2-135M has them.
inline TinyModel nine_heads(const char* name, TensorType type, std::uint32_t layers = 2) {
  return TinyModel({.name = name,
                    .heads = 9,
                    .kv_heads = 3,
                    .head_dim = 32,
                    .rotated = 32,
                    .layers = layers,
                    .feed_forward = 160,
                    .vocabulary = 170,
                    .type = type});
}

}  // namespace tiercel
