// Where an engine's replicas have their models from: weights in host memory that all share, a GPU for each, or one part
// of a model whose other parts other ranks have.
//
// Not thread-safe. Models outlive it, and share nothing with it but the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/device_name.h"
#include "engine/ranked_model.h"
#include "gguf/gguf_file.h"
#include "kv/block_memory.h"
#include "model/device_llama.h"
#include "model/llama_model.h"
#include "ranks/communicator.h"
#include "ranks/socket.h"
#include "tiercel/options.h"

namespace tiercel {

// Rows of logits beyond one for each sequence: prompts that are scored go through them chunk by chunk.
inline constexpr std::size_t kScoringRows = 64;

// By TCP or Gloo, as the options say. Ranks load their parts between operations, each at its own pace, so it waits as
// long as they may take to open.
Result<std::unique_ptr<Communicator>> open_communicator(const RankOptions& ranks);

class ModelSource {
 public:
  // Finds the other ranks, where there are any, tells them what rank 0 was told, and reads the weights. `options` are
  // valid; `threads` are those of the first replica.
  static Result<ModelSource> open(const EngineOptions& options, GgufFile file, const ModelShape& shape,
                                  std::uint32_t threads);

  const KvLayout& layout() const { return layout_; }
  std::size_t max_logit_rows() const { return options_.max_logit_rows; }
  // "cpu", or the GPU's name.
  const std::string& device() const { return device_; }

  // The next replica's, with so many threads. With ranks there is one, which is ranks() then.
  Result<std::unique_ptr<ModelRunner>> make_model(std::uint32_t threads);
  // Where its blocks are to be, on its GPU; null: in host memory. After make_model().
  Result<std::shared_ptr<const BlockMemory>> reserve_blocks(std::size_t capacity_bytes);
  // Has the cache's tiers ask those of the other ranks too. After make_model(); does nothing without ranks.
  Status share_tiers(KvCacheOptions& cache);
  RankedModel* ranks() const { return ranks_; }

 private:
  ModelSource(GgufFile file, const LlamaOptions& options) : file_(std::move(file)), options_(options) {}
  Status find_ranks(const EngineOptions& options, const ModelShape& shape);

  GgufFile file_;  // on the CPU: taken by the weights
  LlamaOptions options_;
  KvLayout layout_;
  std::string device_ = "cpu";
  std::shared_ptr<const LlamaParameters> parameters_;  // on the CPU
  bool on_gpu_ = false;
  DeviceLlamaOptions device_options_;            // of the next replica's GPU
  std::unique_ptr<Communicator> communicator_;   // until the model has it
  std::vector<std::vector<Socket>> tier_links_;  // until the tiers have them
  RankedModel* ranks_ = nullptr;
  std::uint64_t rank_timeout_ms_ = 0;
};

}  // namespace tiercel
