#include "tests/sim/tally.h"

namespace tiercel::sim {

std::string_view name_of(Seen seen) {
  constexpr std::string_view kNames[] = {
      "steps",
      "hits",
      "copies of leading tokens",
      "copies in place",
      "duplicates given up",
      "key collisions",
      "evictions",
      "evictions within a quota",
      "refusals for want of room",
      "sequences larger than cache or quota",
      "refusals by a quota",
      "bad arguments",
      "forks",
      "forks of a begun block",
      "refused forks",
      "prefixes in flight",
      "expected blocks that arrived",
      "evictions that spared an expected block",
      "evictions of expected blocks",
      "evictions that spared High",
      "evictions of High",
      "evictions of Low with others there",
      "blocks not found for their age",
      "expired blocks given back",
      "pins",
      "pins renewed",
      "pins overdue",
      "pins ended by unpin",
      "pins ended by invalidation",
      "refused pins",
      "window blocks given up",
      "window blocks evicted alone",
      "hits cut short by a window",
      "duplicate window blocks given up",
      "blocks forgotten while held",
      "commits kept private",
      "commits behind a forgotten block",
      "nonsense told by a policy",
      "leases that outlived their cache",
      "faults",
      "faults that a caller saw",
  };
  static_assert(std::size(kNames) == static_cast<std::size_t>(Seen::Count));
  return kNames[static_cast<std::size_t>(seen)];
}

}  // namespace tiercel::sim
