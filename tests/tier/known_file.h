// A file of known bytes, and batches of reads of it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tier/batch_reader.h"
#include "tier/read_piece.h"

namespace tiercel {

inline constexpr std::size_t kFileBytes = (std::size_t{6} << 20) + 777;
inline constexpr std::size_t kPageBytes = 4096;

// A file of random bytes.
class KnownFile {
 public:
  KnownFile() : bytes_(kFileBytes) {
    std::mt19937_64 random(1);
    for (std::byte& byte : bytes_) byte = static_cast<std::byte>(random());
    std::string path = testing::TempDir() + "tiercel_batch_reader_XXXXXX";
    buffered_ = ::mkstemp(path.data());
    direct_ = ::open(path.c_str(), O_RDONLY | O_DIRECT);  // not every file system has it
    ::unlink(path.c_str());
    EXPECT_EQ(::pwrite(buffered_, bytes_.data(), bytes_.size(), 0), static_cast<ssize_t>(kFileBytes));
    EXPECT_EQ(::fdatasync(buffered_), 0);
  }
  KnownFile(const KnownFile&) = delete;
  KnownFile& operator=(const KnownFile&) = delete;
  ~KnownFile() {
    ::close(buffered_);
    if (direct_ >= 0) ::close(direct_);
  }

  BatchRead read(std::uint64_t offset, std::span<std::byte> target) const {
    return {.buffered_descriptor = buffered_, .direct_descriptor = direct_, .offset = offset, .bytes = target};
  }
  bool holds(const BatchRead& read) const {
    return std::memcmp(read.bytes.data(), bytes_.data() + read.offset, read.bytes.size()) == 0;
  }
  bool can_be_direct() const { return direct_ >= 0; }
  void leave_page_cache() const { ::posix_fadvise(buffered_, 0, 0, POSIX_FADV_DONTNEED); }
  std::size_t cached_pages() const {
    const std::size_t pages = (kFileBytes + kPageBytes - 1) / kPageBytes;
    std::vector<unsigned char> states(pages);
    void* mapped = ::mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, buffered_, 0);
    EXPECT_EQ(::mincore(mapped, kFileBytes, states.data()), 0);
    ::munmap(mapped, kFileBytes);
    return static_cast<std::size_t>(std::count_if(states.begin(), states.end(), [](auto state) { return state & 1; }));
  }

 private:
  std::vector<std::byte> bytes_;
  int buffered_ = -1;
  int direct_ = -1;
};

inline const KnownFile& known_file() {
  static const KnownFile file;
  return file;
}

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, FreeMemory>;

inline Memory allocate(std::size_t bytes) {
  const std::size_t pages = (bytes + kPageBytes - 1) / kPageBytes + 1;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, pages * kPageBytes));
  std::memset(memory, 0xee, pages * kPageBytes);
  return Memory(memory);
}

// Runs of reads that follow each other, of any size and alignment or of whole pages.
class RandomBatch {
 public:
  RandomBatch(const KnownFile& file, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::size_t run = 1 + random() % 6; run > 0; --run) {
      const std::size_t unit = random() % 2 == 0 ? kPageBytes : 1;
      const std::size_t most = random() % 3 == 0 ? 2 * kPieceBytes : 5 * kPageBytes;
      const std::size_t shift = unit == 1 ? random() % kPageBytes : 0;
      std::uint64_t offset = random() % kFileBytes / unit * unit;
      for (std::size_t read = 1 + random() % 20; read > 0; --read) {
        const std::size_t bytes = (1 + random() % most + unit - 1) / unit * unit;
        if (offset + bytes > kFileBytes) break;
        memory_.push_back(allocate(shift + bytes));
        reads.push_back(file.read(offset, {memory_.back().get() + shift, bytes}));
        offset += bytes;
        if (random() % 8 == 0) offset += unit;
      }
    }
  }

  std::vector<BatchRead> reads;

 private:
  std::vector<Memory> memory_;
};

}  // namespace tiercel
