#include "engine/draft_budget.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace tiercel {

DraftBudget::Added& DraftBudget::added(std::size_t streams) {
  return added_[static_cast<std::size_t>(std::bit_width(streams)) - 1];
}

// Where so many were never taken, by what the next known number takes for each token.
double DraftBudget::added_s(std::size_t streams, std::size_t drafted, double alone_s) {
  const auto& took = added(streams).took;
  for (std::size_t distance = 0; distance < took.size(); ++distance) {
    for (const std::size_t known : {drafted + distance, drafted - distance}) {
      if (known == 0 || known >= took.size() || !took[known].known()) continue;
      return took[known].least() * static_cast<double>(drafted) / static_cast<double>(known);
    }
  }
  // A first guess: as a stream takes where there are many, little where there are few.
  constexpr double kFew = 8;
  return alone_s * static_cast<double>(drafted) / std::max(kFew, static_cast<double>(streams));
}

void DraftBudget::Added::sweep() {
  for (Latest& latest : took) {
    if (!std::exchange(latest.fresh, false)) latest = {};
  }
}

std::size_t DraftBudget::tokens(std::size_t streams, std::span<const double> likelihoods) {
  if (!considers(streams) || likelihoods.empty()) return 0;
  Alone& alone = alone_[streams];
  if (!alone.took.known()) return 0;
  Added& added = this->added(streams);
  if (alone.steps_since >= alone.steps_to_trust) {
    alone.steps_to_trust = std::min(2 * alone.steps_to_trust, kMostStepsToTrust);
    added.sweep();
    return 0;
  }
  const double alone_s = alone.took.least();
  double longest_s = target_step_s_ > 0 ? std::max(target_step_s_, alone_s) : alone_s * (1 + kAutomaticShare);
  if (streams == 1 && target_step_s_ == 0) longest_s = 1e9;  // nobody else waits for it

  const auto most = std::min(likelihoods.size(), kMostTokens);
  std::size_t best = 0;
  double given = static_cast<double>(streams), best_rate = kLeastGain * given / alone_s;
  for (std::size_t i = 1; i <= most; ++i) {
    given += likelihoods[i - 1];
    const double step_s = alone_s + added_s(streams, i, alone_s);
    if (step_s > longest_s || given / step_s <= best_rate) continue;
    best = i;
    best_rate = given / step_s;
  }
  if (best > 0) {
    added.steps_to_probe = kStepsToProbe;
    added.steps_without = 0;
    return best;
  }
  alone.steps_to_trust = kStepsToTrust;
  if (++added.steps_without >= added.steps_to_probe) {
    added.took = {};
    added.steps_without = 0;
    added.steps_to_probe = std::min(2 * added.steps_to_probe, kMostStepsToProbe);
    best = std::min(most, kProbeTokens);
  }
  return best;
}

void DraftBudget::measured(std::size_t streams, std::size_t drafted, double seconds) {
  constexpr double kLeastSeconds = 1e-9;
  if (!considers(streams)) return;
  Alone& alone = alone_[streams];
  if (drafted == 0) {
    alone.took.add(std::max(kLeastSeconds, seconds));
    alone.steps_since = 0;
  } else if (alone.took.known() && drafted <= kMostTokens) {
    ++alone.steps_since;
    added(streams).took[drafted].add(std::max(kLeastSeconds, seconds - alone.took.least()));
  }
}

}  // namespace tiercel
