// Who holds which block, as counts: references per block, a list of free blocks, and promises of blocks yet to be
// taken.
//
// A block is free (holds nothing), leased (at least one reference) or cached (filled, no reference). The pool knows no
// content; that a cached block can be found is the prefix index's affair, and evicting one its owner's.
//
// A promise is a claim on a free or cached block without saying which: as long as
//     promised_blocks() <= free_blocks() + cached_blocks()
// and every cached block can be evicted in the end, take_promised() cannot fail for want of blocks. The pool keeps the
// sum; the caller checks claimable_blocks() before it promises or takes references on cached blocks.
//
// Not synchronised: the owner locks. Misuse (a reference dropped twice, a free block held) is a programming error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv/index_allocator.h"
#include "tiercel/types.h"

namespace tiercel {

class BlockPool {
 public:
  explicit BlockPool(std::size_t capacity_blocks);

  std::size_t capacity_blocks() const { return references_.size(); }
  std::size_t free_blocks() const { return free_; }
  std::size_t leased_blocks() const { return leased_; }
  std::size_t cached_blocks() const { return capacity_blocks() - free_ - leased_; }
  std::size_t promised_blocks() const { return promised_; }
  // Blocks that may still be promised or, if cached, referenced.
  std::size_t claimable_blocks() const { return capacity_blocks() - leased_ - promised_; }

  // All that were ever taken are below it: fresh ones are taken in order.
  std::size_t used_blocks() const { return used_; }

  bool is_free(BlockId block) const { return (references_[block] & kFree) != 0; }
  // References of a block that is not free.
  std::uint32_t references(BlockId block) const;

  void promise(std::size_t blocks);
  void return_promises(std::size_t blocks);

  // Redeems one promise with a free block, which then has one reference. There must be a free block.
  BlockId take_promised();
  void add_reference(BlockId block);
  // True if it was the last: the block is cached from here on, or give_back() frees it.
  bool drop_reference(BlockId block);
  // Frees a block without references.
  void give_back(BlockId block);

  std::size_t metadata_bytes() const;

 private:
  static constexpr std::uint32_t kFree = 0x80000000u;
  static constexpr std::uint32_t kEnd = 0xffffffffu;

  // By block: its references, or kFree with the next block of the list of free ones. The list is a stack: the block
  // freed last is taken first, so that memory which was never needed is never touched.
  BlockArray<std::uint32_t> references_;
  std::uint32_t first_free_ = kEnd;
  std::size_t free_ = 0;
  std::size_t leased_ = 0;
  std::size_t promised_ = 0;
  std::size_t used_ = 0;
};

}  // namespace tiercel
