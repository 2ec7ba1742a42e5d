#include "engine/rank_follower.h"

#include <cstring>
#include <optional>
#include <utility>

#include "engine/rank_messages.h"
#include "kv/block_arena.h"

namespace tiercel {
namespace {

class Follower {
 public:
  Follower(Communicator& communicator, ModelRunner& model, const KvLayout& layout)
      : communicator_(communicator), model_(model), layout_(layout) {}

  Status run() {
    while (true) {
      const auto received = receive_message(communicator_, storage_);
      if (!received.ok()) return received.status();
      switch (received->message) {
        case RankMessage::Begin: TIERCEL_RETURN_IF_ERROR(begin(received->bytes)); break;
        case RankMessage::Step: TIERCEL_RETURN_IF_ERROR(step(received->bytes)); break;
        case RankMessage::StillHere: TIERCEL_RETURN_IF_ERROR(communicator_.barrier()); break;
        case RankMessage::End: static_cast<void>(communicator_.barrier()); return {};
        default: return Status::internal("what rank 0 sent is no message");
      }
    }
  }

 private:
  Status begin(std::span<const std::byte> bytes) {
    std::uint64_t blocks = 0;
    if (bytes.size() != sizeof blocks) return Status::internal("what rank 0 sent is no number of blocks");
    std::memcpy(&blocks, bytes.data(), sizeof blocks);
    auto arena = BlockArena::reserve(static_cast<std::size_t>(blocks), layout_.block_bytes());
    if (!arena.ok()) return arena.status();
    arena_.emplace(*std::move(arena));
    blocks_ = static_cast<std::size_t>(blocks);
    return {};
  }

  Status step(std::span<const std::byte> bytes) {
    TIERCEL_RETURN_IF_ERROR(read_step(bytes, blocks_, model_.shape().vocabulary, step_));
    for (const BlockCopy& copy : step_.copies) {
      TIERCEL_RETURN_IF_ERROR(arena_->copy_leading_tokens(layout_, copy.from, copy.to, copy.tokens));
    }
    return model_.step(step_.chunks, arena_->block(0)).status();
  }

  Communicator& communicator_;
  ModelRunner& model_;
  const KvLayout layout_;
  std::optional<BlockArena> arena_;
  std::size_t blocks_ = 0;
  std::vector<std::byte> storage_;
  RankStep step_;
};

}  // namespace

Status follow_first_rank(Communicator& communicator, ModelRunner& model, const KvLayout& layout) {
  const Status status = Follower(communicator, model, layout).run();
  if (!status.ok()) communicator.abort();  // the others need not wait for this one
  return status;
}

}  // namespace tiercel
