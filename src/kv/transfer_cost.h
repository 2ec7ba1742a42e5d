// What loading and computing KV take on this machine, as measured while it runs: the choice between them is made from
// these. Both forget old figures gradually, so a disk that others use, or a processor that slows down, is noticed.
// Not synchronised.
#pragma once

#include <array>
#include <cstddef>

namespace tiercel {

// Of one tier: a time per byte; operations are large enough that what each costs by itself is in there. Until something
// was measured it is optimistic, because a wrong guess is corrected by the first batch, while it is under way.
class LoadCost {
 public:
  // An operation of so many bytes took so long, verified and decoded.
  void measured(std::size_t bytes, double seconds);
  double seconds_for(std::size_t bytes) const;
  double bytes_per_s() const { return 1 / seconds_per_byte_; }
  bool is_known() const { return known_; }

 private:
  double seconds_per_byte_ = 1 / 4e9;
  bool known_ = false;
};

// Of computing a prompt's tokens, which cost more the more come before them: a line from each depth that was measured
// to the next one, and as from the shallowest to the deepest beyond.
class PrefillCost {
 public:
  // Computing `tokens` tokens, the first of them at `position`, took so long.
  void measured(std::size_t tokens, std::size_t position, double seconds);
  // 0 where nothing was measured yet.
  double seconds_for(std::size_t tokens, std::size_t position) const;
  bool is_known() const { return known_; }

 private:
  static constexpr std::size_t kDepths = 24;  // depth d: positions from 2^d - 1 to 2^(d + 1) - 2
  struct Mean {
    double position = 0;
    double seconds_per_token = 0;  // 0: not measured
  };
  double seconds_per_token(double position) const;

  std::array<Mean, kDepths> means_{};
  bool known_ = false;
};

}  // namespace tiercel
