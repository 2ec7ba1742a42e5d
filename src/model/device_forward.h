// The kernels of a step of a Llama on a GPU, of this rank's stage: from the embedding or the stage before to the next
// one, or to the logits and the tokens drawn from them; in the order in which they are given to the stream. Copies to
// and from the host, and graphs, are DeviceLlama's.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda_stream.h"
#include "model/device_llama_weights.h"
#include "model/device_ranks.h"
#include "model/device_step_plan.h"
#include "model/device_step_profile.h"
#include "model/device_workspace.h"
#include "model/llama_config.h"
#include "tiercel/status.h"

namespace tiercel {

// Not thread-safe.
class DeviceForward {
 public:
  // `config` is that of the rank; what the workspace's kernels are told is `plan`. References outlive this.
  DeviceForward(const LlamaConfig& config, const ModelShard& shard, const KvLayout& layout, DeviceLlamaWeights weights,
                std::size_t multiprocessors, const DeviceWorkspace& workspace, const DeviceStepPlan& plan,
                const CudaStream& stream)
      : config_(config),
        shard_(shard),
        layout_(layout),
        weights_(std::move(weights)),
        multiprocessors_(multiprocessors),
        workspace_(workspace),
        plan_(plan),
        stream_(stream) {}

  // Sums and logits are those of these ranks from now on.
  void share(DeviceRanks* ranks) { ranks_ = ranks; }

  // Whose parts are entered from now on, in every step.
  void time_parts(DeviceStepProfile* profile) { profile_ = profile; }

  std::size_t weight_bytes() const { return weights_.memory.bytes(); }
  // ModelRunner::kernels()
  std::vector<std::pair<std::string, std::string>> kernels() const;

  // Called with each layer before its kernels touch blocks.
  using BeforeBlocks = std::function<Status(std::size_t layer)>;

  // Among the rows of logits of a step, those of a micro-batch: from where on those that are returned, and those that
  // are drawn from.
  struct WantedRows {
    std::size_t returned = 0, drawn = 0;
  };
  // Launches the layers of the step that was planned last, or of the micro-batch, over blocks in `arena`. No row of
  // decode attention sees more than `longest_decode` tokens. In the last stage rows whose logits are wanted are kept.
  Status enqueue_layers(std::byte* arena, std::size_t longest_decode, const WantedRows& wanted,
                        const BeforeBlocks& before_blocks = {});
  // What follows the layers of a step, which was planned last, whole: logits, where they come together, and tokens
  // drawn from them. `exact_head`: rows of logits have the same bits in every batch.
  Status enqueue_end(bool exact_head);

 private:
  // x of the rows, from their tokens or from the stage before.
  Status begin();
  Status compute_layer(std::size_t index, std::byte* arena, std::size_t longest_decode,
                       const BeforeBlocks& before_blocks);
  Status attend(std::byte* arena, std::size_t layer, std::size_t longest_decode);
  Status linear(StepPart part, const kernels::cuda::DeviceWeights& weights, const std::byte* x, std::byte* y);
  Status norm(const std::byte* residual, const float* weight);
  // Of the rows whose logits are wanted, `count` from `first` on to rows from `to` on of all that the step wants.
  Status keep(std::size_t first, std::size_t count, std::size_t to);
  Status head(bool exact);
  Status draw();
  // delta, of which each rank of the stage has a part, becomes the sum of all.
  Status add_up_ranks();
  // x and delta to the next stage.
  Status hand_on();
  Status enter(StepPart part) { return profile_ ? profile_->enter(part, stream_) : Status(); }

  const std::uint32_t* planned(std::size_t offset) const { return workspace_.plan + offset; }
  std::size_t row_bytes(std::size_t width) const { return width * size_of(layout_.dtype); }

  const LlamaConfig config_;
  const ModelShard shard_;
  const KvLayout layout_;
  const DeviceLlamaWeights weights_;
  const std::size_t multiprocessors_;
  const DeviceWorkspace& workspace_;
  const DeviceStepPlan& plan_;
  const CudaStream& stream_;
  DeviceRanks* ranks_ = nullptr;          // null: alone
  DeviceStepProfile* profile_ = nullptr;  // null: nobody asked
};

}  // namespace tiercel
