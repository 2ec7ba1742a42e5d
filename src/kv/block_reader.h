// Reads blocks of a tier into the memory that they are computed from: straight into them where that is the host's, else
// into host memory of its own, from which they are on their way when the read returns.
//
// Of two pieces of such memory one is read into while the other is copied from. Not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kv/block_memory.h"
#include "tiercel/tier_store.h"

namespace tiercel {

class BlockReader {
 public:
  // Of blocks of `block_bytes` each, kTierBatchBlocks at a time. May throw std::bad_alloc.
  BlockReader(std::shared_ptr<const BlockMemory> memory, std::size_t block_bytes);
  // Waits for what is on its way.
  ~BlockReader();
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;

  // As TierStore::read(), which finds what it is to read and into which blocks in `reads`; `bytes` are set here. Blocks
  // whose status is Ok are there for who reads or writes them as BlockMemory::begin_load() says, and may be given to
  // anybody. Not Ok: what they hold is not known.
  void read(TierStore& store, std::span<TierRead> reads);

 private:
  struct Staging {
    std::shared_ptr<std::byte> bytes;
    std::uint64_t load = 0;  // that copies from it
  };

  const std::shared_ptr<const BlockMemory> memory_;
  const std::size_t block_bytes_;
  std::array<Staging, 2> staging_;
  std::size_t reads_ = 0;  // by way of them
};

}  // namespace tiercel
