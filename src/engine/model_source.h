// Where models come from: those of an engine's replicas (weights in host memory that all share, or a GPU for each), or
// a rank's part of a model whose other parts other ranks have.
//
// Not thread-safe. Models outlive it, but for that of a rank above 0, and share nothing with it but the weights.
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

class ModelSource {
 public:
  // Finds the other ranks, where there are any; rank 0 tells them what it was told. `options` are valid, and this
  // rank's own.
  static Result<ModelSource> open(const EngineOptions& options, GgufFile file, const ModelShape& shape);

  const KvLayout& layout() const { return layout_; }  // of this rank
  std::size_t max_logit_rows() const { return options_.max_logit_rows; }
  // "cpu", or the GPU's name.
  const std::string& device() const { return device_; }

  // The next replica's, with so many threads. With ranks there is one, which waits for all of them, and at rank 0 is
  // ranks() then.
  Result<std::unique_ptr<ModelRunner>> make_model(std::uint32_t threads);
  // Where its blocks are to be, on its GPU; null: in host memory. After make_model().
  Result<std::shared_ptr<const BlockMemory>> reserve_blocks(std::size_t capacity_bytes);

  // Rank 0. Has the cache's tiers ask those of the other ranks too. After make_model(); does nothing without ranks.
  Status share_tiers(KvCacheOptions& cache);
  RankedModel* ranks() const { return ranks_; }

  // Another rank: what it hears rank 0 by, which of its tiers are asked for, and by what each is.
  Communicator& communicator() const { return *communicator_; }
  const RankTierSettings& tiers() const { return tiers_; }
  std::vector<Socket> take_tier_links() { return std::move(tier_links_.front()); }

 private:
  explicit ModelSource(GgufFile file) : file_(std::move(file)) {}
  // What models are made with, and their layout.
  Status configure(const EngineOptions& options, const ModelShape& shape);
  Status find_ranks(EngineOptions options, const ModelShape& shape);
  Result<std::unique_ptr<ModelRunner>> make_host_model();
  Result<std::unique_ptr<ModelRunner>> make_device_model();

  GgufFile file_;  // on the CPU: taken by the weights
  LlamaOptions options_;
  KvLayout layout_;
  std::string device_ = "cpu";
  std::shared_ptr<const LlamaParameters> parameters_;  // on the CPU
  bool on_gpu_ = false;
  DeviceLlamaOptions device_options_;  // of the next replica's GPU
  RankOptions rank_options_;
  std::unique_ptr<Communicator> communicator_;   // of host memory; at rank 0 until the model has it
  std::vector<std::vector<Socket>> tier_links_;  // until the tiers have them
  RankTierSettings tiers_;                       // of rank 0
  RankedModel* ranks_ = nullptr;
};

}  // namespace tiercel
