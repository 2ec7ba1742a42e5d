#include "kv/block_reader.h"

#include <cassert>
#include <utility>
#include <vector>

#include "kv/tier_transfer.h"

namespace tiercel {

BlockReader::BlockReader(std::shared_ptr<const BlockMemory> memory, std::size_t block_bytes)
    : memory_(std::move(memory)), block_bytes_(block_bytes) {
  if (memory_->is_host()) return;
  for (Staging& staging : staging_) staging.bytes = memory_->allocate_host(kTierBatchBlocks * block_bytes);
}

BlockReader::~BlockReader() {
  for (const Staging& staging : staging_) static_cast<void>(memory_->finish_load(staging.load));
}

void BlockReader::read(TierStore& store, std::span<TierRead> reads) {
  assert(reads.size() <= kTierBatchBlocks);
  if (memory_->is_host()) {
    for (TierRead& read : reads) read.bytes = {memory_->block(read.block), block_bytes_};
    return store.read(reads);
  }
  Staging& staging = staging_[reads_++ % staging_.size()];
  std::vector<BlockId> blocks;
  for (TierRead& read : reads) {
    read.bytes = {staging.bytes.get() + blocks.size() * block_bytes_, block_bytes_};
    blocks.push_back(read.block);
  }
  Status copied = memory_->finish_load(staging.load);
  if (copied.ok()) {
    store.read(reads);
    const auto begun = memory_->begin_load(staging.bytes.get(), block_bytes_, blocks);
    staging.load = begun.ok() ? *begun : 0;
    copied = begun.status();
  }
  for (TierRead& read : reads) {
    if (!copied.ok() && read.status.ok()) read.status = copied;
  }
}

}  // namespace tiercel
