#include "tier/checked_copy.h"

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

std::vector<std::byte> noise(std::size_t bytes) {
  std::mt19937_64 random(bytes);
  std::vector<std::byte> noise(bytes);
  for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
  return noise;
}

TEST(CheckedCopy, CopiesAndSumsAlikeInAnyPieces) {
  for (const std::size_t bytes : {1u, 63u, 64u, 65u, 256u, 4096u, 5000u}) {
    const std::vector<std::byte> from = noise(bytes);
    for (const auto target : {CheckedCopy::Target::Cached, CheckedCopy::Target::PastCaches}) {
      for (const std::size_t piece : {64u, 192u, 8192u}) {
        for (const std::size_t begin : {16u, 17u}) {  // a target that is aligned, and one that is not
          std::vector<std::byte> to(begin + bytes + 1, std::byte{0x55});
          const std::span<std::byte> copied = std::span(to).subspan(begin, bytes);
          CheckedCopy copy(target);
          for (std::size_t at = 0; at < bytes; at += piece) {
            const std::size_t here = std::min(piece, bytes - at);
            copy.add(std::span(from).subspan(at, here), copied.subspan(at, here));
          }
          EXPECT_EQ(copy.checksum(), checksum_of(from)) << bytes;
          EXPECT_TRUE(std::ranges::equal(from, copied));
          EXPECT_EQ(to[begin - 1], std::byte{0x55});
          EXPECT_EQ(to.back(), std::byte{0x55});
        }
      }
    }
  }
}

TEST(CheckedCopy, FindsEveryBitThatChanged) {
  std::vector<std::byte> bytes = noise(1000);
  std::set<std::uint64_t> sums = {checksum_of(bytes)};
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
    EXPECT_TRUE(sums.insert(checksum_of(bytes)).second) << bit;
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
  }
}

TEST(CheckedCopy, FindsBytesInOtherPlacesAndOtherLengths) {
  std::vector<std::byte> bytes = noise(4096);
  std::set<std::uint64_t> sums = {checksum_of(bytes)};
  for (std::size_t size : {8u, 16u, 64u, 512u}) {
    for (std::size_t at = 0; at + 2 * size <= bytes.size(); at += size) {
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      const auto middle = begin + static_cast<std::ptrdiff_t>(size);
      std::swap_ranges(begin, middle, middle);
      EXPECT_TRUE(sums.insert(checksum_of(bytes)).second) << size << " at " << at;
      std::swap_ranges(begin, middle, middle);
    }
  }
  const std::vector<std::byte> zeros(256);
  for (std::size_t size = 0; size <= zeros.size(); ++size) {
    EXPECT_TRUE(sums.insert(checksum_of(std::span(zeros).first(size))).second) << size;
  }
}

}  // namespace
}  // namespace tiercel
