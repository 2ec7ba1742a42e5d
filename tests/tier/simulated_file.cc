#include "tests/tier/simulated_file.h"

#include <algorithm>
#include <cstring>

namespace tiercel {

SimulatedFile::Sector SimulatedFile::sector(std::uint64_t index) const {
  Sector sector{};
  const std::uint64_t begin = index * kSectorBytes;
  if (begin < bytes_.size()) {
    std::memcpy(sector.data(), bytes_.data() + begin, std::min<std::uint64_t>(kSectorBytes, bytes_.size() - begin));
  }
  return sector;
}

void SimulatedFile::put(std::vector<std::byte>& bytes, std::uint64_t index, const Sector& sector) {
  const std::uint64_t begin = index * kSectorBytes;
  if (begin >= bytes.size()) return;
  std::memcpy(bytes.data() + begin, sector.data(), std::min<std::uint64_t>(kSectorBytes, bytes.size() - begin));
}

void SimulatedFile::touch(std::uint64_t begin, std::uint64_t end) {
  if (begin == end) return;
  for (std::uint64_t index = begin / kSectorBytes; index <= (end - 1) / kSectorBytes; ++index) {
    Unsynced& unsynced = unsynced_[index];
    unsynced.versions.push_back(sector(index));
    unsynced.given_up = false;
  }
}

void SimulatedFile::resize(std::uint64_t size) {
  if (size == bytes_.size()) return;
  bytes_.resize(size);
  unsynced_sizes_.push_back(size);
}

void SimulatedFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const std::uint64_t end = offset + bytes.size();
  size_before_ = bytes_.size();
  last_write_offset_ = offset;
  resize(std::max<std::uint64_t>(bytes_.size(), end));
  overwritten_.assign(bytes_.data() + offset, bytes_.data() + end);
  std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
  touch(offset, end);
}

void SimulatedFile::truncate(std::uint64_t size) {
  overwritten_.clear();
  const std::uint64_t old_size = bytes_.size();
  resize(size);
  if (size < old_size) touch(size, old_size);  // zeros, where the file grows again
}

void SimulatedFile::sync() {
  overwritten_.clear();
  unsynced_sizes_.clear();
  synced_bytes_.resize(bytes_.size());
  std::erase_if(unsynced_, [&](const auto& entry) {
    if (entry.second.given_up) return false;
    put(synced_bytes_, entry.first, entry.second.versions.back());
    return true;
  });
}

void SimulatedFile::fail_sync() {
  overwritten_.clear();
  for (auto& [index, unsynced] : unsynced_) unsynced.given_up = true;
}

bool SimulatedFile::has_given_up() const {
  return std::ranges::any_of(unsynced_, [](const auto& entry) { return entry.second.given_up; });
}

SimulatedFile SimulatedFile::after_crash(std::mt19937_64& random) const {
  SimulatedFile found;
  found.bytes_ = bytes_;
  // Of five times, everything is there once: what is always half lost would hide what only that shows.
  if (const std::uint64_t lost_in_four = random() % 5; lost_in_four != 0) {
    const std::size_t size_choice = random() % (unsynced_sizes_.size() + 1);
    found.bytes_ = synced_bytes_;
    found.bytes_.resize(size_choice == 0 ? synced_bytes_.size() : unsynced_sizes_[size_choice - 1]);
    for (const auto& [index, unsynced] : unsynced_) {
      if (random() % 4 < lost_in_four) continue;
      put(found.bytes_, index, unsynced.versions[unsynced.versions.size() - 1 - random() % unsynced.versions.size()]);
    }
  }
  found.synced_bytes_ = found.bytes_;
  return found;
}

void SimulatedFile::cut_last_write(std::size_t kept) {
  if (kept >= overwritten_.size()) return;
  const std::uint64_t begin = last_write_offset_ + kept, end = last_write_offset_ + overwritten_.size();
  std::copy(overwritten_.begin() + static_cast<std::ptrdiff_t>(kept), overwritten_.end(),
            bytes_.begin() + static_cast<std::ptrdiff_t>(begin));
  touch(begin, end);
  // A write that keeps nothing has not made the file longer, not even up to its offset.
  resize(std::max(size_before_, kept == 0 ? 0 : begin));
  overwritten_.clear();
}

}  // namespace tiercel
