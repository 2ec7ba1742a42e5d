#include "kv/write_choice.h"

#include <bit>
#include <utility>

namespace tiercel {

WriteChoice::WriteChoice(WritePolicy policy, std::size_t capacity_blocks) : policy_(policy), marks_(capacity_blocks) {
  if (policy != WritePolicy::EveryBlock) seen_.resize(std::bit_ceil(kRemembered * capacity_blocks));
}

void WriteChoice::on_computed(BlockId block, const ContentKey& key, const Retention& retention) {
  const bool seen_twice = policy_ != WritePolicy::EveryBlock && note(key);
  const bool high = retention.priority == RetentionPriority::High;
  marks_[block] = static_cast<std::uint8_t>((high ? kHigh : 0) | (seen_twice ? kSeenTwice : 0) |
                                            (is_lasting(retention) ? kLasting : 0));
}

void WriteChoice::on_loaded(BlockId block, const Retention& retention) {
  marks_[block] = static_cast<std::uint8_t>((looks_ahead() ? 0 : kOffered) | (is_lasting(retention) ? kLasting : 0));
}

void WriteChoice::on_found(BlockId block) {
  marks_[block] |= kSeenTwice;
  if (looks_ahead()) marks_[block] &= static_cast<std::uint8_t>(~kOffered);
}

std::size_t WriteChoice::take(std::span<const BlockId> path) {
  std::size_t worth_it = 0;
  bool news = false;
  for (; worth_it < path.size() && is_due(path[worth_it]); ++worth_it) {
    news = news || (marks_[path[worth_it]] & kOffered) == 0;
  }
  if (!news) return 0;
  on_offered(path.first(worth_it));
  return worth_it;
}

bool WriteChoice::note(const ContentKey& key) {
  const auto part = static_cast<std::uint32_t>(key.high) | 1;
  return std::exchange(seen_[key.low & (seen_.size() - 1)], part) == part;
}

}  // namespace tiercel
