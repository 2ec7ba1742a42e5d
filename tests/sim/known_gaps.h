// Where the cache does less than tiercel/kv_cache.h says, as far as the simulator found out. It steers around these, so
// that it sees everything else. With TIERCEL_SIM_STRICT=<name of one, or all> in the environment it does not, and
// fails. A gap that was closed goes from this list.
#pragma once

#include <cstdlib>
#include <string_view>

namespace tiercel::sim {

inline bool is_tolerated(std::string_view gap) {
  static const char* const strict = std::getenv("TIERCEL_SIM_STRICT");
  return strict == nullptr || (std::string_view(strict) != gap && std::string_view(strict) != "all");
}

// pin() with a ttl_ms, and uses with a Retention::ttl_ms, that reach beyond the end of the clock end at once.
inline bool huge_times_wrap() { return is_tolerated("huge_times_wrap"); }

// Of the blocks that begin like the rest of a prompt the closest is looked at alone: where its time is over, nothing is
// copied, though another that lives has tokens in common too.
inline bool expired_part_hides_others() { return is_tolerated("expired_part_hides_others"); }

// fork() does not end overdue pins, so it may be Unavailable or Rejected for what they hold. (admit() and pin() do.)
inline bool fork_counts_overdue_pins() { return is_tolerated("fork_counts_overdue_pins"); }

// A block of a window whose time is over is found as long as the block it goes with lives.
inline bool expired_window_blocks_are_found() { return is_tolerated("expired_window_blocks_are_found"); }

// A waiting prompt that stopped at a gap in a window does not notice that blocks behind the gap are of use again.
inline bool returns_behind_a_gap_go_unnoticed() { return is_tolerated("returns_behind_a_gap_go_unnoticed"); }

// unpin(), invalidate() and invalidate_tenant() copy the salt, and let std::bad_alloc out where that fails.
inline bool forgetting_may_throw() { return is_tolerated("forgetting_may_throw"); }

// The message of a refusal for ever is made where nothing catches std::bad_alloc: admit() and fork() of what the cache
// is too small for, or with bad arguments; grow() beyond max_tokens.
inline bool messages_may_throw() { return is_tolerated("messages_may_throw"); }

// Where there is no memory for the message of a refused admit(), its tenant stays known for ever.
inline bool refusal_without_memory_keeps_tenant() { return is_tolerated("refusal_without_memory_keeps_tenant"); }

}  // namespace tiercel::sim
