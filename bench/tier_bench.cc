// What the tiers below the hot arena cost and save: codecs, and host memory as a tier.
//
// KV of a real model comes from the file named by TIERCEL_KV_DUMP: f32, [layer][K|V][kv_head][token][head_dim], of the
// shape of SmolLM2-135M (30 layers, 3 KV heads of 64 values), for as many tokens as there are. Without it, KV is made
// up with channels of widely different spread, and each benchmark's label says so.
//
// Speeds are of decoded KV, beside memcpy of the same blocks in the same run. `left` is what remains of the size.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kv/block_arena.h"
#include "tier/codec.h"
#include "tier/reading_team.h"
#include "tiercel/tier_store.h"

namespace tiercel {
namespace {

constexpr KvLayout layout_of(DType dtype) {
  return {.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = dtype};
}
constexpr std::size_t kRows = 30 * 2 * 3;

struct Kv {
  std::vector<float> values;  // as in the dump
  std::size_t tokens = 0;
  bool real = false;
};

Kv made_up_kv() {
  Kv kv{.values = {}, .tokens = 512};
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> spread(64), centre(64);
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t i = 0; i < 64; ++i) {
      spread[i] = std::exp(0.6f * normal(random));
      centre[i] = row / 3 % 2 == 0 ? 2 * spread[i] * normal(random) : 0;  // K has constant parts, V does not
    }
    for (std::size_t token = 0; token < kv.tokens; ++token) {
      for (std::size_t i = 0; i < 64; ++i) kv.values.push_back(centre[i] + spread[i] * normal(random));
    }
  }
  return kv;
}

const Kv& test_kv() {
  static const Kv kv = [] {
    const char* path = std::getenv("TIERCEL_KV_DUMP");
    if (path == nullptr) return made_up_kv();
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) std::fprintf(stderr, "tier_bench: cannot open %s\n", path), std::exit(1);
    Kv read{.values = {}, .real = true};
    std::fseek(file, 0, SEEK_END);
    read.values.resize(static_cast<std::size_t>(std::ftell(file)) / sizeof(float));
    std::rewind(file);
    if (std::fread(read.values.data(), sizeof(float), read.values.size(), file) != read.values.size()) std::exit(1);
    std::fclose(file);
    read.tokens = read.values.size() / (kRows * 64);
    return read;
  }();
  return kv;
}

std::uint16_t bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Rounded to nearest in f32's own bits; KV is neither tiny nor huge.
std::uint16_t f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  if (magnitude < 0x38800000u) return static_cast<std::uint16_t>(sign | std::lrint(std::fabs(value) * 0x1p24f));
  return static_cast<std::uint16_t>(sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

using Blocks = std::vector<std::vector<std::byte>>;

const Blocks& test_blocks(DType dtype) {
  static Blocks all[3];
  Blocks& blocks = all[static_cast<std::size_t>(dtype)];
  const KvLayout layout = layout_of(dtype);
  for (std::size_t first = 0; blocks.size() < test_kv().tokens / layout.block_tokens; first += layout.block_tokens) {
    std::vector<std::byte> block;
    block.reserve(layout.block_bytes());
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t i = 0; i < layout.head_stride(); ++i) {
        const float value = test_kv().values[(row * test_kv().tokens + first) * layout.head_dim + i];
        const std::uint32_t bits = dtype == DType::F32   ? std::bit_cast<std::uint32_t>(value)
                                   : dtype == DType::F16 ? f16(value)
                                                         : bf16(value);
        for (std::size_t b = 0; b < size_of(dtype); ++b) block.push_back(static_cast<std::byte>(bits >> 8 * b));
      }
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

void report(benchmark::State& state, DType dtype, std::size_t blocks_per_iteration) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * blocks_per_iteration) *
                          static_cast<std::int64_t>(layout_of(dtype).block_bytes()));
  state.SetLabel(test_kv().real ? "KV of a model" : "made-up KV");
}

void copy(benchmark::State& state, DType dtype) {
  const Blocks& blocks = test_blocks(dtype);
  std::vector<std::byte> target(blocks[0].size());
  for (auto _ : state) {
    for (const auto& block : blocks) {
      std::memcpy(target.data(), block.data(), block.size());
      benchmark::ClobberMemory();
    }
  }
  report(state, dtype, blocks.size());
}

void encode(benchmark::State& state, Codec codec, DType dtype) {
  const Blocks& blocks = test_blocks(dtype);
  const auto coder = make_codec(codec, layout_of(dtype)).value();
  const auto workspace = coder->make_workspace();
  std::vector<std::byte> encoded(coder->max_encoded_bytes());
  std::size_t stored_bytes = 0;
  for (auto _ : state) {
    stored_bytes = 0;
    for (const auto& block : blocks) stored_bytes += coder->encode(block, encoded, *workspace);
  }
  report(state, dtype, blocks.size());
  state.counters["left"] =
      static_cast<double>(stored_bytes) / static_cast<double>(blocks.size() * layout_of(dtype).block_bytes());
}

