// What rank 0 asks of the others about one tier, and what they answer: one request at a time over a link of the tier's
// own (ranks/rank_links.h), each a frame, each answered by a frame.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tiercel/status.h"
#include "tiercel/tier_store.h"
#include "tiercel/types.h"

namespace tiercel {

enum class TierCall : std::uint32_t {
  Open,
  Read,         // into blocks
  Stage,        // copy blocks, for the next Write
  Write,        // what was staged
  ErasePrefix,  // tokens behind parent
  EraseTenant,
  EraseAll,
  Flush,
};

struct TierRequest {
  struct Block {
    BlockKey key = {}, parent = {};
    std::uint64_t tenant = 0, adapter_id = 0;
    BlockId block = kNoBlock;  // Read, Stage
    std::uint32_t position = 0;
    std::uint32_t tokens = 0;  // of those below
    bool copyable = true;
  };

  TierCall call = TierCall::Open;
  std::uint64_t after = 0;          // Read, Stage: not before this is carried out (rank_progress.h)
  BlockKey parent = {};             // ErasePrefix
  std::uint64_t tenant = 0;         // EraseTenant
  std::vector<BlockKey> used = {};  // paths that were asked for since the last request, one behind the other
  std::vector<std::uint32_t> used_lengths = {};  // of each of them
  std::vector<Block> blocks = {};                // Read, Stage, Write
  std::vector<TokenId> tokens = {};              // of all blocks, one behind the other; ErasePrefix
};

struct TierAnswer {
  struct Block {
    StatusCode code = StatusCode::Ok;
    bool copyable = false;
  };

  Status status;              // of the whole; of Read: the first that is not Ok
  std::vector<Block> blocks;  // Read
};

void write_request(const TierRequest& request, std::vector<std::byte>& bytes);
void write_answer(const TierAnswer& answer, std::vector<std::byte>& bytes);
// Internal: that is none.
Status read_request(std::span<const std::byte> bytes, TierRequest& request);
Status read_answer(std::span<const std::byte> bytes, TierAnswer& answer);

}  // namespace tiercel
