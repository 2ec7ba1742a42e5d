// The content of one file, as processes see it and as a disk that loses power may have it.
//
// What was not synced reaches the disk in any order, 512 bytes at a time: after the loss of power each such sector is
// as it was after any of the writes since, or as it was last synced. The size, which a file system keeps in its
// journal, is any of those it had since. What a failed sync left out stays out of later ones until it is written anew,
// as in Linux, which takes such pages for clean.
//
// Thread-safety: none.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <vector>

namespace tiercel {

class SimulatedFile {
 public:
  static constexpr std::size_t kSectorBytes = 512;

  const std::vector<std::byte>& bytes() const { return bytes_; }

  void write(std::uint64_t offset, std::span<const std::byte> bytes);
  void truncate(std::uint64_t size);
  void sync();
  void fail_sync();
  // Whether a sync that failed left something out that was not written anew.
  bool has_given_up() const;

  // As after the loss of power.
  SimulatedFile after_crash(std::mt19937_64& random) const;
  // Takes the last write back from its byte `kept` on. Nothing, where something else came after it.
  void cut_last_write(std::size_t kept);
  std::size_t last_write_bytes() const { return overwritten_.size(); }

 private:
  using Sector = std::array<std::byte, kSectorBytes>;
  struct Unsynced {
    std::vector<Sector> versions = {};  // after each write
    bool given_up = false;              // by a sync that failed
  };

  Sector sector(std::uint64_t index) const;
  static void put(std::vector<std::byte>& bytes, std::uint64_t index, const Sector& sector);
  // Bytes from `begin` to `end` changed.
  void touch(std::uint64_t begin, std::uint64_t end);
  void resize(std::uint64_t size);

  std::vector<std::byte> bytes_;
  std::vector<std::byte> synced_bytes_;
  std::map<std::uint64_t, Unsynced> unsynced_;  // by sector
  std::vector<std::uint64_t> unsynced_sizes_;   // in this order
  // What the last write changed.
  std::uint64_t last_write_offset_ = 0;
  std::uint64_t size_before_ = 0;
  std::vector<std::byte> overwritten_;
};

}  // namespace tiercel
