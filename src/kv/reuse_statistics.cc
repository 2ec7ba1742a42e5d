#include "kv/reuse_statistics.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

namespace tiercel {
namespace {

constexpr std::uint32_t kNowhere = UINT32_MAX;
// Small caches follow more than they need; large ones follow so many contents that a record is overwritten at an age of
// about 12 times the capacity. What comes back later than that is out of reach for any policy.
constexpr std::size_t kLeastRecords = 8192;
constexpr double kRecordsPerBlock = 0.75;
constexpr double kReachCapacities = 12;

// Age ranges begin at 1/64 of the capacity and end at 32 times the capacity.
constexpr float kFirstAgesPerCapacity = 64;

// Evidence decays over 32 times the capacity, but not sooner than a small cache needs to collect some.
constexpr double kMemoryCapacities = 32;
constexpr double kLeastMemoryTicks = 30'000;
constexpr std::uint64_t kLeastIntervalTicks = 2048;

// Blocks that were added at once come back at once: so many in a row are one piece of evidence. The denser the sample,
// the more of them it has.
constexpr double kPrior = 40;
constexpr double kPriorOfFullSample = 300;

// The leading bits of a float count half doublings: 1, 1.5, 2, 3, 4, 6, ...
int code_of(float age) { return static_cast<int>(std::bit_cast<std::uint32_t>(age) >> 22); }
float age_of_code(int code) { return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 22); }

}  // namespace

ReuseStatistics::ReuseStatistics(std::size_t capacity_blocks, std::size_t classes, std::size_t families)
    : families_(families), curves_(classes) {
  const auto capacity = static_cast<double>(capacity_blocks);
  records_.resize(std::max(kLeastRecords, static_cast<std::size_t>(capacity * kRecordsPerBlock)));
  index_.resize(records_.size() * 2, kNowhere);
  const double sampled_share = std::min(1.0, static_cast<double>(records_.size()) / (kReachCapacities * capacity));
  highest_sampled_ = static_cast<std::uint64_t>(sampled_share * UINT32_MAX);
  prior_ = kPrior + kPriorOfFullSample * sampled_share;
  first_code_ = code_of(std::max(1.0f, static_cast<float>(capacity) / kFirstAgesPerCapacity));
  for (int range = 1; range <= kAges; ++range) {
    first_age_[range] = static_cast<std::uint32_t>(age_of_code(first_code_ + range));
  }
  interval_ = std::max<std::uint64_t>(kLeastIntervalTicks, capacity_blocks / 8);
  const double memory = std::max(kMemoryCapacities * capacity, kLeastMemoryTicks);
  keep_ = static_cast<float>(std::exp(-static_cast<double>(interval_) / memory));
}

int ReuseStatistics::age_range(std::uint64_t age) const {
  return std::clamp(code_of(static_cast<float>(age)) - first_code_, 0, kAges);
}

bool ReuseStatistics::on_use(std::uint32_t content, ClassId use_class, std::uint64_t now) {
  let_ages_pass(now);
  bool was_recent = false;
  if (const std::size_t place = find(content); index_[place] != kNowhere) {
    const std::size_t slot = index_[place];
    Record& last = records_[slot];
    if (const int range = age_range(age_of(last, now)); range < kAges) curves_[last.use_class].hits[range] += 1;
    const std::size_t records_since = (record_count_ + records_.size() - slot - 1) % records_.size() + 1;
    was_recent = record_count_ - records_since >= recent_begin_;
    if (was_recent) --recent_;
    last.is_last = false;
    forget(place);
  }
  const std::size_t slot = record_count_ % records_.size();
  Record& record = records_[slot];
  if (recent_begin_ + records_.size() == record_count_) pass_recent();
  if (record.is_last) forget(find(record.content));
  record = {.content = content, .time = static_cast<std::uint32_t>(now), .use_class = use_class, .is_last = true};
  ++record_count_;
  ++recent_;
  while (recent_ > present_) pass_recent();
  index_[find(content)] = static_cast<std::uint32_t>(slot);
  curves_[use_class].entered[0] += 1;
  return was_recent;
}

// The oldest record among the recent ones is not any more.
void ReuseStatistics::pass_recent() {
  if (records_[recent_begin_ % records_.size()].is_last) --recent_;
  ++recent_begin_;
}

void ReuseStatistics::let_ages_pass(std::uint64_t now) {
  if (now < next_passing_) return;
  next_passing_ = UINT64_MAX;
  for (int range = 1; range < kAges; ++range) {
    Passing& passing = passing_[range];
    if (now >= passing.next) pass(passing, range, now);
    next_passing_ = std::min(next_passing_, passing.next);
  }
  // Many at a time are cheaper; against the ages themselves the delay is small.
  next_passing_ = std::max(next_passing_, now + first_age_[1] / 4);
}

