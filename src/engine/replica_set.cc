#include "engine/replica_set.h"

#include <algorithm>
#include <utility>

#include "kv/content_key.h"

namespace tiercel {

ReplicaSet::ReplicaSet(std::vector<std::unique_ptr<Replica>> replicas, std::unique_ptr<SharedTiers> tiers,
                       const ReplicaSetOptions& options)
    : options_(options),
      tiers_(std::move(tiers)),
      router_(std::make_shared<SharedRouter>(
          RouterLimits{.replicas = replicas.size(),
                       .step_tokens = options.limits.max_tokens,
                       .places = options.limits.max_sequences,
                       .block_tokens = replicas.front()->cache().layout().block_tokens})),
      replicas_(std::move(replicas)) {}

// ---- Requests

void ReplicaSet::submit(std::vector<std::unique_ptr<Sequence>> choices) {
  if (replicas_.size() == 1) return replicas_.front()->loop().submit(std::move(choices));
  const std::lock_guard door(door_);
  std::size_t queued = 0, fullest = 0, most = 0;
  for (std::size_t i = 0; i < replicas_.size(); ++i) {
    const std::size_t here = replicas_[i]->loop().queued();
    queued += here;
    if (here > most) fullest = i;
    most = std::max(most, here);
  }
  // Where it is to be refused, the one where most wait says when to come again: it begins with some all the time.
  const bool has_room = queued + choices.size() <= max_queued_requests();
  const std::size_t chosen = has_room ? route(choices) : fullest;
  StepLoop& loop = replicas_[chosen]->loop();
  const std::size_t here = loop.queued();
  loop.submit(std::move(choices), {.queued = queued - std::min(queued, here), .loops = replicas_.size() - 1});
}

std::size_t ReplicaSet::route(std::span<const std::unique_ptr<Sequence>> choices) {
  const Sequence& first = *choices.front();
  const bool reuses = options_.prefix_reuse && !first.request.prompt_logprobs;
  const std::vector<PrefixKey> keys = reuses ? prefix_keys(first) : std::vector<PrefixKey>();
  std::vector<ReplicaView> views(replicas_.size());
  for (std::size_t i = 0; i < replicas_.size(); ++i) {
    const Replica& replica = *replicas_[i];
    views[i] = {.available = replica.is_available(), .pace_s = replica.pace_s()};
    if (!reuses || !views[i].available) continue;
    views[i].cached_tokens = replica.cache().lookup(first.tokens, {.max_tokens = first.most_tokens,
                                                                   .max_matched_tokens = first.prompt_tokens - 1,
                                                                   .scope = {.salt = first.request.cache_salt}});
  }
  Router::Decision decision;
  {
    const std::lock_guard lock(router_->mutex);
    decision = router_->router.route({.tokens = first.prompt_tokens,
                                      .keys = keys,
                                      .priority = first.request.priority,
                                      .sequences = choices.size(),
                                      .output_tokens = first.most_tokens - first.prompt_tokens,
                                      .reuses = reuses},
                                     views);
  }
  const auto routed = std::make_shared<RoutedRequest>(router_, decision.ticket);
  for (const auto& choice : choices) choice->routed = routed;
  return decision.replica;
}

std::vector<PrefixKey> ReplicaSet::prefix_keys(const Sequence& sequence) const {
  const std::size_t block_tokens = replicas_.front()->cache().layout().block_tokens;
  std::vector<PrefixKey> keys;
  keys.reserve(sequence.prompt_tokens / block_tokens);
  ContentKey key = root_key(xxh3_key, replicas_.front()->model().fingerprint(), sequence.request.cache_salt, 0);
  for (std::size_t end = block_tokens; end <= sequence.prompt_tokens; end += block_tokens) {
    key = child_key(xxh3_key, key, std::span(sequence.tokens).subspan(end - block_tokens, block_tokens));
    keys.push_back(key.low);
  }
  return keys;
}

std::size_t ReplicaSet::sequences(std::size_t replica) const {
  const std::lock_guard lock(router_->mutex);
  return router_->router.sequences(replica);
}

void ReplicaSet::reject(const Request& request) {
  StatsRecorder& stats = replicas_.front()->stats();
  stats.on_rejected(stats.endpoint(request.endpoint), request.attempt);
}

void ReplicaSet::close() {
  for (const auto& replica : replicas_) replica->loop().begin_close();  // none waits for another's step
  for (const auto& replica : replicas_) replica->loop().close();
}

// ---- Caches

Status ReplicaSet::flush(std::uint64_t timeout_ms) {
  Status first;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  for (const auto& replica : replicas_) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    Status status = replica->cache().flush(static_cast<std::uint64_t>(std::max<std::int64_t>(0, left.count())));
    if (first.ok()) first = std::move(status);
  }
  return first;
}

std::size_t ReplicaSet::lookup(std::span<const TokenId> tokens, const PrefixScope& scope) const {
  std::size_t most = 0;
  for (const auto& replica : replicas_) {
    most = std::max(most, replica->cache().lookup(tokens, {.max_tokens = tokens.size(), .scope = scope}));
  }
  return most;
}

Result<std::size_t> ReplicaSet::pin(std::span<const TokenId> tokens, const PrefixScope& scope, std::uint64_t ttl_ms) {
  std::optional<std::size_t> most;
  Status refusal;
  for (const auto& replica : replicas_) {
    auto pinned = replica->cache().pin(tokens, scope, ttl_ms);
    if (pinned.ok()) {
      most = std::max(most.value_or(0), *pinned);
    } else if (refusal.ok() || refusal.code() == StatusCode::NotFound) {  // what others say tells more
      refusal = pinned.status();
    }
  }
  return most ? Result<std::size_t>(*most) : Result<std::size_t>(refusal);
}

std::size_t ReplicaSet::unpin(std::span<const TokenId> tokens, const PrefixScope& scope) {
  std::size_t sum = 0;
  for (const auto& replica : replicas_) sum += replica->cache().unpin(tokens, scope);
  return sum;
}

template <class Forget>
std::size_t ReplicaSet::forget_in_all(const Forget& forget) {
  std::optional<SharedTiers::Hold> hold;
  if (tiers_) hold.emplace(*tiers_);
  std::size_t sum = 0;
  for (const auto& replica : replicas_) sum += forget(replica->cache());
  return sum;
}

std::size_t ReplicaSet::invalidate(std::span<const TokenId> prefix, const PrefixScope& scope) {
  return forget_in_all([&](KvCache& cache) { return cache.invalidate(prefix, scope); });
}

std::size_t ReplicaSet::invalidate_tenant(std::string_view salt) {
  return forget_in_all([&](KvCache& cache) { return cache.invalidate_tenant(salt); });
}

std::size_t ReplicaSet::invalidate_all() {
  return forget_in_all([](KvCache& cache) { return cache.invalidate_all(); });
}

}  // namespace tiercel
