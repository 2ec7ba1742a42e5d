#include "kv/transfer_cost.h"

#include <algorithm>
#include <bit>

namespace tiercel {
namespace {

// Of a new measurement in the mean: the last ten or so count.
constexpr double kWeight = 0.2;

double mix(double mean, double value) { return mean + kWeight * (value - mean); }

std::size_t depth_of(std::size_t position) { return static_cast<std::size_t>(std::bit_width(position + 1)) - 1; }

}  // namespace

void LoadCost::measured(std::size_t bytes, double seconds) {
  if (bytes == 0) return;
  const double value = std::max(seconds, 1e-9) / static_cast<double>(bytes);
  seconds_per_byte_ = known_ ? mix(seconds_per_byte_, value) : value;
  known_ = true;
}

double LoadCost::seconds_for(std::size_t bytes) const { return seconds_per_byte_ * static_cast<double>(bytes); }

void PrefillCost::measured(std::size_t tokens, std::size_t position, double seconds) {
  if (tokens == 0) return;
  const std::size_t middle = position + tokens / 2;
  const Mean value = {.position = static_cast<double>(middle),
                      .seconds_per_token = std::max(seconds, 1e-9) / static_cast<double>(tokens)};
  Mean& mean = means_[std::min(depth_of(middle), kDepths - 1)];
  mean = mean.seconds_per_token == 0 ? value
                                     : Mean{.position = mix(mean.position, value.position),
                                            .seconds_per_token = mix(mean.seconds_per_token, value.seconds_per_token)};
  known_ = true;
}

double PrefillCost::seconds_per_token(double position) const {
  const Mean *shallowest = nullptr, *before = nullptr, *behind = nullptr;
  for (const Mean& mean : means_) {
    if (mean.seconds_per_token == 0) continue;
    if (shallowest == nullptr) shallowest = &mean;
    if (mean.position > position) {
      behind = &mean;
      break;
    }
    before = &mean;
  }
  if (shallowest == nullptr) return 0;
  if (before == nullptr) return shallowest->seconds_per_token;
  const Mean& from = behind == nullptr ? *shallowest : *before;
  const Mean& to = behind == nullptr ? *before : *behind;
  if (from.position == to.position) return to.seconds_per_token;
  const double slope = (to.seconds_per_token - from.seconds_per_token) / (to.position - from.position);
  if (behind != nullptr) return from.seconds_per_token + slope * (position - from.position);
  // What the first token costs is not less than nothing, and a deeper one not less than it.
  return to.seconds_per_token + std::clamp(slope, 0., to.seconds_per_token / to.position) * (position - to.position);
}

double PrefillCost::seconds_for(std::size_t tokens, std::size_t position) const {
  double seconds = 0;
  while (tokens > 0) {
    const std::size_t depth = std::min(depth_of(position), kDepths - 1);
    const std::size_t end = depth + 1 < kDepths ? (std::size_t{1} << (depth + 1)) - 1 : position + tokens;
    const std::size_t here = std::min(tokens, end - position);
    seconds += static_cast<double>(here) * seconds_per_token(static_cast<double>(position) + here / 2.0);
    position += here;
    tokens -= here;
  }
  return seconds;
}

}  // namespace tiercel