// The records that have reached the range's first age by now enter it.
void ReuseStatistics::pass(Passing& passing, int range, std::uint64_t now) {
  if (record_count_ > passing.records + records_.size()) {
    passing.records = record_count_ - records_.size();  // those before are overwritten
    passing.slot = passing.records % records_.size();
  }
  passing.next = now + first_age_[range];  // where no record waits: of one made now
  for (; passing.records < record_count_; ++passing.records) {
    const Record& record = records_[passing.slot];
    const std::uint32_t age = age_of(record, now);
    if (age < first_age_[range]) {
      passing.next = now + (first_age_[range] - age);
      return;
    }
    if (record.is_last) curves_[record.use_class].entered[range] += 1;
    if (++passing.slot == records_.size()) passing.slot = 0;
  }
}

bool ReuseStatistics::on_tick(std::uint64_t now) {
  if (now - computed_ < interval_) return false;
  computed_ = now;
  let_ages_pass(now);
  recompute_values();
  for (Curve& curve : curves_) {
    for (float& entered : curve.entered) entered *= keep_;
    for (float& hits : curve.hits) hits *= keep_;
  }
  return true;
}

void ReuseStatistics::recompute_values() {
  // A class is taken to be as its family until it has evidence of its own, and that as all of them.
  std::array<double, kAges> hazard_of_all{};
  for (int range = 0; range < kAges; ++range) {
    double entered = 1, hits = 0;
    for (const Curve& curve : curves_) entered += curve.entered[range], hits += curve.hits[range];
    hazard_of_all[range] = hits / entered;
  }
  for (std::size_t family = 0; family < families_; ++family) {
    std::array<double, kAges> hazard{};
    for (int range = 0; range < kAges; ++range) {
      double entered = prior_, hits = prior_ * hazard_of_all[range];
      for (std::size_t member = family; member < curves_.size(); member += families_) {
        entered += curves_[member].entered[range], hits += curves_[member].hits[range];
      }
      hazard[range] = hits / entered;
    }
    Curve unknown;
    compute_value(unknown, hazard);
    for (std::size_t member = family; member < curves_.size(); member += families_) {
      if (curves_[member].entered[0] > 0) {
        compute_value(curves_[member], hazard);
      } else {
        curves_[member].value = unknown.value;
      }
    }
  }
}

void ReuseStatistics::compute_value(Curve& curve, const std::array<double, kAges>& expected_hazard) {
  std::array<double, kAges> hazard{};
  for (int range = 0; range < kAges; ++range) {
    const double hits = curve.hits[range] + prior_ * expected_hazard[range];
    hazard[range] = std::min(0.999, hits / (curve.entered[range] + prior_));
  }
  for (int from = 0; from < kAges; ++from) {
    double left = 1, hits = 0, held = 0, best = 0;
    for (int range = from; range < kAges; ++range) {
      const double width = first_age_[range + 1] - first_age_[range];
      hits += left * hazard[range];
      held += left * width * (1 - hazard[range] / 2);  // one that is hit is held for half the range
      left *= 1 - hazard[range];
      best = std::max(best, hits / held);
    }
    curve.value[from] = static_cast<float>(best);
  }
}

std::size_t ReuseStatistics::home_of(std::uint32_t content) const {
  return static_cast<std::size_t>(std::uint64_t{content * 0x9e3779b1u} * index_.size() >> 32);
}

// Where the content is, or where it would go.
std::size_t ReuseStatistics::find(std::uint32_t content) const {
  std::size_t place = home_of(content);
  while (index_[place] != kNowhere && records_[index_[place]].content != content) place = next(place);
  return place;
}

// Closes the gap, so that no search ends early.
void ReuseStatistics::forget(std::size_t place) {
  std::size_t gap = place;
  for (place = next(place); index_[place] != kNowhere; place = next(place)) {
    const std::size_t home = home_of(records_[index_[place]].content);
    const bool stays = gap <= place ? gap < home && home <= place : gap < home || home <= place;
    if (stays) continue;
    index_[gap] = index_[place];
    gap = place;
  }
  index_[gap] = kNowhere;
}

std::size_t ReuseStatistics::metadata_bytes() const {
  return records_.capacity() * sizeof(Record) + index_.capacity() * sizeof(std::uint32_t) +
         curves_.capacity() * sizeof(Curve);
}

}  // namespace tiercel
