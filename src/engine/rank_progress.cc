#include "engine/rank_progress.h"

#include <algorithm>

namespace tiercel {
namespace {

bool touch(const std::vector<BlockCopy>& copies, std::span<const BlockId> blocks) {
  return std::ranges::any_of(copies, [&](const BlockCopy& copy) {
    return std::ranges::find(blocks, copy.from) != blocks.end() || std::ranges::find(blocks, copy.to) != blocks.end();
  });
}

}  // namespace

void RankProgress::copy(const BlockCopy& copy) {
  const std::lock_guard lock(mutex_);
  copies_.push_back(copy);
}

void RankProgress::tell(std::vector<BlockCopy>& copies) {
  const std::lock_guard lock(mutex_);
  copies.assign(copies_.begin(), copies_.end());
  told_copies_.swap(copies_);
  copies_.clear();
  ++told_;
}

void RankProgress::carried_out() {
  const std::lock_guard lock(mutex_);
  told_copies_.clear();
  carried_out_ = told_;
}

std::uint64_t RankProgress::last() const {
  const std::lock_guard lock(mutex_);
  return carried_out_;
}

std::optional<std::uint64_t> RankProgress::untouched_from(std::span<const BlockId> blocks) const {
  const std::lock_guard lock(mutex_);
  if (touch(copies_, blocks)) return std::nullopt;
  return touch(told_copies_, blocks) ? told_ : carried_out_;
}

void RankProgress::end() {
  const std::lock_guard lock(mutex_);
  has_ended_ = true;
  ending_.notify_all();
}

bool RankProgress::has_ended() const {
  const std::lock_guard lock(mutex_);
  return has_ended_;
}

void RankProgress::wait_for_end() const {
  std::unique_lock lock(mutex_);
  ending_.wait(lock, [&] { return has_ended_; });
}

}  // namespace tiercel