void decode(benchmark::State& state, Codec codec, DType dtype) {
  const Blocks& blocks = test_blocks(dtype);
  const auto coder = make_codec(codec, layout_of(dtype)).value();
  const auto workspace = coder->make_workspace();
  Blocks encoded;
  for (const auto& block : blocks) {
    encoded.emplace_back(coder->max_encoded_bytes());
    encoded.back().resize(coder->encode(block, encoded.back(), *workspace));
  }
  std::vector<std::byte> target(blocks[0].size());
  for (auto _ : state) {
    for (const auto& block : encoded) {
      if (!coder->decode(block, target, *workspace).ok()) std::abort();
    }
  }
  report(state, dtype, blocks.size());
  // How far lossy codecs are off, as a share of the root mean square.
  if (dtype == DType::BF16) {
    double off = 0, all = 0;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      if (!coder->decode(encoded[b], target, *workspace).ok()) std::abort();
      for (std::size_t i = 0; i < target.size(); i += 2) {
        std::uint16_t now, was;
        std::memcpy(&now, target.data() + i, 2);
        std::memcpy(&was, blocks[b].data() + i, 2);
        const double x = std::bit_cast<float>(std::uint32_t{was} << 16);
        const double y = std::bit_cast<float>(std::uint32_t{now} << 16);
        off += (x - y) * (x - y);
        all += x * x;
      }
    }
    state.counters["error"] = std::sqrt(off / all);
  }
}

// A memory tier with `count` blocks of the test's, and what stands for them.
struct FilledTier {
  FilledTier(Codec codec, DType dtype, std::size_t capacity_bytes, std::size_t count)
      : store(memory_tier({.capacity_bytes = capacity_bytes, .codec = codec}).value()), tokens(32) {
    if (!store->open(layout_of(dtype), {}).ok()) std::abort();
    const Blocks& blocks = test_blocks(dtype);
    for (std::uint64_t i = 0; i < count; ++i) {
      const TierRecord record{.key = {i, i}, .parent = {}, .tokens = tokens, .bytes = blocks[i % blocks.size()]};
      if (!store->write({&record, 1}).ok()) std::abort();
    }
  }
  std::shared_ptr<TierStore> store;
  std::vector<TokenId> tokens;
};

// 1 GiB of KV, so that it is read from memory and not from the processor's caches.
constexpr std::size_t kManyBytes = std::size_t{1} << 30;
constexpr std::size_t kBatchBlocks = 8;  // as the tier manager's worker
// A hot arena that stays in the processor's caches, and one that does not.
constexpr std::size_t kFewBatches = 2, kManyBatches = 64;

// Batch after batch from a store into a hot arena of `target_batches`.
struct Promotion {
  Promotion(Codec codec, DType dtype, std::size_t target_batches)
      : bytes(layout_of(dtype).block_bytes()),
        count(kManyBytes / bytes / kBatchBlocks * kBatchBlocks),
        target_blocks(target_batches * kBatchBlocks),
        tier(codec, dtype, kManyBytes + kManyBytes / 8, count),
        target(BlockArena::reserve(target_blocks, bytes).value()) {
    std::memset(target.block(0), 1, target_blocks * bytes);
  }

  std::span<std::byte> target_of(std::size_t block) const {
    return {target.block(static_cast<BlockId>(block % target_blocks)), bytes};
  }

  void promote_batch() {
    std::vector<TierRead> reads;
    for (std::size_t i = 0; i < kBatchBlocks; ++i, ++next) {
      reads.push_back({.key = {next, next}, .parent = {}, .tokens = tier.tokens, .bytes = target_of(next)});
    }
    tier.store->read(reads);
    for (const TierRead& read : reads) {
      if (!read.status.ok()) std::abort();
    }
    next %= count;
  }

  const std::size_t bytes, count, target_blocks;
  const FilledTier tier;
  const BlockArena target;
  std::uint64_t next = 0;
};

void promote(benchmark::State& state, Codec codec, DType dtype) {
  Promotion promotion(codec, dtype, kFewBatches);
  for (auto _ : state) promotion.promote_batch();
  report(state, dtype, kBatchBlocks);
}

