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
  double& mean = seconds_per_token_[std::min(depth_of(position + tokens / 2), kDepths - 1)];
  const double value = std::max(seconds, 1e-9) / static_cast<double>(tokens);
  mean = mean == 0 ? value : mix(mean, value);
  known_ = true;
}

double PrefillCost::seconds_per_token(std::size_t depth) const {
  // The nearest depth that was measured; a shallower one before a deeper one.
  for (std::size_t distance = 0; distance < kDepths; ++distance) {
    if (distance <= depth && seconds_per_token_[depth - distance] > 0) return seconds_per_token_[depth - distance];
    if (depth + distance < kDepths && seconds_per_token_[depth + distance] > 0) {
      return seconds_per_token_[depth + distance];
    }
  }
  return 0;
}

double PrefillCost::seconds_for(std::size_t tokens, std::size_t position) const {
  double seconds = 0;
  while (tokens > 0) {
    const std::size_t depth = std::min(depth_of(position), kDepths - 1);
    const std::size_t end = depth + 1 < kDepths ? (std::size_t{1} << (depth + 1)) - 1 : position + tokens;
    const std::size_t here = std::min(tokens, end - position);
    seconds += static_cast<double>(here) * seconds_per_token(depth);
    position += here;
    tokens -= here;
  }
  return seconds;
}

}  // namespace tiercel
