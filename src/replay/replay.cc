#include "replay/replay.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "kv/kv_cache_state.h"
#include "replay/counting_store.h"

namespace tiercel {
namespace {

constexpr std::size_t kMostBlocks = std::size_t{1} << 30;
constexpr std::size_t kRequestsPerProgress = 256;

double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Blocks of one token, as small as they get; in the arena they take 64 bytes.
constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 1, .block_tokens = 1, .dtype = DType::F16};
constexpr std::size_t kArenaBytesPerBlock = 64;

class Replay {
 public:
  Replay(const Trace& trace, KvCache& cache, const ReplayOptions& options)
      : trace_(trace),
        cache_(cache),
        capacity_blocks_(options.capacity_blocks),
        queued_requests_(options.queued_requests),
        tiers_(KvCacheState::of(cache).tiers()) {}

  // What request `index` found, in blocks. Requests must come in order.
  Result<std::size_t> serve(std::size_t index);

 private:
  // What a lease is asked for: as much of the request as the cache has blocks.
  struct Sequence {
    std::span<const TokenId> prompt;
    std::span<const TokenId> output;
    AdmitOptions options;
  };
  Sequence sequence_of(const TraceRequest& request) const;
  void expect_queue_behind(std::size_t index);
  // All that the tier has to do, as if requests came slowly.
  void settle_tiers() {
    while (tiers_ != nullptr && tiers_->run_one()) {
    }
  }

  const Trace& trace_;
  KvCache& cache_;
  const std::size_t capacity_blocks_;
  const std::size_t queued_requests_;
  TierManager* const tiers_;          // null: none
  std::deque<ExpectedPrompt> queue_;  // the requests from the one served next on
  std::size_t queue_end_ = 0;         // the first request that is not in it yet
};

Replay::Sequence Replay::sequence_of(const TraceRequest& request) const {
  const std::span<const TokenId> blocks = trace_.shared_blocks(request);
  const std::size_t total = std::min(blocks.size(), capacity_blocks_);
  const std::size_t prompt = std::min<std::size_t>(request.prompt_blocks, total);
  return {.prompt = blocks.first(prompt),
          .output = blocks.subspan(prompt, total - prompt),
          .options = {.max_tokens = total, .max_matched_tokens = request.matchable_blocks, .partial_blocks = false}};
}

void Replay::expect_queue_behind(std::size_t index) {
  const std::size_t end = std::min(trace_.requests.size(), index + 1 + queued_requests_);
  for (queue_end_ = std::max(queue_end_, index + 1); queue_end_ < end; ++queue_end_) {
    const Sequence sequence = sequence_of(trace_.requests[queue_end_]);
    queue_.push_back(cache_.expect(sequence.prompt, sequence.options));
  }
}

Result<std::size_t> Replay::serve(std::size_t index) {
  const Sequence sequence = sequence_of(trace_.requests[index]);
  if (queued_requests_ > 0) expect_queue_behind(index);
  ExpectedPrompt expected;
  if (tiers_ != nullptr) expected = cache_.expect(sequence.prompt, sequence.options);
  settle_tiers();
  auto lease = cache_.admit(sequence.prompt, sequence.options);
  // As a scheduler does it: a request leaves the queue when it holds what it waited for. The first was never in it.
  if (queued_requests_ > 0 && index > 0) queue_.pop_front();
  if (!lease.ok()) return lease.status();

  const std::size_t matched = lease->matched_tokens();
  TIERCEL_RETURN_IF_ERROR(lease->grow(sequence.prompt.size()));
  lease->commit(sequence.prompt.subspan(matched));
  TIERCEL_RETURN_IF_ERROR(lease->grow(sequence.prompt.size() + sequence.output.size()));
  lease->commit(sequence.output);
  return matched;
}

}  // namespace

double ReplayResult::hit_rate() const { return ratio(hit_blocks, accesses); }
double ReplayResult::token_hit_rate() const { return ratio(hit_tokens, input_tokens); }
double ReplayResult::evictions_per_s() const { return wall_s > 0 ? static_cast<double>(evictions) / wall_s : 0; }
double ReplayResult::ns_per_access() const { return accesses > 0 ? wall_s * 1e9 / static_cast<double>(accesses) : 0; }

Result<ReplayResult> replay(const Trace& trace, const ReplayOptions& options, const ReplayProgress& progress) {
  if (options.capacity_blocks == 0 || options.capacity_blocks > kMostBlocks) {
    return Status::invalid_argument(
        fmt::format("capacity_blocks is {}; it must be 1 to {}", options.capacity_blocks, kMostBlocks));
  }
  KvCacheOptions cache_options{.capacity_bytes = options.capacity_blocks * kArenaBytesPerBlock,
                               .eviction = options.eviction,
                               .tier_writes = options.tier_writes};
  if (options.tier_blocks > 0) cache_options.tiers = {std::make_shared<CountingStore>(options.tier_blocks)};
  auto cache = KvCacheState::open(cache_options, kLayout, {}, {}, {.background_thread = false});
  if (!cache.ok()) return cache.status();
  if (const std::size_t blocks = cache->stats().capacity_blocks; blocks != options.capacity_blocks) {
    return Status::internal(fmt::format("the cache has {} blocks, not {}", blocks, options.capacity_blocks));
  }

  ReplayResult result{.capacity_blocks = options.capacity_blocks,
                      .requests = trace.requests.size(),
                      .accesses = trace.accesses,
                      .input_tokens = trace.input_tokens};
  const auto start = std::chrono::steady_clock::now();
  Replay run(trace, *cache, options);
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    if (progress && i % kRequestsPerProgress == 0) progress(i);
    const auto found = run.serve(i);
    if (!found.ok()) return found.status();
    result.hit_blocks += *found;
  }
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.hit_tokens = result.hit_blocks * trace.block_tokens;
  result.evictions = cache->stats().evicted_blocks;
  result.loaded_blocks = cache->stats().loaded_blocks;
  result.stored_blocks = cache->stats().stored_blocks;
  return result;
}

}  // namespace tiercel
