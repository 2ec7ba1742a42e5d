// Least often used first, counts halved as time goes by.
//
// Halving is never done to a block: instead a use in a later period weighs twice as much as one in the period before,
// and the blocks are kept in rings by the logarithm of their weight. So ages and counts take no pass over all blocks.
#include <algorithm>
#include <bit>

#include "kv/use_order.h"
#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

// A block's count is held in 1/256, so that a single use is still told from none after eight halvings.
constexpr std::uint32_t kOneUse = 256;
constexpr std::uint32_t kMostCount = 1u << 30;
// Rings per doubling of the weight: counts up to 8 are told apart exactly, larger ones to a quarter.
constexpr std::uint64_t kRingsPerDoubling = 4;
// 32 doublings: a block that is further behind than that shares the lowest ring.
constexpr std::uint64_t kRings = 32 * kRingsPerDoubling;

class LfuPolicy final : public EvictionPolicy {
 public:
  explicit LfuPolicy(std::size_t capacity_blocks)
      : period_uses_(std::max<std::uint64_t>(64, capacity_blocks)),
        order_(capacity_blocks, kRings),
        counts_(capacity_blocks) {}

  void on_insert(BlockId block, const BlockOrigin&) override { counts_[block] = {}; }

  void on_use(BlockId block) override {
    const bool listed = order_.is_listed(block);
    if (listed) order_.remove(block);
    order_.stamp(block);
    start_period(static_cast<std::uint32_t>(order_.now() / period_uses_));
    Count& count = counts_[block];
    const std::uint32_t halvings = std::min(period_ - count.period, 31u);
    count = {.uses = std::min((count.uses >> halvings) + kOneUse, kMostCount), .period = period_};
    if (listed) on_evictable(block);
  }

  void on_evictable(BlockId block) override {
    const std::uint64_t rank = rank_of(counts_[block]);
    order_.insert(rank % kRings, block);
    lowest_rank_ = std::min(lowest_rank_, rank);
  }

  void on_held(BlockId block) override { order_.remove(block); }

  void on_remove(BlockId block) override {
    if (order_.is_listed(block)) order_.remove(block);
  }

  BlockId victim() override {
    for (; lowest_rank_ < floor_rank() + kRings; ++lowest_rank_) {
      if (const BlockId block = order_.oldest(lowest_rank_ % kRings); block != kNoBlock) return block;
    }
    return kNoBlock;
  }

  std::size_t metadata_bytes() const override { return order_.metadata_bytes() + counts_.capacity() * sizeof(Count); }

 private:
  struct Count {
    std::uint32_t uses = 0;  // in 1 / kOneUse, as of `period`
    std::uint32_t period = 0;
  };

  // Rings are numbered upwards without end, of which a window of kRings is in use; it moves up by a doubling a period.
  std::uint64_t floor_rank() const { return kRingsPerDoubling * period_; }

  std::uint64_t rank_of(const Count& count) const {
    if (count.uses == 0) return floor_rank();
    const auto doublings = static_cast<std::uint64_t>(std::bit_width(count.uses)) - 1;
    const std::uint64_t steps = (std::uint64_t{count.uses} * kRingsPerDoubling >> doublings) - kRingsPerDoubling;
    return std::max(floor_rank(), kRingsPerDoubling * (count.period + doublings) + steps);
  }

  void start_period(std::uint32_t period) {
    for (; period_ < period; ++period_) {
      const std::uint64_t new_floor = floor_rank() + kRingsPerDoubling;
      for (std::uint64_t rank = new_floor; rank-- > floor_rank();)
        order_.move_before(rank % kRings, new_floor % kRings);
      lowest_rank_ = std::max(lowest_rank_, new_floor);
    }
  }

  const std::uint64_t period_uses_;
  UseOrder order_;
  BlockArray<Count> counts_;
  std::uint32_t period_ = 0;
  std::uint64_t lowest_rank_ = 0;  // no ring below it has a block
};

}  // namespace

EvictionPolicyFactory lfu() {
  return [](std::size_t capacity_blocks) { return std::make_unique<LfuPolicy>(capacity_blocks); };
}

}  // namespace tiercel
