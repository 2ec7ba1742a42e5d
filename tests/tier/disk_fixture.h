// A disk tier of small blocks in a directory of its own, and blocks whose bytes follow from their number.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/logging.h"
#include "tests/base/temporary_directory.h"
#include "tier/disk_store.h"

namespace tiercel {

// 256 bytes of KV; a record takes two pages.
inline constexpr KvLayout kDiskLayout{
    .layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 8, .dtype = DType::F16};
inline constexpr std::size_t kRecordBytes = 2 * disk::kPage;
inline constexpr Fingerprint kModel{{11, 22}};

// Block `number` of a path; path 0's first block follows the root key {0, 1}.
struct DiskBlock {
  explicit DiskBlock(std::uint64_t path_, std::uint64_t number_, std::uint64_t version = 0)
      : path(path_), number(number_), key(key_of(path_, number_)), parent(key_of(path_, number_ - 1)) {
    for (std::uint64_t i = 0; i < kDiskLayout.block_tokens; ++i) {
      tokens.push_back(static_cast<TokenId>(1000 * path + 10 * number + i));
    }
    std::mt19937_64 random(1'000'003 * path + 1009 * number + version);
    bytes.resize(kDiskLayout.block_bytes());
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  }
  static BlockKey key_of(std::uint64_t path, std::uint64_t number) {
    return {.low = (path << 32) + number, .high = number == 0 ? 1 : path ^ (number << 20)};
  }
  TierRecord record(std::uint64_t tenant = 5, std::uint64_t adapter_id = 0) const {
    return {.key = key,
            .parent = parent,
            .tenant = tenant,
            .adapter_id = adapter_id,
            .tokens = tokens,
            .bytes = bytes,
            .position = static_cast<std::uint32_t>(number - 1),
            .copyable = number % 2 == 0};
  }

  std::uint64_t path, number;
  BlockKey key, parent;
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;
};

inline Status write(TierStore& store, const DiskBlock& block, std::uint64_t tenant = 5, std::uint64_t adapter_id = 0) {
  const TierRecord record = block.record(tenant, adapter_id);
  return store.write({&record, 1});
}

// Ok only where everything of the block came back as it was written.
inline StatusCode read(TierStore& store, const DiskBlock& block, std::uint64_t tenant = 5,
                       std::uint64_t adapter_id = 0) {
  std::vector<std::byte> bytes(block.bytes.size());
  TierRead read{.key = block.key,
                .parent = block.parent,
                .tenant = tenant,
                .adapter_id = adapter_id,
                .tokens = block.tokens,
                .bytes = bytes};
  store.read({&read, 1});
  if (!read.status.ok()) return read.status.code();
  const bool right = bytes == block.bytes && read.copyable == (block.number % 2 == 0);
  return right ? StatusCode::Ok : StatusCode::Internal;
}

inline std::size_t leading(const TierStore& store, std::uint64_t path, std::uint64_t blocks) {
  std::vector<BlockKey> keys;
  for (std::uint64_t i = 1; i <= blocks; ++i) keys.push_back(DiskBlock::key_of(path, i));
  return store.leading(keys);
}

class DiskFixture : public testing::Test {
 protected:
  DiskFixture() {
    options.directory = directory / "kv";
    options.capacity_bytes = 64 * kRecordBytes;
    options.segment_bytes = 16 * kRecordBytes;
    log().set_level(spdlog::level::off);  // damage is what is tested
  }

  Result<std::unique_ptr<DiskStore>> try_open(const KvLayout& layout = kDiskLayout, const Fingerprint& model = kModel) {
    auto store = std::make_unique<DiskStore>(options, posix_file_system());
    TIERCEL_RETURN_IF_ERROR(store->open(layout, model));
    return store;
  }
  std::unique_ptr<DiskStore> open() { return try_open().value(); }

  std::vector<std::filesystem::path> segments() const {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(options.directory)) {
      if (entry.path().filename() != "LOCK") paths.push_back(entry.path());
    }
    std::ranges::sort(paths);
    return paths;
  }
  std::uintmax_t file_bytes() const {
    std::uintmax_t bytes = 0;
    for (const auto& path : segments()) bytes += std::filesystem::file_size(path);
    return bytes;
  }
  static std::string content(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void set_content(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  TemporaryDirectory directory;
  DiskTierOptions options;
};

}  // namespace tiercel
