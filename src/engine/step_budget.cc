#include "engine/step_budget.h"

#include <bit>

namespace tiercel {

StepBudget::Alone& StepBudget::alone(std::size_t streams) {
  return alone_[std::min<std::size_t>(std::bit_width(streams), alone_.size() - 1)];
}

double StepBudget::target_s(double alone_s, std::size_t streams, std::size_t prompts) const {
  if (target_step_s_ > 0) return target_step_s_;
  const double ratio = static_cast<double>(prompts) / static_cast<double>(streams);
  const double waiting = std::max({1.0, ratio, std::min(kMostForQueue, ratio * static_cast<double>(prompts))});
  const double even_s = alone_s * (1 + kAutomaticShare);
  return std::max(even_s, std::min(kLongestAutomatic_s, alone_s * (1 + kAutomaticShare * waiting)));
}

std::size_t StepBudget::prompt_tokens(std::size_t streams, std::size_t prompts, std::size_t most) {
  if (streams == 0 || most == 0) return most;
  Alone& known = alone(streams);
  const bool trusted = known.seconds() > 0 && known.steps_since < kStepsToTrust;
  if (!trusted && known.asked < known.latest_s.size()) {
    ++known.asked;
    return 0;
  }
  if (known.seconds() == 0 || added_tokens_ == 0) return std::min(most, kFirstTokens);
  const double tokens = (target_s(known.seconds(), streams, prompts) - known.seconds()) * added_tokens_ / added_s_;
  if (!(tokens < static_cast<double>(most))) return most;
  return std::min(most, tokens > kLeastTokens ? static_cast<std::size_t>(tokens) : kLeastTokens);
}

void StepBudget::measured(std::size_t streams, std::size_t prompt_tokens, double seconds) {
  constexpr double kKept = 0.8, kLeastSeconds = 1e-9;
  Alone& known = alone(streams);
  if (prompt_tokens == 0) {
    if (streams == 0) return;
    std::ranges::rotate(known.latest_s, known.latest_s.end() - 1);
    known.latest_s.front() = std::max(kLeastSeconds, seconds);
    known.steps_since = 0;
    if (known.seconds() > 0) known.asked = 0;
    return;
  }
  if (streams > 0 && known.seconds() == 0) return;
  ++known.steps_since;
  const double added_s = streams > 0 ? seconds - known.seconds() : seconds;
  added_s_ = kKept * added_s_ + std::max(added_s, kLeastSeconds);
  added_tokens_ = kKept * added_tokens_ + static_cast<double>(prompt_tokens);
}

}  // namespace tiercel
