#include "engine/rank_follower.h"

#include <cstring>
#include <memory>
#include <utility>

#include "engine/rank_messages.h"
#include "kv/block_arena.h"

namespace tiercel {
namespace {

class Follower {
 public:
  Follower(Communicator& communicator, ModelRunner& model, const KvLayout& layout, RankTierServer* tiers,
           const ReserveBlocks& reserve)
      : communicator_(communicator), model_(model), layout_(layout), tiers_(tiers), reserve_(reserve) {}

  Status run() {
    while (true) {
      const auto received = receive_message(communicator_, storage_);
      if (!received.ok()) return received.status();
      switch (received->message) {
        case RankMessage::Begin: TIERCEL_RETURN_IF_ERROR(begin(received->bytes)); break;
        case RankMessage::Step: TIERCEL_RETURN_IF_ERROR(step(received->bytes)); break;
        case RankMessage::StillHere: TIERCEL_RETURN_IF_ERROR(communicator_.barrier()); break;
        case RankMessage::End:
          if (tiers_) tiers_->close();  // when rank 0 has ended, the next engine may have what they had
          static_cast<void>(communicator_.barrier());
          return {};
        default: return Status::internal("what rank 0 sent is no message");
      }
    }
  }

 private:
  Status begin(std::span<const std::byte> bytes) {
    std::uint64_t blocks = 0;
    if (bytes.size() != sizeof blocks) return Status::internal("what rank 0 sent is no number of blocks");
    std::memcpy(&blocks, bytes.data(), sizeof blocks);
    TIERCEL_RETURN_IF_ERROR(reserve(static_cast<std::size_t>(blocks)));
    if (tiers_) TIERCEL_RETURN_IF_ERROR(tiers_->set_memory(memory_));
    carried_out();
    return communicator_.barrier();
  }

  Status reserve(std::size_t blocks) {
    if (reserve_) {
      auto memory = reserve_(blocks);
      if (!memory.ok()) return memory.status();
      memory_ = *std::move(memory);
      if (memory_) model_.compute_over(*memory_);
    }
    if (!memory_) {
      auto arena = BlockArena::reserve(blocks, layout_.block_bytes());
      if (!arena.ok()) return arena.status();
      memory_ = std::make_shared<BlockArena>(*std::move(arena));
    }
    return {};
  }

  Status step(std::span<const std::byte> bytes) {
    if (!memory_) return Status::internal("rank 0 sent a step before the number of blocks");
    TIERCEL_RETURN_IF_ERROR(read_step(bytes, memory_->blocks(), model_.shape().vocabulary, step_));
    for (const BlockCopy& copy : step_.copies) {
      TIERCEL_RETURN_IF_ERROR(memory_->copy_leading_tokens(layout_, copy.from, copy.to, copy.tokens));
    }
    TIERCEL_RETURN_IF_ERROR(model_.step(step_.chunks, memory_->block(0)).status());
    carried_out();
    return {};
  }

  // What rank 0 numbers (rank_progress.h).
  void carried_out() {
    if (tiers_) tiers_->carried_out();
  }

  Communicator& communicator_;
  ModelRunner& model_;
  const KvLayout layout_;
  RankTierServer* const tiers_;
  const ReserveBlocks& reserve_;
  std::shared_ptr<const BlockMemory> memory_;
  std::vector<std::byte> storage_;
  RankStep step_;
};

}  // namespace

Status follow_first_rank(Communicator& communicator, ModelRunner& model, const KvLayout& layout, RankTierServer* tiers,
                         const ReserveBlocks& reserve) {
  Follower follower(communicator, model, layout, tiers, reserve);
  const Status status = follower.run();
  if (!status.ok()) {  // the others need not wait for this one
    communicator.abort();
    model.leave_ranks();
  }
  return status;
}

}  // namespace tiercel
