// A place below the hot arena where blocks of KV outlive their eviction: host memory, a disk, another machine.
//
// A store keeps bytes under content keys. A key is rooted in the model's fingerprint, the salt and the adapter and
// chained over all tokens up to the block's end, so one store may serve many models and tenants. Beside the bytes it
// keeps what they stand for, the key of the block before and the tokens, and compares them on every read: equal keys of
// unequal content are a miss. It may drop any block at any time; the cache then computes it again.
//
// Thread-safety: every method may be called from any thread. Throws nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

struct BlockKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
};

// A block to be written. The spans are valid during the call.
struct TierRecord {
  BlockKey key;
  BlockKey parent;  // of the block before it; of (fingerprint, salt, adapter) for the first one
  std::span<const TokenId> tokens;
  std::span<const std::byte> bytes;
};

// A block to be read.
struct TierRead {
  BlockKey key;
  BlockKey parent;                  // must be what was written
  std::span<const TokenId> tokens;  // must be what was written
  std::span<std::byte> bytes;       // filled where status is Ok, else unspecified
  // Out. NotFound: not here, or of other content. Corruption: not the bytes that were written, and forgotten now. Other
  // codes: could not be read.
  Status status = {};
};

struct TierStats {
  std::size_t capacity_blocks = 0;  // 0: not known
  std::size_t stored_blocks = 0;
  std::size_t stored_bytes = 0;
  std::uint64_t read_blocks = 0;     // found and whole
  std::uint64_t missed_blocks = 0;   // NotFound
  std::uint64_t corrupt_blocks = 0;  // Corruption
  std::uint64_t written_blocks = 0;
  std::uint64_t evicted_blocks = 0;  // for want of room
};

class TierStore {
 public:
  virtual ~TierStore() = default;

  // "memory", "disk": for statistics and logs.
  virtual std::string_view name() const = 0;
  // How many of the leading keys are here, as far as is known without I/O. Counts as a use of these: a path that is
  // asked for as a whole stays as a whole, its end leaves first.
  virtual std::size_t leading(std::span<const BlockKey> keys) const = 0;
  // Sets the status of every read.
  virtual void read(std::span<TierRead> reads) = 0;
  // Blocks already here are kept. Not Ok: some or all of them were not written.
  virtual Status write(std::span<const TierRecord> records) = 0;
  // Unknown keys are passed over.
  virtual void erase(std::span<const BlockKey> keys) = 0;
  virtual TierStats stats() const = 0;
};

// Host memory: blocks as they are, the least recently used go first. The room is taken in whole blocks when the first
// block is written, whose size all must have. InvalidArgument for 0 bytes; Unavailable where the system gives no
// memory.
Result<std::shared_ptr<TierStore>> memory_tier(std::size_t capacity_bytes);

}  // namespace tiercel
