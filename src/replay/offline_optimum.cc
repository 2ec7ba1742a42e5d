#include "replay/offline_optimum.h"

#include <cassert>
#include <queue>
#include <span>
#include <unordered_map>
#include <utility>

namespace tiercel {

OfflineOptimum::OfflineOptimum(const Trace& trace) : accesses_(trace.accesses) {
  assert(trace.blocks.size() < kNever);
  // A block is what the cache takes for one: its id and all before it. In a sound trace the id alone says so.
  constexpr std::uint64_t kRoot = ~std::uint32_t{0};
  std::unordered_map<std::uint64_t, std::uint32_t> prefixes;
  events_.reserve(trace.blocks.size());
  for (const TraceRequest& request : trace.requests) {
    std::uint64_t prefix = kRoot;
    std::size_t depth = 0;
    for (const TokenId block : trace.shared_blocks(request)) {
      const std::uint64_t path = prefix << 32 | static_cast<std::uint32_t>(block);
      prefix = prefixes.try_emplace(path, static_cast<std::uint32_t>(prefixes.size())).first->second;
      events_.push_back({static_cast<std::uint32_t>(prefix), kNever, depth++ < request.matchable_blocks});
    }
  }
  prefixes_ = prefixes.size();

  std::vector<Place> next(prefixes_, kNever);
  for (std::size_t place = events_.size(); place-- > 0;) {
    Event& event = events_[place];
    event.next_request = next[event.prefix];
    next[event.prefix] = event.asked_for ? static_cast<Place>(place) : kNever;
  }
}

std::uint64_t OfflineOptimum::hit_blocks(std::size_t capacity_blocks) const {
  // When each prefix in the cache is asked for next; kNever: not in the cache, where only what comes back is kept.
  std::vector<Place> kept_until(prefixes_, kNever);
  std::size_t kept = 0;
  // (next request, prefix), the latest on top. An entry that kept_until does not confirm is of the past.
  std::priority_queue<std::pair<Place, std::uint32_t>> latest;
  std::uint64_t hits = 0;
  for (const Event& event : events_) {
    Place& until = kept_until[event.prefix];
    if (until != kNever) {
      assert(event.asked_for);
      ++hits;
      until = kNever;
      --kept;
    }
    if (event.next_request == kNever || capacity_blocks == 0) continue;
    if (kept == capacity_blocks) {
      while (kept_until[latest.top().second] != latest.top().first) latest.pop();
      if (latest.top().first < event.next_request) continue;
      kept_until[latest.top().second] = kNever;
      latest.pop();
      --kept;
    }
    until = event.next_request;
    latest.emplace(event.next_request, event.prefix);
    ++kept;
  }
  return hits;
}

double OfflineOptimum::hit_rate(std::size_t capacity_blocks) const {
  return accesses_ == 0 ? 0 : static_cast<double>(hit_blocks(capacity_blocks)) / static_cast<double>(accesses_);
}

double OfflineOptimum::unbounded_hit_rate() const { return hit_rate(prefixes_); }

}  // namespace tiercel
