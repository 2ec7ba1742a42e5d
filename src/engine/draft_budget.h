// How many draft tokens a step may take besides its streams: as many as make it give the most tokens a second.
//
// A row of a draft costs what its arithmetic takes, and it is worth the likelihood that it is accepted. What rows cost
// is measured, not assumed: it is next to nothing while a step waits for the weights to come from memory, and a full
// row's time where many streams share a step. So drafts grow long for one stream whose drafts come true, and stay away
// where they lose. Where they do, a small one now and then shows whether it is still so. What was not measured for a
// while is forgotten, and tried again.
//
// Without threads or clock. Not thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

namespace tiercel {

class DraftBudget {
 public:
  static constexpr std::size_t kMostStreams = 63;  // beyond, a step has rows enough
  static constexpr std::size_t kMostTokens = 64;

  // The longest step to aim at, where streams share it; 0: kAutomaticShare above what they take without drafts.
  explicit DraftBudget(double target_step_s) : target_step_s_(target_step_s) {}

  // Whether drafts could come to anything in a step of so many.
  bool considers(std::size_t streams) const { return streams > 0 && streams <= kMostStreams; }
  // `likelihoods` of the drafts' tokens, the likeliest first: how many of these to take.
  std::size_t tokens(std::size_t streams, std::span<const double> likelihoods);
  // A step without prompts.
  void measured(std::size_t streams, std::size_t drafted, double seconds);

 private:
  static constexpr double kLeastGain = 1.05;       // in tokens a second, for it to be worth the trouble
  static constexpr double kAutomaticShare = 0.75;  // as StepBudget gives prompts
  static constexpr std::size_t kProbeTokens = 2;
  static constexpr std::size_t kStepsToProbe = 64;  // that did not pay; twice as many each time in a row
  static constexpr std::size_t kMostStepsToProbe = 2048;
  // Steps with drafts, after which streams are measured alone again: at first, and at most.
  static constexpr std::size_t kStepsToTrust = 8, kMostStepsToTrust = 64;

  // The least of the last four: one in which another process had the processor says nothing of the next.
  struct Latest {
    std::array<double, 4> seconds{};
    std::size_t count = 0;
    bool fresh = false;  // since Added::sweep()
    bool known() const { return count > 0; }
    double least() const {
      return *std::min_element(seconds.begin(), seconds.begin() + std::min(count, seconds.size()));
    }
    void add(double value) {
      seconds[count++ % seconds.size()] = value;
      fresh = true;
    }
  };
  struct Alone {
    Latest took;
    std::size_t steps_since = 0;  // with drafts
    std::size_t steps_to_trust = kStepsToTrust;
  };
  // Of so many streams, by powers of two.
  struct Added {
    // Forgets what was not measured since the last call, so that it is tried again.
    void sweep();
    std::array<Latest, kMostTokens + 1> took;  // by drafted tokens
    std::size_t steps_to_probe = kStepsToProbe;
    std::size_t steps_without = 0;
  };
  Added& added(std::size_t streams);
  double added_s(std::size_t streams, std::size_t drafted, double alone_s);

  double target_step_s_;
  std::array<Alone, kMostStreams + 1> alone_;
  std::array<Added, 6> added_;
};

}  // namespace tiercel
