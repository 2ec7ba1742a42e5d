// Copies bytes and sums them up while they are in registers: to read a copy again for its checksum takes a third of the
// time of both.
//
// The sum is what XXH3's long loop adds up, in eight lanes of 64 bits, with a key that no other 64 bytes have; hashed
// by XXH3-64 at the end. Any change within one lane's 8 bytes is found for certain, any other by chance of about 2^-64.
// It is the same wherever the pieces end, but of this build of the program alone: it is for memory, not for a disk.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tiercel {

class CheckedCopy {
 public:
  // Where the copy goes: with many bytes it comes to memory sooner past the caches, if nobody reads it at once.
  enum class Target : std::uint8_t { Cached, PastCaches };
  static constexpr std::size_t kStripe = 64;

  explicit CheckedCopy(Target target = Target::Cached);

  // One piece after the other; all but the last have a multiple of kStripe bytes. `to` has the size of `from`, or none:
  // then nothing is copied.
  void add(std::span<const std::byte> from, std::span<std::byte> to);
  // Of all that was added. What was copied is there for every thread when this has been called.
  std::uint64_t checksum();

  struct Sums {
    static constexpr std::size_t kLanes = kStripe / sizeof(std::uint64_t);
    alignas(kStripe) std::array<std::uint64_t, kLanes> sums = {};
    alignas(kStripe) std::array<std::uint64_t, kLanes> keys = {};
  };

 private:
  Sums sums_;
  std::uint64_t bytes_ = 0;
  Target target_;
};

std::uint64_t checksum_of(std::span<const std::byte> bytes);

}  // namespace tiercel
