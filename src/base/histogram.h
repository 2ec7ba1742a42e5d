// A log-linear latency histogram: constant memory, one counter increment per sample, percentiles within 1 %.
//
// Each power of two of nanoseconds is divided into 64 equal buckets, so a bucket is at most 1/64 of its value wide and
// its middle is within 1/128 (0.8 %) of every sample in it. Histograms of the same kind can be added bucket by bucket,
// which a sampled window cannot. (The scheme of HdrHistogram, which Debian and Ubuntu do not package for C++.)
//
// Not synchronised: the owner locks.
#pragma once

#include <array>
#include <cstdint>

#include "tiercel/stats.h"

namespace tiercel {

class LatencyHistogram {
 public:
  void add(double milliseconds);
  void merge(const LatencyHistogram& other);

  std::uint64_t count() const { return count_; }
  // The value that `fraction` of the samples do not exceed; 0 without samples. fraction in [0, 1].
  double percentile_ms(double fraction) const;
  LatencyStats summary() const;

 private:
  static constexpr int kSubBits = 6;
  static constexpr int kOctaves = 40;  // up to 2^46 ns, 19 hours; longer counts as that

  static std::size_t bucket_of(std::uint64_t nanoseconds);
  static double middle_of(std::size_t bucket);

  std::array<std::uint64_t, (kOctaves + 1) << kSubBits> buckets_{};
  std::uint64_t count_ = 0;
  double sum_ms_ = 0;
  double max_ms_ = 0;
};

}  // namespace tiercel
