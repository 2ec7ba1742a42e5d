// What happened over all histories: shows that a test reached what it is for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tiercel::sim {

enum class Seen : std::size_t {
  Step,
  Hit,
  Copy,
  CopyInPlace,
  Duplicate,
  Collision,
  Eviction,
  QuotaEviction,
  Unavailable,
  TooLarge,
  Rejected,
  BadArgument,
  Fork,
  ForkOfBegunBlock,
  ForkRefused,
  InFlight,
  Arrival,
  ExpectedSpared,
  ExpectedEvicted,
  HighSpared,
  HighEvicted,
  LowFirst,
  TimeOver,
  ExpiredGivenBack,
  PinMade,
  PinRenewed,
  PinOverdue,
  PinUnpinned,
  PinForgotten,
  PinRefused,
  WindowBlockGivenUp,
  CompanionEvicted,
  HitCutByWindow,
  WindowDuplicate,
  ForgottenWhileHeld,
  KeptPrivate,
  ForgottenBehind,
  PolicyLied,
  OutlivedCache,
  Fault,
  FaultSeen,
  Loaded,
  LoadedUsed,
  LoadEvicted,
  ForgottenInOperation,
  Flushed,
  FlushRefused,
  FlushedFound,
  Killed,
  PowerLost,
  EndedInOperation,
  Closed,
  OtherModel,
  Damaged,
  TierCorrupt,
  TierFailed,
  TierLate,
  BreakerOpen,
  BreakerClosedAgain,
  TierEvicted,
  Count,
};

std::string_view name_of(Seen seen);

class Tally {
 public:
  void add(Seen seen, std::uint64_t times = 1) { counts_[static_cast<std::size_t>(seen)] += times; }
  std::uint64_t of(Seen seen) const { return counts_[static_cast<std::size_t>(seen)]; }

 private:
  std::array<std::uint64_t, static_cast<std::size_t>(Seen::Count)> counts_{};
};

}  // namespace tiercel::sim
