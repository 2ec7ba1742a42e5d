#include "kv/erasure_queue.h"

#include <algorithm>
#include <utility>

namespace tiercel {

void ErasureQueue::add(TierErasure erasure) {
  if (waiting_.size() >= kMostErasures) {
    waiting_.clear();
    erasure = {.kind = TierErasure::Kind::All};
  }
  const auto failed = std::ranges::find_if(waiting_, [](const TierErasure& other) { return other.failed; });
  waiting_.insert(failed, std::move(erasure));  // has room
}

TierErasure ErasureQueue::begin() {
  TierErasure erasure = std::move(waiting_.front());
  waiting_.erase(waiting_.begin());
  is_first_try_ = !erasure.failed;
  return erasure;
}

void ErasureQueue::end(TierErasure erasure, bool ok) {
  is_first_try_ = false;
  if (ok) return;
  erasure.failed = true;
  waiting_.push_back(std::move(erasure));  // has room
}

}  // namespace tiercel
