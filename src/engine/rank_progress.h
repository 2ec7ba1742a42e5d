// How far the ranks have come together, as rank 0 knows it: what moves blocks beside the steps learns from it when a
// block may be touched on the other ranks.
//
// Rank 0 numbers what it tells all of them (RankMessage::Begin and Step): 1, 2, ... Each other rank counts what it has
// carried out. A request about blocks names a number, and waits there until that much is carried out. The rule:
//
//   read from a tier into a block     The cache holds the block for the reader, so no step told until then that was
//                                     carried out here uses it, and none will be told that does before the read is
//                                     answered by every rank. What was carried out here may be under way there: its
//                                     number is waited for. Copies of the cache (a block's beginning into another) are
//                                     made here at once and there with the next step, so a block may be part of one
//                                     that is told but not carried out (that number is waited for), or not told yet
//                                     (it is not read into: a miss).
//   copied from a block, to be        The block is in the index, so steps that were carried out here filled it; their
//   written to a tier                 number is waited for. The cache holds it until every rank has its copy; only then
//                                     may it go to others. What is written is the copy.
//
// Thread-safety: any thread. Lives as long as one of those who use it: a store that hangs may outlast the engine.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/rank_messages.h"
#include "tiercel/types.h"

namespace tiercel {

class RankProgress {
 public:
  // The cache has made a copy.
  void copy(const BlockCopy& copy);
  // Everybody is about to be told something, and to make `copies` before: those since the last time. One thread at a
  // time, as carried_out().
  void tell(std::vector<BlockCopy>& copies);
  // What was told is carried out on this rank.
  void carried_out();

  // The number of what was carried out last.
  std::uint64_t last() const;
  // From which number on the others do not touch these blocks; nothing: it is not told yet.
  std::optional<std::uint64_t> untouched_from(std::span<const BlockId> blocks) const;

  // The ranks have ended, or are lost.
  void end();
  bool has_ended() const;
  void wait_for_end() const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable ending_;
  std::vector<BlockCopy> copies_;       // not told yet
  std::vector<BlockCopy> told_copies_;  // not known to be carried out
  std::uint64_t told_ = 0, carried_out_ = 0;
  bool has_ended_ = false;
};

}  // namespace tiercel
