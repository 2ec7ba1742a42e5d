#include "kv/tenant_ledger.h"

#include <cassert>
#include <cstdint>
#include <utility>

namespace tiercel {

TenantLedger::TenantLedger(std::size_t capacity_blocks, std::size_t default_quota_blocks)
    : default_quota_blocks_(default_quota_blocks), tenant_of_(capacity_blocks, kNoTenant), links_(capacity_blocks) {}

TenantId TenantLedger::join(std::string_view salt) {
  auto place = ids_.find(salt);
  if (place == ids_.end()) {
    unused_.reserve(tenants_.size() + 1);
    if (unused_.empty()) {
      tenants_.emplace_back();
      unused_.push_back(static_cast<TenantId>(tenants_.size() - 1));
    }
    place = ids_.emplace(salt, unused_.back()).first;
    unused_.pop_back();
    tenants_[place->second] = {.salt = place};
  }
  ++tenants_[place->second].joined;
  return place->second;
}

void TenantLedger::leave(TenantId tenant) {
  assert(tenants_[tenant].joined > 0);
  --tenants_[tenant].joined;
  forget_if_unused(tenant);
}

void TenantLedger::set_quota(std::string_view salt, std::size_t quota_blocks) {
  const TenantId tenant = join(salt);
  tenants_[tenant].quota_blocks = quota_blocks;
  leave(tenant);
}

std::size_t TenantLedger::quota_blocks(TenantId tenant) const {
  const std::size_t own = tenants_[tenant].quota_blocks;
  const std::size_t quota = own != 0 ? own : default_quota_blocks_;
  return quota != 0 ? quota : SIZE_MAX;
}

bool TenantLedger::may_claim(TenantId tenant, std::size_t blocks) const {
  const std::size_t quota = quota_blocks(tenant);
  return tenants_[tenant].claimed <= quota && blocks <= quota - tenants_[tenant].claimed;
}

void TenantLedger::on_taken(TenantId tenant, BlockId block) {
  tenant_of_[block] = tenant;
  ++tenants_[tenant].taken;
}

void TenantLedger::on_freed(BlockId block) {
  const TenantId tenant = std::exchange(tenant_of_[block], kNoTenant);
  --tenants_[tenant].taken;
  forget_if_unused(tenant);
}

void TenantLedger::on_evictable(BlockId block) {
  Tenant& tenant = tenants_[tenant_of_[block]];
  links_[block] = {.older = tenant.newest, .newer = kNoBlock};
  (tenant.newest == kNoBlock ? tenant.oldest : links_[tenant.newest].newer) = block;
  tenant.newest = block;
}

void TenantLedger::on_not_evictable(BlockId block) {
  if (links_[block].older == kUnlisted) return;
  Tenant& tenant = tenants_[tenant_of_[block]];
  const Links gone = std::exchange(links_[block], Links{});
  (gone.older == kNoBlock ? tenant.oldest : links_[gone.older].newer) = gone.newer;
  (gone.newer == kNoBlock ? tenant.newest : links_[gone.newer].older) = gone.older;
}

std::size_t TenantLedger::taken_blocks(std::string_view salt) const {
  const auto place = ids_.find(salt);
  return place == ids_.end() ? 0 : tenants_[place->second].taken;
}

void TenantLedger::forget_if_unused(TenantId tenant) {
  const Tenant& gone = tenants_[tenant];
  if (gone.joined > 0 || gone.taken > 0 || gone.quota_blocks > 0) return;
  assert(gone.claimed == 0);
  ids_.erase(gone.salt);
  unused_.push_back(tenant);
}

std::size_t TenantLedger::metadata_bytes() const {
  std::size_t bytes = tenants_.capacity() * sizeof(Tenant) + unused_.capacity() * sizeof(TenantId) +
                      tenant_of_.capacity() * sizeof(TenantId) + links_.capacity() * sizeof(Links);
  for (const auto& [salt, tenant] : ids_) bytes += sizeof(salt) + sizeof(tenant) + salt.capacity();
  return bytes;
}

}  // namespace tiercel
