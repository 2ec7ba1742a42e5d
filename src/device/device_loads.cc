#include "device/device_loads.h"

#include <algorithm>

namespace tiercel {

DeviceLoads::~DeviceLoads() {
  if (!under_way_.empty()) (void)finish(newest_);  // a broken GPU copies nothing any more
}

Result<std::uint64_t> DeviceLoads::begin(std::span<const BlockTransfer> transfers, std::span<const BlockId> ids,
                                         const CudaStream& before) {
  const std::lock_guard lock(mutex_);
  forget_arrived();
  // First, since it may throw: what nobody knows of must not be on its way.
  for (const BlockId id : ids) {
    if (id >= last_.size()) last_.resize(id + 1);
  }
  auto ticket = engine_.load(transfers, before);
  if (!ticket.ok()) return ticket.status();
  under_way_.push_back({.number = newest_ + 1, .ticket = std::make_shared<CopyTicket>(*std::move(ticket))});
  ++newest_;
  for (const BlockId id : ids) last_[id] = newest_;
  return newest_;
}

std::uint64_t DeviceLoads::newest_to(std::span<const BlockId> ids) {
  const std::lock_guard lock(mutex_);
  forget_arrived();
  if (under_way_.empty()) return 0;
  std::uint64_t newest = 0;
  for (const BlockId id : ids) newest = std::max(newest, id < last_.size() ? last_[id] : 0);
  return newest < under_way_.front().number ? 0 : newest;
}

Status DeviceLoads::order(const CudaStream& stream, std::uint64_t load, std::size_t layer) {
  const std::lock_guard lock(mutex_);
  const auto ticket = find(load);
  return ticket ? ticket->order(stream, layer) : Status();
}

Status DeviceLoads::finish(std::uint64_t load) {
  std::unique_lock lock(mutex_);
  auto ticket = find(load);
  if (!ticket) return {};
  lock.unlock();  // steps need not wait as long
  Status status = ticket->finish();
  lock.lock();
  ticket.reset();
  while (status.ok() && !under_way_.empty() && under_way_.front().number <= load) under_way_.pop_front();
  return status;
}

void DeviceLoads::forget_arrived() {
  while (!under_way_.empty()) {
    const auto arrived = under_way_.front().ticket->arrived();
    if (!arrived.ok() || !*arrived) return;
    under_way_.pop_front();
  }
}

std::shared_ptr<CopyTicket> DeviceLoads::find(std::uint64_t load) const {
  const auto found = std::ranges::find(under_way_, load, &Load::number);
  return found == under_way_.end() ? nullptr : found->ticket;
}

}  // namespace tiercel
