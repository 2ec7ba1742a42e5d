// How many blocks a cache could have found at most, had it known the future: no eviction policy finds more.
//
// Belady's rule with the choice to keep nothing: of what is in the cache and the block at hand, the one that is asked
// for last goes. A prefix is asked for whenever something behind it is, and earlier on the way: so what goes is always
// a leaf of the prefix tree, and this is the optimum of caches that keep whole prefixes as well.
//
// Recordings of tiercel have blocks that a request leaves in the cache without asking for them (outputs). Such a block
// is new each time, so keeping it until then is worth nothing; what hangs behind it may still be counted as found.
// There the figure is an upper bound, not always one that a cache can reach.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "replay/trace.h"

namespace tiercel {

class OfflineOptimum {
 public:
  explicit OfflineOptimum(const Trace& trace);

  // O(accesses * log(capacity)).
  std::uint64_t hit_blocks(std::size_t capacity_blocks) const;
  // hit_blocks() of all that were asked for, partial ones included.
  double hit_rate(std::size_t capacity_blocks) const;
  // Of a cache that holds everything.
  double unbounded_hit_rate() const;

 private:
  using Place = std::uint32_t;  // in the sequence of all blocks that requests ask for or leave behind
  struct Event {
    std::uint32_t prefix;  // which
    Place next_request;    // the place where it is asked for next, unless it is left behind anew before: then kNever
    bool asked_for;
  };
  static constexpr Place kNever = ~Place{0};

  std::vector<Event> events_;
  std::size_t prefixes_ = 0;
  std::uint64_t accesses_;
};

}  // namespace tiercel
