// Prefix hit density: the block goes that is worth least for the time it would be held.
#include <algorithm>
#include <array>
#include <bit>

#include "kv/reuse_statistics.h"
#include "kv/use_order.h"
#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

// How often a block is used and how its conversation goes on tell what to expect of it.
constexpr std::size_t kUseClasses = 4;      // 1, 2, 3, and more uses
constexpr std::size_t kTurnClasses = 4;     // begun in the first turn, second, third, later
constexpr std::size_t kSegmentClasses = 8;  // generated tokens; 1 block added at once, 2 to 3, 4 to 7, ...
constexpr std::size_t kClasses = kUseClasses * kTurnClasses * kSegmentClasses;

// The block used longest ago goes unless another is worth less than this share of it: what is learnt is never exact,
// and LRU is right where all are alike.
constexpr float kClearlyLess = 0.7f;

std::uint64_t mixed(std::uint64_t content) {
  content = (content ^ content >> 32) * 0x9e3779b97f4a7c15;
  content = (content ^ content >> 29) * 0xd6e8feb86659fd93;
  return content ^ content >> 32;
}

// How often evicted blocks were used: 8 in a set, the longest gone makes room. A tag of 14 bits may take one block for
// another, about once in 2,000 times.
class DepartedUses {
 public:
  explicit DepartedUses(std::size_t capacity_blocks) : sets_(std::max<std::size_t>(1, capacity_blocks)) {}

  void put(std::uint32_t content, std::size_t uses) {
    if (uses == 0) return;
    Set& set = set_of(content);
    std::shift_right(set.begin(), set.end(), 1);
    set[0] = static_cast<std::uint16_t>(tag_of(content) | std::min<std::size_t>(uses, kUsesMask));
  }

  // 0 if unknown.
  std::size_t take(std::uint32_t content) {
    Set& set = set_of(content);
    const auto found = std::ranges::find_if(
        set, [tag = tag_of(content)](std::uint16_t entry) { return entry != 0 && (entry & ~kUsesMask) == tag; });
    if (found == set.end()) return 0;
    const std::size_t uses = *found & kUsesMask;
    std::shift_left(found, set.end(), 1);
    set.back() = 0;
    return uses;
  }

  std::size_t metadata_bytes() const { return sets_.capacity() * sizeof(Set); }

 private:
  static constexpr std::uint16_t kUsesMask = 3;
  using Set = std::array<std::uint16_t, 8>;
  Set& set_of(std::uint32_t content) { return sets_[std::uint64_t{content} * sets_.size() >> 32]; }
  static std::uint16_t tag_of(std::uint32_t content) {
    return static_cast<std::uint16_t>(content * 0x85ebca6bu >> 16 & ~kUsesMask);
  }

  BlockArray<Set> sets_;
};

// Whether to follow what was learnt, or LRU: by counting, on the sampled contents, who of the two had more hits of
// late.
class Trust {
 public:
  Trust(std::size_t capacity_blocks, double sampled_share)
      : most_behind_(kMostBehind + kMostBehindOfFullSample * sampled_share),
        pause_ticks_(std::max<std::uint64_t>(kLeastPauseTicks, capacity_blocks)) {}

  bool is_given(std::uint64_t now) const { return now >= paused_until_; }

  void on_outcome(bool hit, bool lru_hit, std::uint64_t now) {
    most_behind_ += kMostBehindPerOutcome;
    if (!is_given(now)) return;
    // A lead counts for a while and not for ever, or a workload that changed would be noticed late.
    ahead_ = std::min(ahead_ + hit - lru_hit, kMostAhead * most_behind_);
    if (ahead_ >= -most_behind_) return;
    ahead_ = 0;
    paused_until_ = now + pause_ticks_;
    pause_ticks_ = std::min(pause_ticks_ * kPauseGrowth, kMostPauseTicks);
  }

 private:
  // In sampled hits. What is lost before it is noticed may grow with what was asked for.
  static constexpr double kMostBehind = 4;
  static constexpr double kMostBehindOfFullSample = 25;
  static constexpr double kMostBehindPerOutcome = 0.0005;
  static constexpr double kMostAhead = 8;  // in most_behind_
  // Each attempt costs about as much as the one before, so they become rare.
  static constexpr std::uint64_t kLeastPauseTicks = 8192;
  static constexpr std::uint64_t kPauseGrowth = 4;
  static constexpr std::uint64_t kMostPauseTicks = std::uint64_t{1} << 40;

  double most_behind_;
  double ahead_ = 0;
  std::uint64_t paused_until_ = 0;
  std::uint64_t pause_ticks_;
};

class AdaptivePolicy final : public EvictionPolicy {
 public:
  explicit AdaptivePolicy(std::size_t capacity_blocks)
      : order_(capacity_blocks, kClasses),
        blocks_(capacity_blocks),
        departed_(capacity_blocks),
        statistics_(capacity_blocks, kClasses, kUseClasses),
        trust_(capacity_blocks, statistics_.sampled_share()) {}

