// Which part of a model a rank has: tensor parallelism over heads, the hidden width of the feed-forward layers, and
// the vocabulary (Shoeybi et al. 2019, "Megatron-LM").
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

  std::uint32_t rank = 0, size = 1;
  Range heads;         // query heads
  Range kv_heads;      // those that these look at; each for as many of them
  Range feed_forward;  // of the rows of gate and up
  Range vocabulary;    // of the rows of the output head
};

// As even as whole parts allow; where it is uneven, the first ranks have more. Ranks up to the number of KV heads have
// whole KV heads, with all query heads of these. With more ranks a KV head is on several, which share its query heads.
// Rows and columns are cut where blocks of 32 end.
// InvalidArgument: more ranks than parts, or heads whose size allows no cut between them; says what to change.
Result<ModelShard> shard_model(const ModelShape& shape, std::uint32_t rank, std::uint32_t size);

}  // namespace tiercel