// Promotions of raw blocks in turn with plain copies: as many blocks at a time, by as many threads (memcpy), from and
// to memory of the same kind and size. So whatever else the machine does meets both. `of_memcpy` is the ratio of the
// medians. Into `memory`, as in an engine, what is written must go there; `cached` is 12 MB, which a large cache takes.
void promote_beside_memcpy(benchmark::State& state, DType dtype, std::size_t target_batches) {
  using Clock = std::chrono::steady_clock;
  Promotion promotion(Codec::Raw, dtype, target_batches);
  const std::size_t bytes = promotion.bytes;
  const auto source = BlockArena::reserve(promotion.count, bytes).value();
  std::memset(source.block(0), 1, promotion.count * bytes);
  const auto target = BlockArena::reserve(promotion.target_blocks, bytes).value();
  std::memset(target.block(0), 1, promotion.target_blocks * bytes);
  const std::unique_ptr<ThreadTeam> team = reading_team();
  std::size_t next = 0;
  const auto copy_batch = [&] {
    team->run(kBatchBlocks, [&](std::size_t i, std::size_t) {
      std::memcpy(target.block(static_cast<BlockId>((next + i) % promotion.target_blocks)),
                  source.block(static_cast<BlockId>(next + i)), bytes);
    });
    benchmark::ClobberMemory();
    next = (next + kBatchBlocks) % promotion.count;
  };
  // A few at a time, so that each finds its threads awake.
  constexpr int kBatches = 8;
  std::vector<double> promoted_s, copied_s;
  const auto time = [&](std::vector<double>& taken_s, const auto& batch) {
    for (int i = 0; i < kBatches; ++i) {
      const auto start = Clock::now();
      batch();
      if (i > 0) taken_s.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  };
  for (auto _ : state) {
    time(promoted_s, [&] { promotion.promote_batch(); });
    time(copied_s, copy_batch);
  }
  const auto median = [](std::vector<double>& values) {
    std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
  };
  const double batch_gb = static_cast<double>(kBatchBlocks * bytes) / 1e9;
  const double promoted = median(promoted_s), copied = median(copied_s);
  state.counters["promoted_GB_per_s"] = batch_gb / promoted;
  state.counters["memcpy_GB_per_s"] = batch_gb / copied;
  state.counters["of_memcpy"] = copied / promoted;
}

void demote(benchmark::State& state, Codec codec, DType dtype) {
  const std::size_t bytes = layout_of(dtype).block_bytes(), count = kManyBytes / bytes / 4;
  const FilledTier tier(codec, dtype, kManyBytes / 4, 4 * count);  // full, and all its memory used before
  const Blocks& blocks = test_blocks(dtype);
  std::uint64_t next = 4 * count;
  for (auto _ : state) {
    const TierRecord record{
        .key = {next, next}, .parent = {}, .tokens = tier.tokens, .bytes = blocks[next % blocks.size()]};
    if (!tier.store->write({&record, 1}).ok()) std::abort();
    ++next;
  }
  report(state, dtype, 1);
  // How many bare blocks of 2 bytes per value there would be room for.
  const TierStats stats = tier.store->stats();
  state.counters["gain"] = static_cast<double>(stats.stored_blocks) *
                           static_cast<double>(layout_of(DType::BF16).block_bytes()) /
                           static_cast<double>(stats.capacity_bytes);
}

const int registered = [] {
  for (const DType dtype : {DType::BF16, DType::F16, DType::F32}) {
    const std::string type(to_string(dtype));
    benchmark::RegisterBenchmark(("memcpy/" + type).c_str(), copy, dtype)->Unit(benchmark::kMillisecond);
    for (const Codec codec : {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4}) {
      const std::string name = std::string(to_string(codec)) + "/" + type;
      benchmark::RegisterBenchmark(("encode/" + name).c_str(), encode, codec, dtype)->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(("decode/" + name).c_str(), decode, codec, dtype)->Unit(benchmark::kMillisecond);
    }
  }
  for (const DType dtype : {DType::BF16, DType::F16}) {
    const std::string type(to_string(dtype));
    for (const auto& [target, batches] : {std::pair("cached", kFewBatches), std::pair("memory", kManyBatches)}) {
      benchmark::RegisterBenchmark(("promote_beside_memcpy/" + type + "/" + target).c_str(), promote_beside_memcpy,
                                   dtype, batches)
          ->Unit(benchmark::kMillisecond);
    }
    for (const Codec codec : {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4}) {
      const std::string name = std::string(to_string(codec)) + "/" + type;
      benchmark::RegisterBenchmark(("promote/" + name).c_str(), promote, codec, dtype)->Unit(benchmark::kMicrosecond);
      benchmark::RegisterBenchmark(("demote/" + name).c_str(), demote, codec, dtype)->Unit(benchmark::kMicrosecond);
    }
  }
  return 0;
}();

}  // namespace
}  // namespace tiercel