  void on_insert(BlockId block, const BlockOrigin& origin) override {
    const std::uint64_t content = mixed(origin.content);
    Block& added = blocks_[block];
    added = {.content = static_cast<std::uint32_t>(content >> 32), .is_sampled = statistics_.is_sampled(content)};
    if (added.is_sampled) statistics_.on_enter();
    added.uses = static_cast<std::uint8_t>(departed_.take(added.content));
    if (origin.parent != kNoBlock) {
      const std::size_t turn = blocks_[origin.parent].turn + std::size_t{origin.starts_segment};
      added.turn = static_cast<std::uint8_t>(std::min(turn, kTurnClasses - 1));
    }
    if (origin.segment_blocks > 0) {
      const auto doublings = static_cast<std::size_t>(std::bit_width(origin.segment_blocks));
      added.segment = static_cast<std::uint8_t>(std::min(doublings, kSegmentClasses - 1));
    }
  }

  void on_use(BlockId block) override {
    const bool listed = order_.is_listed(block);
    if (listed) unlist(block);
    order_.stamp(block);
    Block& used = blocks_[block];
    if (used.uses < kUseClasses) ++used.uses;
    if (used.is_sampled) {
      const bool lru_hit = statistics_.on_use(used.content, class_of(used), order_.now());
      trust_.on_outcome(used.was_used, lru_hit, order_.now());
    }
    used.was_used = true;
    if (statistics_.on_tick(order_.now())) candidates_ = {};
    if (listed) on_evictable(block);
  }

  void on_evictable(BlockId block) override {
    const ReuseStatistics::ClassId block_class = class_of(blocks_[block]);
    order_.insert(block_class, block);
    candidates_[block_class].valid_until = 0;
  }

  void on_held(BlockId block) override { unlist(block); }

  void on_remove(BlockId block) override {
    if (order_.is_listed(block)) unlist(block);
    const Block& gone = blocks_[block];
    if (gone.is_sampled) statistics_.on_leave();
    departed_.put(gone.content, gone.uses);
  }

  // Of each class the blocks at the two ends are looked at: mostly a block is worth less the older it is, but where all
  // come back after a certain time, as in a loop, it is the one just used.
  BlockId victim() override {
    const Candidates* oldest = nullptr;
    const Candidates* least = nullptr;
    for (std::size_t c = 0; c < kClasses; ++c) {
      Candidates& candidates = candidates_[c];
      if (candidates.valid_until <= order_.now()) refresh(candidates, static_cast<ReuseStatistics::ClassId>(c));
      if (candidates.oldest == kNoBlock) continue;
      if (oldest == nullptr || candidates.oldest_use < oldest->oldest_use) oldest = &candidates;
      if (least == nullptr || candidates.least_value < least->least_value) least = &candidates;
    }
    if (oldest == nullptr) return kNoBlock;
    const bool clearly_less = least->least_value < kClearlyLess * oldest->value_of_oldest;
    return clearly_less && trust_.is_given(order_.now()) ? least->least : oldest->oldest;
  }

  std::size_t metadata_bytes() const override {
    return order_.metadata_bytes() + blocks_.capacity() * sizeof(Block) + departed_.metadata_bytes() +
           statistics_.metadata_bytes() + sizeof(*this);
  }

 private:
  struct Block {
    std::uint32_t content = 0;
    std::uint8_t uses = 0;  // of the content, as far as known
    std::uint8_t turn = 0;
    std::uint8_t segment = 0;
    bool is_sampled : 1 = false;
    bool was_used : 1 = false;  // since it was inserted
  };

  // What a class offers to victim(): kept, because most classes stay as they are from one eviction to the next.
  struct Candidates {
    BlockId oldest = kNoBlock;
    BlockId least = kNoBlock;  // the one of the two ends that is worth less
    float value_of_oldest = 0;
    float least_value = 0;
    std::uint64_t oldest_use = 0;
    std::uint64_t valid_until = 0;  // a tick
  };

  static ReuseStatistics::ClassId class_of(const Block& block) {
    const std::size_t uses = std::max<std::size_t>(block.uses, 1) - 1;
    return static_cast<ReuseStatistics::ClassId>(uses + kUseClasses * (block.turn + kTurnClasses * block.segment));
  }

  void unlist(BlockId block) {
    order_.remove(block);
    candidates_[class_of(blocks_[block])].valid_until = 0;
  }

  void refresh(Candidates& candidates, ReuseStatistics::ClassId block_class) const {
    const BlockId oldest = order_.oldest(block_class);
    candidates = {.oldest = oldest, .least = oldest, .valid_until = UINT64_MAX};
    if (oldest == kNoBlock) return;
    const BlockId newest = order_.newest(block_class);
    const std::uint64_t now = order_.now();
    const std::uint64_t oldest_age = now - order_.last_use(oldest);
    const std::uint64_t newest_age = now - order_.last_use(newest);
    candidates.oldest_use = order_.last_use(oldest);
    candidates.value_of_oldest = candidates.least_value = statistics_.value(block_class, oldest_age);
    if (const float value = statistics_.value(block_class, newest_age); value < candidates.least_value) {
      candidates.least = newest;
      candidates.least_value = value;
    }
    const auto change = [&](std::uint64_t age) {
      const std::uint64_t next = statistics_.next_age(age);
      return next == UINT64_MAX ? next : now + (next - age);
    };
    candidates.valid_until = std::min(change(oldest_age), change(newest_age));
  }

  UseOrder order_;  // a ring for each class
  BlockArray<Block> blocks_;
  DepartedUses departed_;
  ReuseStatistics statistics_;
  Trust trust_;
  std::array<Candidates, kClasses> candidates_;
};

}  // namespace

EvictionPolicyFactory adaptive() {
  return [](std::size_t capacity_blocks) { return std::make_unique<AdaptivePolicy>(capacity_blocks); };
}

}  // namespace tiercel
