#include "base/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tiercel {

std::size_t LatencyHistogram::bucket_of(std::uint64_t ns) {
  constexpr std::uint64_t kSub = 1u << kSubBits;
  if (ns < kSub) return ns;
  const int octave = std::bit_width(ns) - 1 - kSubBits;  // 0 for [64, 128)
  const std::size_t index = ((octave + 1) << kSubBits) + ((ns >> octave) - kSub);
  return std::min(index, std::tuple_size_v<decltype(buckets_)> - 1);
}

double LatencyHistogram::middle_of(std::size_t bucket) {
  constexpr std::size_t kSub = 1u << kSubBits;
  if (bucket < kSub) return static_cast<double>(bucket);
  const int octave = static_cast<int>(bucket >> kSubBits) - 1;
  const double width = std::ldexp(1.0, octave);
  return (kSub + (bucket & (kSub - 1))) * width + (width - 1) / 2;
}

void LatencyHistogram::add(double milliseconds) {
  const double clean = milliseconds > 0 ? milliseconds : 0;  // also NaN
  ++buckets_[bucket_of(static_cast<std::uint64_t>(std::min(clean * 1e6, 9e18)))];
  ++count_;
  sum_ms_ += clean;
  max_ms_ = std::max(max_ms_, clean);
}

void LatencyHistogram::merge(const LatencyHistogram& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ms_ += other.sum_ms_;
  max_ms_ = std::max(max_ms_, other.max_ms_);
}

double LatencyHistogram::percentile_ms(double fraction) const {
  if (count_ == 0) return 0;
  const auto rank = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(fraction * count_)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::min(middle_of(i) / 1e6, max_ms_);
  }
  return max_ms_;
}

LatencyStats LatencyHistogram::summary() const {
  return {.count = count_,
          .mean_ms = count_ ? sum_ms_ / count_ : 0,
          .p50_ms = percentile_ms(0.50),
          .p95_ms = percentile_ms(0.95),
          .p99_ms = percentile_ms(0.99),
          .max_ms = max_ms_};
}

}  // namespace tiercel
