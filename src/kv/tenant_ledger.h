// Who of the tenants has how many blocks, against a quota each.
//
// A tenant is a salt. Its blocks are those its leases and pins hold, those promised to its leases, and its cached ones.
// What is held or promised never exceeds the quota (admission asks may_claim()); a tenant that takes a block while held
// and cached ones reach the quota first evicts one of its own: next_victim(), the least recently released.
//
// 12 bytes per block, allocated only where quotas are in use. Not synchronised: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kv/index_allocator.h"
#include "tiercel/types.h"

namespace tiercel {

using TenantId = std::uint32_t;
inline constexpr TenantId kNoTenant = 0xffffffffu;

class TenantLedger {
 public:
  // `default_quota_blocks` 0: no limit.
  TenantLedger(std::size_t capacity_blocks, std::size_t default_quota_blocks);

  // A tenant stays known while it is joined, has blocks or has a quota of its own. join() may throw std::bad_alloc.
  TenantId join(std::string_view salt);
  void join_again(TenantId tenant) { ++tenants_[tenant].joined; }
  void leave(TenantId tenant);
  // 0: the default again.
  void set_quota(std::string_view salt, std::size_t quota_blocks);

  std::size_t quota_blocks(TenantId tenant) const;
  // Whether so many more blocks may be held or promised.
  bool may_claim(TenantId tenant, std::size_t blocks) const;
  bool is_at_quota(TenantId tenant) const { return tenants_[tenant].taken >= quota_blocks(tenant); }
  // The evictable block to go where a tenant is at its quota, or kNoBlock.
  BlockId next_victim(TenantId tenant) const { return tenants_[tenant].oldest; }

  void on_promised(TenantId tenant, std::size_t blocks) { tenants_[tenant].claimed += blocks; }
  void on_promise_returned(TenantId tenant, std::size_t blocks) { tenants_[tenant].claimed -= blocks; }
  // A promised block becomes the tenant's, held; a cached one is held; a held one no longer; a block is free again.
  void on_taken(TenantId tenant, BlockId block);
  void on_held(BlockId block) { ++tenants_[tenant_of_[block]].claimed; }
  void on_dropped(BlockId block) { --tenants_[tenant_of_[block]].claimed; }
  void on_freed(BlockId block);
  // A block becomes evictable; it is so no longer, where it was.
  void on_evictable(BlockId block);
  void on_not_evictable(BlockId block);

  // Held or cached.
  std::size_t taken_blocks(std::string_view salt) const;
  std::size_t metadata_bytes() const;

 private:
  using Salts = std::map<std::string, TenantId, std::less<>>;
  struct Tenant {
    Salts::iterator salt;
    std::size_t quota_blocks = 0;  // 0: the default
    std::size_t joined = 0;
    std::size_t claimed = 0;    // held or promised
    std::size_t taken = 0;      // held or cached
    BlockId oldest = kNoBlock;  // of its evictable blocks
    BlockId newest = kNoBlock;
  };
  static constexpr BlockId kUnlisted = kNoBlock - 1;
  struct Links {
    BlockId older = kUnlisted;
    BlockId newer = kNoBlock;
  };

  void forget_if_unused(TenantId tenant);

  const std::size_t default_quota_blocks_;
  Salts ids_;
  std::vector<Tenant> tenants_;
  std::vector<TenantId> unused_;
  BlockArray<TenantId> tenant_of_;  // by block
  BlockArray<Links> links_;         // by block
};

}  // namespace tiercel
