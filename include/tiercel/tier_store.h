// A place below the hot arena where blocks of KV outlive their eviction: host memory, a disk, another machine.
//
// A store keeps bytes under content keys, chained from fingerprint, salt and adapter over all tokens up to the block's
// end. It compares tenant, adapter, the key of the block before and the block's own tokens on every read, what comes
// before only by key: docs/disk_format.md says what follows where keys are made to collide. It may drop any block at
// any time; the cache then computes it again. A block counts as here only while all blocks before it are here too, each
// written before the one behind it: so what was erased with its prefix cannot come back with a new one.
//
// A store serves one cache at a time. The cache calls it from one thread of its own and gives it no deadline to keep: a
// store that fails, is slow or hangs is left alone by the cache (tiercel/options.h), requests go on without it.
//
// Thread-safety: every method but open() may be called from any thread, and by several at once. Throws nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
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
  BlockKey parent;           // of the block before it; of (fingerprint, salt, adapter) for the first one
  std::uint64_t tenant = 0;  // which salt it belongs to, for erase_tenant() too: a hash that does not reveal it
  std::uint64_t adapter_id = 0;
  std::span<const TokenId> tokens;
  std::span<const std::byte> bytes;
  std::uint32_t position = 0;  // blocks before it
  bool copyable = true;        // Lease::commit()
};

// A block to be read.
struct TierRead {
  BlockKey key;
  BlockKey parent;                  // must be what was written
  std::uint64_t tenant = 0;         // must be what was written
  std::uint64_t adapter_id = 0;     // must be what was written
  std::span<const TokenId> tokens;  // must be what was written
  std::span<std::byte> bytes;       // filled where status is Ok, else unspecified
  BlockId block = kNoBlock;         // of the cache, which `bytes` become
  // Out. NotFound: not here, or of other content. Corruption: not the bytes that were written, and forgotten now. Other
  // codes: could not be read.
  Status status = {};
  bool copyable = false;  // out, where status is Ok: as written
};

struct TierStats {
  std::size_t capacity_bytes = 0;  // 0: not known
  std::size_t stored_bytes = 0;    // all that is taken of the capacity, envelopes included
  std::size_t stored_blocks = 0;
  std::uint64_t read_blocks = 0;     // found and whole
  std::uint64_t read_bytes = 0;      // of these, as stored
  std::uint64_t missed_blocks = 0;   // NotFound
  std::uint64_t corrupt_blocks = 0;  // Corruption
  std::uint64_t written_blocks = 0;
  std::uint64_t written_bytes = 0;   // of these, as stored
  std::uint64_t evicted_blocks = 0;  // for want of room
  std::uint64_t erased_blocks = 0;   // forgotten on request
  std::uint64_t errors = 0;          // operations of the system underneath that failed
};

// What a tier's traffic counts as.
enum class TierMedium : std::uint8_t { Memory, Disk, Network };

// One tier, as the cache sees it.
struct KvTierStats {
  std::string name = {};
  TierMedium medium = TierMedium::Memory;
  TierStats store = {};
  std::uint64_t matched_tokens = 0;  // of admitted prompts, found in blocks that this tier had given
  std::uint64_t loaded_blocks = 0;
  std::uint64_t stored_blocks = 0;
  std::uint64_t errors = 0;  // operations that failed
  std::uint64_t late = 0;    // operations that passed KvCacheOptions::tier_deadline_ms
  // False: after failures it is left alone for a while (Nygard, Release It!: circuit breaker).
  bool reads_available = true;
  bool writes_available = true;
  double load_bytes_per_s = 0;  // of loads, verified and decoded, lately; 0: not measured
};

class TierStore {
 public:
  virtual ~TierStore() = default;

  // "memory", "disk": for statistics and logs.
  virtual std::string_view name() const = 0;
  // Whether what it keeps outlives the process.
  virtual bool is_durable() const = 0;
  virtual TierMedium medium() const { return is_durable() ? TierMedium::Disk : TierMedium::Memory; }
  // Called once, before any other method but name(): what blocks there will be. Not Ok: the cache does not open.
  // Restores what an earlier process left, where the store outlives processes; blocks of other fingerprints stay there
  // and are never found.
  virtual Status open(const KvLayout& layout, const Fingerprint& fingerprint) = 0;
  // How many of the leading keys are here, as far as is known without I/O or any other wait. Counts as a use of these:
  // a path that is asked for as a whole stays as a whole, its end leaves first.
  virtual std::size_t leading(std::span<const BlockKey> keys) const = 0;
  // Sets the status of every read.
  virtual void read(std::span<TierRead> reads) = 0;
  // The blocks of the next write(), from the thread that will call it, while the cache holds them: a store with parts
  // of a block in other places than `bytes`, under the same ids, copies them there now. Quick. Not Ok: they are not
  // written.
  virtual Status stage(std::span<const BlockId> blocks) {
    static_cast<void>(blocks);
    return {};
  }
  // Blocks already here are kept. Not Ok: some or all of them were not written.
  virtual Status write(std::span<const TierRecord> records) = 0;
  // Forget: the blocks directly behind `parent` whose tokens begin with `tokens`, and all behind those; all of a
  // tenant; all of this fingerprint. Not found any more when the call returns, and not after a crash either. Not Ok:
  // they may come back with a restart.
  virtual Status erase(const BlockKey& parent, std::span<const TokenId> tokens) = 0;
  virtual Status erase_tenant(std::uint64_t tenant) = 0;
  virtual Status erase_all() = 0;
  // True: something is to be erased, by calls of the above that are yet to come, and until it is nobody shall read from
  // this store; false: it is. The cache holds itself back; this is for a store below several caches, which tells the
  // others. Called under locks of the cache: be quick, and call nothing of it.
  virtual void on_erasures_pending(bool) {}
  // What was written before the call survives the loss of power, where the store is durable at all.
  virtual Status flush() = 0;
  virtual TierStats stats() const = 0;
};

// Host memory: compressed blocks in a fixed arena, the least recently used go first. Gone with the process.
struct MemoryTierOptions {
  // Taken as address space at once, as memory when it is first written. At least one block as stored; envelopes count.
  std::size_t capacity_bytes = 0;
  Codec codec = Codec::Lossless;
};
// InvalidArgument for 0 bytes; Unavailable where the system gives no memory.
Result<std::shared_ptr<TierStore>> memory_tier(const MemoryTierOptions& options);

}  // namespace tiercel
