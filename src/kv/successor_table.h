// Which document follows which: what a tenant asked for after what. A document is a prefix that was asked for before,
// by any prompt; its name is the key of its last block.
//
// Remembers the kMostDocuments last used, with at most kMostSuccessors of each, and is small beside the cache. A pure
// decision. Not synchronised.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "kv/block_key.h"
#include "tiercel/tier_store.h"
#include "tiercel/types.h"

namespace tiercel {

struct Document {
  BlockKey key;
  std::string salt;
  std::uint64_t adapter_id = 0;
  std::vector<TokenId> tokens;  // whole blocks
};

class SuccessorTable {
 public:
  static constexpr std::size_t kMostDocuments = 256;
  static constexpr std::size_t kMostDocumentTokens = 16384;  // longer ones are not remembered
  static constexpr std::size_t kMostSuccessors = 4;
  static constexpr std::size_t kMostTenants = 1024;

  bool knows(const BlockKey& document) const { return by_key_.contains(document); }
  // `tenant` asks for `document`. Returns the one that it will likely ask for next (at least twice before, and at least
  // every other time), or null. Valid until the next call.
  const Document* observe(std::uint64_t tenant, Document document);
  // As above for a document that it knows.
  const Document* observe(std::uint64_t tenant, const BlockKey& document);
  void clear();

 private:
  struct Successor {
    BlockKey key;
    std::uint32_t times = 0;
  };
  struct Entry {
    Document document;
    std::array<Successor, kMostSuccessors> successors{};
    std::uint32_t followed = 0;  // times that anything followed
  };
  using Entries = std::list<Entry>;

  static void add_successor(Entry& entry, const BlockKey& next);

  Entries entries_;  // most recently used first
  std::unordered_map<BlockKey, Entries::iterator, BlockKeyHash> by_key_;
  std::unordered_map<std::uint64_t, BlockKey> last_;  // by tenant
};

}  // namespace tiercel
