// The cache with a memory and a disk tier at full load for minutes: nothing grows, nothing is wrong.
//
//   TIERCEL_SOAK_S=1800 soak_test     half an hour, as a nightly run does; 60 seconds otherwise
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tiercel/disk_tier.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

using Clock = std::chrono::steady_clock;

// 64 KiB a block.
constexpr KvLayout kLayout{.layers = 4, .kv_heads = 2, .head_dim = 64, .block_tokens = 32, .dtype = DType::F16};
constexpr std::size_t kDocuments = 300;
constexpr std::size_t kDiskBytes = std::size_t{256} << 20;

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t mix(std::uint64_t value) {
  value ^= value >> 31;
  return value * 0x9e3779b97f4a7c15u;
}

// What the bytes of a block say: it follows from all tokens up to its end.
void fill(std::span<std::byte> block, std::uint64_t word) {
  for (std::size_t at = 0; at < block.size(); at += sizeof word) {
    word = mix(word + 1);
    const std::uint64_t half = word & 0x3fff3fff3fff3fff;  // finite numbers, as KV has
    std::memcpy(block.data() + at, &half, sizeof half);
  }
}

bool holds(std::span<const std::byte> block, std::uint64_t word) {
  std::vector<std::byte> expected(block.size());
  fill(expected, word);
  return std::ranges::equal(block, expected);
}

TEST(Soak, NothingGrowsAndNothingIsWrong) {
  double seconds = 60;
  if (const char* text = std::getenv("TIERCEL_SOAK_S")) seconds = std::strtod(text, nullptr);
  const TemporaryDirectory directory;
  const std::string kv = directory / "kv";
  KvCacheOptions options{.capacity_bytes = std::size_t{24} << 20,
                         .memory_tier_bytes = std::size_t{32} << 20,
                         .tiers = {disk_tier({.directory = kv,
                                              .capacity_bytes = kDiskBytes,
                                              .segment_bytes = std::size_t{8} << 20,
                                              .codec = Codec::Lossless})
                                       .value()}};
  auto opened = std::make_unique<KvCache>(KvCache::open(options, kLayout, {}).value());
  KvCache& cache = *opened;
  options.tiers.clear();

  std::atomic<std::uint64_t> requests = 0, wrong = 0, matched = 0;
  std::atomic<bool> ends = false;
  const auto work = [&](std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<TokenId> tokens;
    while (!ends) {
      // Some documents are asked for much more often than others.
      const auto document = static_cast<std::uint64_t>(
          static_cast<double>(kDocuments) * std::pow(std::uniform_real_distribution<double>(0, 1)(random), 3));
      std::mt19937_64 words(document);
      tokens.resize(32 * (4 + words() % 24));
      for (TokenId& token : tokens) token = static_cast<TokenId>(words() % 50'000);
      for (int i = 0; i < 40; ++i) tokens.push_back(static_cast<TokenId>(random() % 50'000));
      ExpectedPrompt expected = cache.expect(tokens, {});
      while (expected.in_flight()) std::this_thread::sleep_for(std::chrono::microseconds(200));
      auto lease = cache.admit(tokens, {.max_tokens = tokens.size(), .partial_blocks = false});
      expected = ExpectedPrompt();
      if (!lease.ok()) continue;
      if (!lease->grow(tokens.size()).ok()) ++wrong;
      std::uint64_t word = 0;
      for (std::size_t first = 0; first + 32 <= tokens.size(); first += 32) {
        for (std::size_t i = first; i < first + 32; ++i) word = mix(word + static_cast<std::uint64_t>(tokens[i]));
        const std::span<std::byte> block(cache.block(lease->block_table()[first / 32]), kLayout.block_bytes());
        if (first < lease->matched_tokens()) {
          if (!holds(block, word)) ++wrong;
        } else {
          fill(block, word);
        }
      }
      matched += lease->matched_tokens();
      lease->commit(std::span(tokens).subspan(lease->matched_tokens()));
      ++requests;
      if (random() % 2048 == 0) cache.invalidate(std::span(tokens).first(64));
    }
  };
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 2; ++seed) threads.emplace_back(work, seed);

  const auto start = Clock::now();
  const auto elapsed_s = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  std::size_t early_bytes = 0, warm_bytes = 0, most_bytes = 0, most_disk_bytes = 0;
  while (elapsed_s() < seconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    if (elapsed_s() < seconds / 10) early_bytes = resident_bytes();
    std::size_t disk_bytes = 0;
    std::error_code gone;
    for (const auto& file : std::filesystem::directory_iterator(kv)) disk_bytes += file.file_size(gone);
    most_disk_bytes = std::max(most_disk_bytes, gone ? 0 : disk_bytes);
    // What is pooled is taken when it is first needed; a third of the time is enough for that.
    (elapsed_s() < seconds / 3 ? warm_bytes : most_bytes) =
        std::max(elapsed_s() < seconds / 3 ? warm_bytes : most_bytes, resident_bytes());
  }
  ends = true;
  for (std::thread& thread : threads) thread.join();
  const KvCacheStats stats = cache.stats();
  std::printf(
      "%.0f s: %llu requests, %llu tokens matched, resident %zu KiB at a tenth, %zu, %zu; disk at most %zu KiB\n",
      seconds, static_cast<unsigned long long>(requests), static_cast<unsigned long long>(matched), early_bytes >> 10,
      warm_bytes >> 10, most_bytes >> 10, most_disk_bytes >> 10);
  for (const KvTierStats& tier : stats.tiers) {
    std::printf("%s: %llu blocks loaded, %llu stored, %llu evicted\n", tier.name.c_str(),
                static_cast<unsigned long long>(tier.loaded_blocks),
                static_cast<unsigned long long>(tier.stored_blocks),
                static_cast<unsigned long long>(tier.store.evicted_blocks));
    EXPECT_GT(tier.loaded_blocks, 0u);
    EXPECT_EQ(tier.store.corrupt_blocks, 0u);
    EXPECT_EQ(tier.errors, 0u);
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(requests, 1000u);
  EXPECT_LE(most_disk_bytes, kDiskBytes);
  EXPECT_LE(static_cast<double>(most_bytes), 1.02 * static_cast<double>(warm_bytes));
  opened.reset();  // before its directory goes
}

}  // namespace
}  // namespace tiercel
