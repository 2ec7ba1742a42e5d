// What a store was asked to forget and has not yet: in order, those that failed and are tried again last. It may come
// to more than was asked, never to less. Not synchronised.
#pragma once

#include <cstddef>
#include <vector>

#include "kv/tier_transfer.h"

namespace tiercel {

class ErasureQueue {
 public:
  // More than these, and all is forgotten instead.
  static constexpr std::size_t kMostErasures = 1024;

  ErasureQueue() { waiting_.reserve(kMostErasures + 1); }

  // Allocates nothing.
  void add(TierErasure erasure);
  bool is_empty() const { return waiting_.empty(); }
  // Whether there is one to carry out; with `retry`, also where it has failed before.
  bool has_next(bool retry) const { return !waiting_.empty() && (retry || !waiting_.front().failed); }
  // Whether the store may still show what it was asked to forget: something was never tried, or not to its end. What
  // failed is not found any more until the process ends.
  bool is_pending() const { return is_first_try_ || has_next(false); }

  // The next one, which is under way until end(). There must be one.
  TierErasure begin();
  void end(TierErasure erasure, bool ok);

 private:
  std::vector<TierErasure> waiting_;
  bool is_first_try_ = false;  // of the one under way
};

}  // namespace tiercel
