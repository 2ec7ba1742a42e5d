// A log-linear latency histogram: constant memory, a few plain additions per sample, percentiles within 1 %.
//
// Each power of two of nanoseconds is divided into 64 equal buckets, so a bucket is at most 1/64 of its value wide and
// its middle is within 1/128 (0.8 %) of every sample in it. Histograms can be added bucket by bucket, and subtracted,
// which sampled values cannot. (The scheme of HdrHistogram, which Debian and Ubuntu do not package for C++.)
//
// A group of buckets also has a sum of its own, so that percentiles are found by looking into a few groups only.
//
// Thread-safety: one thread at a time writes, any thread reads meanwhile; nobody waits. A reader may miss the sample
// that is being added.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "tiercel/stats.h"

namespace tiercel {

class LatencyHistogram {
  static constexpr std::size_t kSubBits = 6;
  static constexpr std::size_t kBuckets = 41 << kSubBits;  // up to 2^46 ns, 19 hours; longer counts as that
  static constexpr std::size_t kGroupBuckets = 16;
  static constexpr std::size_t kGroups = kBuckets / kGroupBuckets;

 public:
  // What a histogram had counted at some moment. Counts are modulo 2^32: exact for differences below that.
  struct Mark {
    std::array<std::atomic<std::uint32_t>, kGroups> groups{};
    std::array<std::atomic<std::uint32_t>, kBuckets> buckets{};
    std::atomic<std::uint64_t> sum_ns = 0;
  };

  void add(double milliseconds);
  void merge(const LatencyHistogram& other);
  void copy_to(Mark& mark) const;

  // The value that `fraction` of the samples do not exceed; 0 without samples. fraction in [0, 1].
  double percentile_ms(double fraction) const;
  LatencyStats summary() const;
  // Of what was added after copy_to(mark), of which the largest was max_ns.
  LatencyStats summary_since(const Mark& mark, std::uint64_t max_ns) const;
  // Of the samples of several together.
  static LatencyStats summary_of(std::span<const LatencyHistogram* const> all);
  // The same of what was added to each after its mark.
  struct Since {
    const LatencyHistogram* histogram;
    const Mark* mark;
  };
  static LatencyStats summary_since(std::span<const Since> all, std::uint64_t max_ns);

  static std::uint64_t nanoseconds(double milliseconds);

 private:
  void add_to(std::size_t bucket, std::uint64_t samples);
  static std::size_t bucket_of(std::uint64_t nanoseconds);
  static double middle_ms(std::size_t bucket);
  // Of groups [first, end).
  template <class Group, class Bucket>
  static LatencyStats summarize(std::size_t first, std::size_t end, const Group& group, const Bucket& bucket,
                                std::uint64_t sum_ns, std::uint64_t max_ns);

  std::array<std::atomic<std::uint64_t>, kGroups> groups_{};
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
  // Groups that have samples are within [first, end).
  std::atomic<std::size_t> first_group_ = kGroups, end_group_ = 0;
  std::atomic<std::uint64_t> sum_ns_ = 0;
  std::atomic<std::uint64_t> max_ns_ = 0;
};

}  // namespace tiercel
