// Which part of a model a rank has. Along one axis, stages: a run of layers each, one stage behind the other (pipeline
// parallelism; Huang et al. 2019, "GPipe"). Along the other the ranks of a stage: tensor parallelism over heads, the
// hidden width of the feed-forward layers, and the vocabulary (Shoeybi et al. 2019, "Megatron-LM").
#pragma once

#include <cstdint>

#include "model/model_runner.h"
#include "tiercel/status.h"

namespace tiercel {

struct ModelShard {
  struct Range {
    std::uint32_t first = 0, count = 0;
    friend bool operator==(const Range&, const Range&) = default;
  };

  std::uint32_t rank = 0, size = 1;  // rank = stage * ranks of a stage + place in the stage
  std::uint32_t stages = 1;
  Range layers;
  Range heads;         // query heads
  Range kv_heads;      // those that these look at; each for as many of them
  Range feed_forward;  // of the rows of gate and up
  Range vocabulary;    // of the rows of the output head; of the last stage

  std::uint32_t stage_ranks() const { return size / stages; }
  std::uint32_t stage() const { return rank / stage_ranks(); }
  std::uint32_t place() const { return rank % stage_ranks(); }
  bool is_first_stage() const { return stage() == 0; }
  bool is_last_stage() const { return stage() + 1 == stages; }
};

// As even as whole parts allow; where it is uneven, the first ranks have more. Ranks up to the number of KV heads have
// whole KV heads, with all query heads of these. With more ranks a KV head is on several, which share its query heads.
// Rows and columns are cut where blocks of 32 end. No rank has more KV heads than rank 0, or more layers.
// InvalidArgument: more ranks or stages than parts, a size that is no multiple of the stages, or heads whose size
// allows no cut between them; says what to change.
Result<ModelShard> shard_model(const ModelShape& shape, std::uint32_t rank, std::uint32_t size,
                               std::uint32_t stages = 1);

}  // namespace tiercel
