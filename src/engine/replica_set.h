// The replicas behind one engine: which of them takes a request, and what is asked of the cache of all.
//
// Each request goes to one replica, all its choices together, where its prefix is or where it is computed first
// (router.h). The replicas have one queue's room (max_queued_requests) between them, and share the tiers. One that
// fails or hangs ends or holds its own requests; others go elsewhere.
//
// Thread-safety: any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/replica.h"
#include "engine/routed_request.h"
#include "kv/shared_tiers.h"

namespace tiercel {

struct ReplicaSetOptions {
  SchedulerLimits limits;  // of each
  bool prefix_reuse = true;
};

class ReplicaSet {
 public:
  // At least one, of one model and fingerprint; their loops have the same max_queued_requests, that of all together.
  // `tiers`: whose handles their caches have; null: none, or there is one replica only.
  ReplicaSet(std::vector<std::unique_ptr<Replica>> replicas, std::unique_ptr<SharedTiers> tiers,
             const ReplicaSetOptions& options);

  // StepLoop::submit() of the replica that is expected to answer it first.
  void submit(std::vector<std::unique_ptr<Sequence>> choices);
  // Ended before it came to any.
  void reject(const Request& request);
  std::size_t max_queued_requests() const { return replicas_.front()->loop().max_queued_requests(); }

  void close();
  // KvCache::flush() of all; the first that failed.
  Status flush(std::uint64_t timeout_ms);

  // Where most is.
  std::size_t lookup(std::span<const TokenId> tokens, const PrefixScope& scope) const;
  // What each has. Returns the most; fails where all do.
  Result<std::size_t> pin(std::span<const TokenId> tokens, const PrefixScope& scope, std::uint64_t ttl_ms);
  // In all; returns the sum.
  std::size_t unpin(std::span<const TokenId> tokens, const PrefixScope& scope);
  std::size_t invalidate(std::span<const TokenId> prefix, const PrefixScope& scope);
  std::size_t invalidate_tenant(std::string_view salt);
  std::size_t invalidate_all();

  std::size_t size() const { return replicas_.size(); }
  // Of requests that it was given and that have not ended; 0 for one that is alone.
  std::size_t sequences(std::size_t replica) const;
  Replica& replica(std::size_t i) const { return *replicas_[i]; }
  std::span<const std::unique_ptr<Replica>> replicas() const { return replicas_; }

 private:
  // Has `forget` done in the cache of each, and sums up.
  template <class Forget>
  std::size_t forget_in_all(const Forget& forget);
  // Chooses, and tells the sequences.
  std::size_t route(std::span<const std::unique_ptr<Sequence>> choices);
  std::vector<PrefixKey> prefix_keys(const Sequence& sequence) const;

  const ReplicaSetOptions options_;
  const std::unique_ptr<SharedTiers> tiers_;
  const std::shared_ptr<SharedRouter> router_;
  std::mutex door_;  // one request at a time, so that the room of the queues is kept to
  std::vector<std::unique_ptr<Replica>> replicas_;
};

}  // namespace tiercel
