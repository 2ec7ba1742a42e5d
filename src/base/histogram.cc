#include "base/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

namespace tiercel {
namespace {

// By the only writer: no read-modify-write is needed. Released, and acquired by readers: who sees a group's sum sees
// the bucket that was counted before it.
template <class Word>
void increase(std::atomic<Word>& word, Word by) {
  word.store(word.load(std::memory_order_relaxed) + by, std::memory_order_release);
}

template <class Word>
Word value_of(const std::atomic<Word>& word) {
  return word.load(std::memory_order_acquire);
}

std::uint64_t rank_of(double fraction, std::uint64_t count) {
  const double rank = fraction * static_cast<double>(count);
  const auto whole = static_cast<std::uint64_t>(rank);
  return std::max<std::uint64_t>(1, static_cast<double>(whole) < rank ? whole + 1 : whole);
}

// Finds the bucket that the sample of a rank is in. `bucket(i)` counts samples; the ranks asked for ascend, so that one
// walk finds them all.
template <class Bucket>
class RankFinder {
 public:
  // `groups` counts those from `first_group` on.
  RankFinder(std::span<const std::uint64_t> groups, std::size_t first_group, std::size_t group_buckets,
             const Bucket& bucket)
      : groups_(groups), first_bucket_(first_group * group_buckets), group_buckets_(group_buckets), bucket_(bucket) {}

  // 1 <= rank <= the sum of `groups`.
  std::size_t find(std::uint64_t rank) {
    for (; before_ + groups_[group_] < rank; ++group_, seen_ = before_, place_ = 0) before_ += groups_[group_];
    while (seen_ < rank && place_ < group_buckets_)
      seen_ += bucket_(first_bucket_ + group_ * group_buckets_ + place_++);
    return first_bucket_ + group_ * group_buckets_ + place_ - 1;
  }

 private:
  std::span<const std::uint64_t> groups_;
  std::size_t first_bucket_;
  std::size_t group_buckets_;
  const Bucket& bucket_;
  std::size_t group_ = 0;
  std::uint64_t before_ = 0;  // samples in the groups before
  std::size_t place_ = 0;     // buckets of the group that were looked at
  std::uint64_t seen_ = 0;    // samples in these and the groups before
};

}  // namespace

std::size_t LatencyHistogram::bucket_of(std::uint64_t ns) {
  constexpr std::uint64_t kSub = 1u << kSubBits;
  if (ns < kSub) return ns;
  const std::size_t octave = static_cast<std::size_t>(std::bit_width(ns)) - 1 - kSubBits;  // 0 for [64, 128)
  const std::size_t index = ((octave + 1) << kSubBits) + ((ns >> octave) - kSub);
  return std::min(index, kBuckets - 1);
}

double LatencyHistogram::middle_ms(std::size_t bucket) {
  constexpr std::size_t kSub = 1u << kSubBits;
  if (bucket < kSub) return static_cast<double>(bucket) / 1e6;
  const auto width = static_cast<double>(std::uint64_t{1} << ((bucket >> kSubBits) - 1));
  return (static_cast<double>(kSub + (bucket & (kSub - 1))) * width + (width - 1) / 2) / 1e6;
}

std::uint64_t LatencyHistogram::nanoseconds(double milliseconds) {
  const double clean = milliseconds > 0 ? milliseconds : 0;  // also NaN
  return static_cast<std::uint64_t>(std::min(std::round(clean * 1e6), 9e18));
}

void LatencyHistogram::add_to(std::size_t bucket, std::uint64_t samples) {
  const std::size_t group = bucket / kGroupBuckets;
  if (group < first_group_.load(std::memory_order_relaxed)) first_group_.store(group, std::memory_order_release);
  if (group >= end_group_.load(std::memory_order_relaxed)) end_group_.store(group + 1, std::memory_order_release);
  increase(buckets_[bucket], samples);
  increase(groups_[group], samples);
}

void LatencyHistogram::add(double milliseconds) {
  const std::uint64_t ns = nanoseconds(milliseconds);
  if (ns > max_ns_.load(std::memory_order_relaxed)) max_ns_.store(ns, std::memory_order_release);
  increase(sum_ns_, ns);
  add_to(bucket_of(ns), 1);
}

void LatencyHistogram::merge(const LatencyHistogram& other) {
  max_ns_.store(std::max(value_of(max_ns_), value_of(other.max_ns_)), std::memory_order_release);
  increase(sum_ns_, value_of(other.sum_ns_));
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (const std::uint64_t samples = value_of(other.buckets_[i]); samples > 0) add_to(i, samples);
  }
}

