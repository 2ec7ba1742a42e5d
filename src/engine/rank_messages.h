// What rank 0 tells the others, by broadcast: with which options to load the model, how many blocks there are, each
// step, that it is still there, and that it ends.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_runner.h"
#include "ranks/communicator.h"
#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel {

// Rank 0's tiers, as the others are told of them.
struct RankTierSettings {
  std::uint64_t block_bytes = 0;          // of rank 0's part
  std::uint64_t memory_bytes = 0;         // 0: no memory tier
  std::uint64_t disk_capacity_bytes = 0;  // 0: no disk tier
  std::uint32_t own_stores = 0;           // KvCacheOptions::tiers
  Codec memory_codec = Codec::Lossless;
  Codec disk_codec = Codec::Raw;

  std::size_t count() const { return (memory_bytes > 0) + (disk_capacity_bytes > 0) + own_stores; }
};

// The options that ranks must have alike, so rank 0 gives them to all.
struct RankSettings {
  std::uint64_t timeout_ms = 0;  // of an operation, once the model is loaded
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  std::uint32_t context_tokens = 0;
  std::uint32_t block_tokens = 0;
  std::uint32_t pipeline = 1;
  Compute compute = Compute::Fast;
  KvDType kv_dtype = KvDType::Auto;
  bool deterministic = false;
  RankTierSettings tiers;
};
RankSettings settings_of(const EngineOptions& options);
// Of another rank: what is not its own becomes rank 0's.
void take_settings(const RankSettings& settings, EngineOptions& options);
// Ok: `settings` are those of rank 0, here and there.
Status share_settings(Communicator& communicator, RankSettings& settings);
// Ok: all ranks compute on GPUs, or all on CPUs, and can. Else `usable`, where that is not Ok here, or what says which
// rank cannot (Unavailable) or is on another kind of device (InvalidArgument).
Status compare_devices(Communicator& communicator, bool on_gpu, const Status& usable);

enum class RankMessage : std::uint32_t {
  Begin,      // a number of blocks; everybody answers
  Step,       // copies of blocks, then chunks
  StillHere,  // nothing has been said for a while; everybody answers
  End,
};

// Leading tokens that are copied from block to block.
struct BlockCopy {
  BlockId from, to;
  std::uint32_t tokens;
};

// What a step is, as bytes and back; of `draws` their number alone.
void write_step(std::span<const BlockCopy> copies, std::span<const SequenceChunk> chunks,
                std::vector<std::byte>& bytes);
struct RankStep {
  std::vector<BlockCopy> copies;
  std::vector<SequenceChunk> chunks;  // of what is below
  std::vector<TokenId> tokens;
  std::vector<BlockId> blocks;
  std::vector<kernels::SamplingRow> draws;  // stand for rank 0's, which draws
};
// Internal: that is no step, or one beyond `blocks` blocks or `vocabulary`.
Status read_step(std::span<const std::byte> bytes, std::size_t blocks, std::size_t vocabulary, RankStep& step);

// A message and what belongs to it, from rank 0 to all others.
Status send_message(Communicator& communicator, RankMessage message, std::span<const std::byte> bytes);
struct ReceivedMessage {
  RankMessage message;
  std::span<const std::byte> bytes;  // in `storage`
};
Result<ReceivedMessage> receive_message(Communicator& communicator, std::vector<std::byte>& storage);

}  // namespace tiercel
