#include "kv/block_pool.h"

#include <algorithm>
#include <cassert>

namespace tiercel {

BlockPool::BlockPool(std::size_t capacity_blocks) : references_(capacity_blocks) {
  assert(capacity_blocks < kFree);
  for (std::size_t block = capacity_blocks; block-- > 0;) give_back(static_cast<BlockId>(block));
}

std::uint32_t BlockPool::references(BlockId block) const {
  assert(!is_free(block));
  return references_[block];
}

void BlockPool::promise(std::size_t blocks) {
  assert(blocks <= claimable_blocks());
  promised_ += blocks;
}

void BlockPool::return_promises(std::size_t blocks) {
  assert(blocks <= promised_);
  promised_ -= blocks;
}

BlockId BlockPool::take_promised() {
  assert(promised_ > 0 && free_ > 0);
  const BlockId block = first_free_;
  first_free_ = references_[block] == kEnd ? kEnd : references_[block] & ~kFree;
  used_ = std::max<std::size_t>(used_, std::size_t{block} + 1);
  --free_;
  references_[block] = 1;
  ++leased_;
  --promised_;
  return block;
}

void BlockPool::add_reference(BlockId block) {
  assert(!is_free(block));
  if (references_[block]++ == 0) ++leased_;
}

bool BlockPool::drop_reference(BlockId block) {
  assert(!is_free(block) && references_[block] > 0);
  if (--references_[block] > 0) return false;
  --leased_;
  return true;
}

void BlockPool::give_back(BlockId block) {
  assert(!is_free(block) && references_[block] == 0);
  references_[block] = first_free_ == kEnd ? kEnd : first_free_ | kFree;
  first_free_ = block;
  ++free_;
}

std::size_t BlockPool::metadata_bytes() const { return references_.capacity() * sizeof(references_[0]); }

}  // namespace tiercel