void LatencyHistogram::copy_to(Mark& mark) const {
  const auto copy = [](const auto& from, auto& to) {
    for (std::size_t i = 0; i < from.size(); ++i) {
      to[i].store(static_cast<std::uint32_t>(value_of(from[i])), std::memory_order_release);
    }
  };
  copy(buckets_, mark.buckets);
  copy(groups_, mark.groups);
  mark.sum_ns.store(value_of(sum_ns_), std::memory_order_release);
}

template <class Group, class Bucket>
LatencyStats LatencyHistogram::summarize(std::size_t first, std::size_t end, const Group& group, const Bucket& bucket,
                                         std::uint64_t sum_ns, std::uint64_t max_ns) {
  std::array<std::uint64_t, kGroups> counts;
  first = std::min(first, end);
  std::uint64_t count = 0;
  for (std::size_t i = first; i < end; ++i) count += counts[i - first] = group(i);
  if (count == 0) return {};
  const double max_ms = static_cast<double>(max_ns) / 1e6;
  const std::span<const std::uint64_t> used(counts.data(), end - first);
  RankFinder finder(used, first, kGroupBuckets, bucket);
  const auto percentile_ms = [&](double fraction) {
    return std::min(middle_ms(finder.find(rank_of(fraction, count))), max_ms);
  };
  LatencyStats stats{.count = count, .mean_ms = static_cast<double>(sum_ns) / 1e6 / static_cast<double>(count)};
  stats.p50_ms = percentile_ms(0.50);
  stats.p95_ms = percentile_ms(0.95);
  stats.p99_ms = percentile_ms(0.99);
  stats.p999_ms = percentile_ms(0.999);
  stats.max_ms = max_ms;
  return stats;
}

double LatencyHistogram::percentile_ms(double fraction) const {
  std::array<std::uint64_t, kGroups> groups;
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < kGroups; ++i) count += groups[i] = value_of(groups_[i]);
  if (count == 0) return 0;
  const auto bucket = [&](std::size_t i) { return value_of(buckets_[i]); };
  const std::size_t found = RankFinder(groups, 0, kGroupBuckets, bucket).find(rank_of(fraction, count));
  return std::min(middle_ms(found), static_cast<double>(value_of(max_ns_)) / 1e6);
}

LatencyStats LatencyHistogram::summary() const {
  const LatencyHistogram* const self = this;
  return summary_of({&self, 1});
}

LatencyStats LatencyHistogram::summary_since(const Mark& mark, std::uint64_t max_ns) const {
  const Since since{.histogram = this, .mark = &mark};
  return summary_since({&since, 1}, max_ns);
}

LatencyStats LatencyHistogram::summary_of(std::span<const LatencyHistogram* const> all) {
  std::size_t first = kGroups, end = 0;
  std::uint64_t sum_ns = 0, max_ns = 0;
  for (const LatencyHistogram* one : all) {
    end = std::max(end, value_of(one->end_group_));
    first = std::min(first, value_of(one->first_group_));
  }
  const auto sum = [&](auto member, std::size_t i) {
    std::uint64_t samples = 0;
    for (const LatencyHistogram* one : all) samples += value_of((one->*member)[i]);
    return samples;
  };
  for (const LatencyHistogram* one : all) {
    sum_ns += value_of(one->sum_ns_);
    max_ns = std::max(max_ns, value_of(one->max_ns_));
  }
  return summarize(
      first, end, [&](std::size_t i) { return sum(&LatencyHistogram::groups_, i); },
      [&](std::size_t i) { return sum(&LatencyHistogram::buckets_, i); }, sum_ns, max_ns);
}

LatencyStats LatencyHistogram::summary_since(std::span<const Since> all, std::uint64_t max_ns) {
  std::size_t first = kGroups, end = 0;
  std::uint64_t sum_ns = 0;
  for (const auto& [histogram, mark] : all) {
    end = std::max(end, value_of(histogram->end_group_));
    first = std::min(first, value_of(histogram->first_group_));
    sum_ns += value_of(histogram->sum_ns_) - value_of(mark->sum_ns);
  }
  const auto difference = [](const auto& now, const auto& before) -> std::uint64_t {
    return static_cast<std::uint32_t>(value_of(now)) - value_of(before);
  };
  const auto sum = [&](auto member, auto of_mark, std::size_t i) {
    std::uint64_t samples = 0;
    for (const auto& [histogram, mark] : all) samples += difference((histogram->*member)[i], (mark->*of_mark)[i]);
    return samples;
  };
  return summarize(
      first, end, [&](std::size_t i) { return sum(&LatencyHistogram::groups_, &Mark::groups, i); },
      [&](std::size_t i) { return sum(&LatencyHistogram::buckets_, &Mark::buckets, i); }, sum_ns, max_ns);
}

}  // namespace tiercel
