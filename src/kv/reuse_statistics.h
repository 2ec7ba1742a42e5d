// What is worth keeping, learnt from what came back: for each class of blocks, how likely a block is used again at
// which age, and from that what it is worth to hold one of that age.
//
// Contents are sampled by their hash and followed from use to use, whether the cache still has them or not. So the
// policy's own evictions do not colour what it learns. Age is counted in uses of blocks, of all blocks. No allocation
// after construction; 15 bytes per block of capacity, and at least 160 KiB. Not synchronised.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kv/index_allocator.h"

namespace tiercel {

class ReuseStatistics {
 public:
  using ClassId = std::uint8_t;

  // Classes c and c + n * `families` are taken to be alike until there is evidence.
  ReuseStatistics(std::size_t capacity_blocks, std::size_t classes, std::size_t families);

  // `content`: a hash, all bits of it good.
  bool is_sampled(std::uint64_t content) const { return static_cast<std::uint32_t>(content) <= highest_sampled_; }

  // The expected share of contents that are.
  double sampled_share() const { return static_cast<double>(highest_sampled_) / UINT32_MAX; }

  // A sampled content entered the cache, or left it.
  void on_enter() { ++present_; }
  void on_leave() { --present_; }
  // A sampled content was used at tick `now` and its block is of `use_class` from now on. `now` never decreases. True
  // if it would have been there had the cache held just the contents used last, as many as it holds: what LRU would do.
  bool on_use(std::uint32_t content, ClassId use_class, std::uint64_t now);
  // To be called at each tick. True if values were computed anew, which happens now and then.
  bool on_tick(std::uint64_t now);

  // Hits per tick that holding a block of this class and age will bring, at best. 0: none seen.
  float value(ClassId use_class, std::uint64_t age) const { return curves_[use_class].value[age_range(age)]; }
  // The age above `age` from which on value() may answer otherwise; UINT64_MAX if there is none.
  std::uint64_t next_age(std::uint64_t age) const {
    const int range = age_range(age);
    return range < kAges ? first_age_[range + 1] : UINT64_MAX;
  }

  std::size_t metadata_bytes() const;

 private:
  // Ages in ranges of half a doubling; the first begins at 0, those from kAges on are not told apart.
  static constexpr int kAges = 23;
  struct Curve {
    std::array<float, kAges> entered{};    // contents that reached the range's first age unused
    std::array<float, kAges> hits{};       // of these, used again within it
    std::array<float, kAges + 1> value{};  // for the range; the last: for all older
  };
  struct Record {
    std::uint32_t content = 0;
    std::uint32_t time = 0;  // the lower half of the tick
    ClassId use_class = 0;
    bool is_last = false;  // no later record of this content
  };

  int age_range(std::uint64_t age) const;
  std::uint32_t age_of(const Record& record, std::uint64_t now) const {
    return static_cast<std::uint32_t>(now) - record.time;
  }
  // How far the records have reached the first age of a range.
  struct Passing {
    std::uint64_t records = 0;  // that have reached it, or were overwritten before
    std::size_t slot = 0;       // of the next one
    std::uint64_t next = 0;     // not before this tick another one reaches it
  };
  // Counts the contents that have reached an age range since the last time.
  void let_ages_pass(std::uint64_t now);
  void pass(Passing& passing, int range, std::uint64_t now);
  void pass_recent();
  void recompute_values();
  void compute_value(Curve& curve, const std::array<double, kAges>& expected_hazard);

  // The index: open addressing from content to the slot of its last record.
  std::size_t home_of(std::uint32_t content) const;
  std::size_t next(std::size_t place) const { return place + 1 == index_.size() ? 0 : place + 1; }
  std::size_t find(std::uint32_t content) const;
  void forget(std::size_t place);

  std::uint64_t highest_sampled_ = UINT32_MAX;
  std::size_t families_;
  double prior_;            // contents that the expectation of a class weighs as much as
  int first_code_;          // of the first age range, see age_range()
  std::uint64_t interval_;  // ticks between two computations of values
  std::uint64_t computed_ = 0;
  float keep_;  // of the evidence, at each computation
  std::array<std::uint32_t, kAges + 1> first_age_{};
  std::array<Passing, kAges> passing_{};
  std::uint64_t next_passing_ = 0;  // the first of the ticks in passing_

  BlockArray<Record> records_;  // a ring in order of time; record n is in slot n % size
  std::uint64_t record_count_ = 0;
  BlockArray<std::uint32_t> index_;
  std::size_t present_ = 0;  // sampled contents in the cache
  std::size_t recent_ = 0;   // last records from recent_begin_ on, at most as many
  std::uint64_t recent_begin_ = 0;
  std::vector<Curve> curves_;  // by class
};

}  // namespace tiercel
