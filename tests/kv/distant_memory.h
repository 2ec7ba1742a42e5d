// Memory of KV blocks that tiers cannot reach themselves, as a GPU's: between it and the host every bit is turned over,
// so that whoever reads or writes a block without save() and load() is seen; so is who writes to host memory that is
// still copied from, or does not wait for that at all. May fail on demand.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kv/block_arena.h"

namespace tiercel {

class DistantMemory final : public BlockMemory {
 public:
  DistantMemory(std::size_t blocks, std::size_t block_bytes)
      : arena_(BlockArena::reserve(blocks, block_bytes).value()) {}

  static std::byte turn_over(std::byte byte) { return ~byte; }

  std::function<bool()> fails = [] { return false; };  // asked at each copy

  std::byte* block(BlockId id) const override { return arena_.block(id); }
  std::size_t blocks() const override { return arena_.blocks(); }
  std::size_t stride() const override { return arena_.stride(); }
  Status copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to, std::size_t tokens) const override {
    if (fails()) return Status::unavailable("injected");
    return arena_.copy_leading_tokens(layout, from, to, tokens);
  }
  bool populate(std::size_t, std::size_t) const override { return false; }
  bool is_host() const override { return false; }
  std::shared_ptr<std::byte> allocate_host(std::size_t bytes) const override { return arena_.allocate_host(bytes); }
  Status save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const override {
    if (fails()) return Status::unavailable("injected");
    for (const BlockId id : blocks) to = std::transform(block(id), block(id) + block_bytes, to, turn_over);
    return {};
  }
  Status load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const override {
    if (fails()) return Status::unavailable("injected");
    for (const BlockId id : blocks) {
      std::transform(from, from + block_bytes, block(id), turn_over);
      from += block_bytes;
    }
    return {};
  }

  Result<std::uint64_t> begin_load(const std::byte* from, std::size_t block_bytes,
                                   std::span<const BlockId> blocks) const override {
    TIERCEL_RETURN_IF_ERROR(load(from, block_bytes, blocks));
    const std::lock_guard lock(mutex_);
    under_way_[++loads_] = {from, std::vector<std::byte>(from, from + blocks.size() * block_bytes)};
    return loads_;
  }
  Status finish_load(std::uint64_t number) const override {
    const std::lock_guard lock(mutex_);
    const auto load = under_way_.find(number);
    if (load == under_way_.end()) return {};
    const auto& [from, bytes] = load->second;
    EXPECT_TRUE(std::ranges::equal(bytes, std::span(from, bytes.size()))) << "host memory was written too early";
    under_way_.erase(load);
    return {};
  }
  // By begin_load().
  std::uint64_t begun_loads() const {
    const std::lock_guard lock(mutex_);
    return loads_;
  }
  ~DistantMemory() override { EXPECT_TRUE(under_way_.empty()) << "host memory was given back too early"; }

 private:
  BlockArena arena_;
  mutable std::mutex mutex_;
  mutable std::uint64_t loads_ = 0;
  mutable std::map<std::uint64_t, std::pair<const std::byte*, std::vector<std::byte>>> under_way_;
};

}  // namespace tiercel
