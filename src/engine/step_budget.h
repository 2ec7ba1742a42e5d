// How many prompt tokens a step may take while streams run, so that each stream's next token comes in time: chunked
// prefill (Agrawal et al., Sarathi-Serve, 2024) whose chunk is not a constant but follows from what steps have taken.
//
// Measured are steps of streams alone, by their number, and what a prompt token adds beside them. Where it is not known
// what the streams take alone, or not any more, a step goes without prompts to show it. The fastest of the last
// few counts: one in which another process had the processor says nothing of the next.
//
// Without threads or clock. Not thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace tiercel {

class StepBudget {
 public:
  // 0: automatic, from what the streams take alone: prompts get kAutomaticShare of that, which keeps gaps between
  // tokens about even. Where prompts queue, each also waiting for those before it, they get up to kMostForQueue times
  // as much, and where more requests wait for their first token than streams for their next, as much more, up to
  // kLongestAutomatic_s: longer steps are also fewer.
  explicit StepBudget(double target_step_s) : target_step_s_(target_step_s) {}

  // For a step in which `streams` sequences take one token each, and `prompts` requests have no token yet. At most
  // `most`; 0 where nothing was asked for, or for a step that is to be measured.
  std::size_t prompt_tokens(std::size_t streams, std::size_t prompts, std::size_t most);
  void measured(std::size_t streams, std::size_t prompt_tokens, double seconds);

 private:
  // Of what the streams take alone: a gap is then at most twice the shortest, with some room for what cannot be
  // foreseen.
  static constexpr double kAutomaticShare = 0.6;
  static constexpr double kMostForQueue = 3;  // times as much, where fewer wait than run
  static constexpr double kLongestAutomatic_s = 0.2;
  static constexpr std::size_t kLeastTokens = 4;     // of a prompt, however slow: it must end some day
  static constexpr std::size_t kFirstTokens = 32;    // before anything is known
  static constexpr std::size_t kStepsToTrust = 128;  // with prompts, after which streams are measured alone again

  // Of so many streams, by powers of two.
  struct Alone {
    std::array<double, 4> latest_s{};  // of steps without prompts; 0: not known
    std::size_t steps_since = 0;       // with prompts
    std::size_t asked = 0;             // steps without prompts, since they are not trusted
    double seconds() const { return *std::ranges::min_element(latest_s); }
  };
  Alone& alone(std::size_t streams);
  double target_s(double alone_s, std::size_t streams, std::size_t prompts) const;

  double target_step_s_;
  std::array<Alone, 16> alone_;
  // Of what prompt tokens added beside streams, or took by themselves; the older, the less it counts.
  double added_s_ = 0;
  double added_tokens_ = 0;
};

}  // namespace tiercel
