// Tiny models on a GPU, emulated or not, with a cache over blocks there.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "device/device_block_memory.h"
#include "kv/kv_cache_state.h"
#include "model/device_llama.h"
#include "model/llama_config.h"
#include "tests/model/tiny_model.h"

namespace tiercel {

using Tokens = std::vector<TokenId>;
using Floats = std::vector<float>;

// With a sanitizer the emulator takes ten times as long.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline constexpr std::size_t kMostTokens = 64, kMostLogits = 24, kContext = 1024;

inline Tokens draw_tokens(std::uint32_t seed, std::size_t count, std::uint32_t vocabulary) {
  std::mt19937 random(seed);
  Tokens tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % vocabulary);
  return tokens;
}

// A tiny model on the GPU, with a cache over blocks there.
struct DeviceModel {
  // May change the options.
  using Load = std::function<std::unique_ptr<ModelRunner>(const GgufFile&, DeviceLlamaOptions&)>;
  static std::unique_ptr<ModelRunner> load_alone(const GgufFile& file, DeviceLlamaOptions& options) {
    return load_device_llama(file, options).value();
  }

  DeviceModel(const TinyModel& tiny, Compute compute, std::size_t blocks = 24, KvCacheOptions cache_options = {},
              bool deterministic = false, bool profile = false, const Load& load = load_alone) {
    const auto file = GgufFile::parse(as_bytes(tiny.bytes), "tiny").value();
    DeviceLlamaOptions options{.compute = compute,
                               .deterministic = deterministic,
                               .max_batch_tokens = kMostTokens,
                               .max_sequences = 8,
                               .max_logit_rows = kMostLogits,
                               .context_tokens = kContext,
                               .block_tokens = 16,
                               .profile = profile};
    runner = load(file, options);
    layout = device_llama_kv_layout(read_llama_config(file)->shape, options);
    // Tiers work when they are told to, and take no time.
    const KvCacheSeams seams{.tier_now_s = [] { return 1000.0; }, .background_thread = false};
    memory = DeviceBlockMemory::reserve(blocks, layout).value();
    runner->compute_over(*memory);
    auto opened = KvCacheState::open(cache_options, layout, runner->fingerprint(), {}, seams, memory);
    cache.emplace(std::move(opened).value());
  }

  void turn_tiers() {
    TierManager* tiers = KvCacheState::of(*cache).tiers();
    while (tiers != nullptr && tiers->run_one()) {
    }
  }

  // Computes tokens [first, last) in one step; the last one's logits. Nothing is committed.
  Result<Floats> step_of(const Lease& lease, const Tokens& tokens, std::size_t first, std::size_t last,
                         Arithmetic arithmetic) {
    const SequenceChunk chunk{.tokens = std::span(tokens).subspan(first, last - first),
                              .first_position = first,
                              .block_table = lease.block_table(),
                              .logits = Logits::Last,
                              .arithmetic = arithmetic};
    const auto rows = runner->step({&chunk, 1}, cache->block(0));
    if (!rows.ok()) return rows.status();
    return Floats(rows->begin(), rows->end());
  }

  // What `lease` lacks of `tokens`, in chunks of at most so many; the last logits.
  Floats compute(Lease& lease, const Tokens& tokens, std::size_t chunk_tokens, Arithmetic arithmetic) {
    EXPECT_TRUE(lease.grow(tokens.size()).ok());
    Floats logits;
    for (std::size_t first = lease.committed_tokens(); first < tokens.size();) {
      const std::size_t count = std::min(chunk_tokens, tokens.size() - first);
      const auto own = std::span(tokens).subspan(first, count);
      const SequenceChunk chunk{.tokens = own,
                                .first_position = first,
                                .block_table = lease.block_table(),
                                .logits = first + count == tokens.size() ? Logits::Last : Logits::None,
                                .arithmetic = arithmetic};
      const auto rows = runner->step({&chunk, 1}, cache->block(0));
      EXPECT_TRUE(rows.ok()) << rows.status().to_string();
      if (!rows.ok()) return {};
      logits.assign(rows->begin(), rows->end());
      lease.commit(own);
      first += count;
    }
    return logits;
  }
  Floats compute(const Tokens& tokens, std::size_t chunk_tokens, Arithmetic arithmetic = Arithmetic::Any) {
    auto lease = cache->admit(tokens, {.max_tokens = tokens.size(), .max_matched_tokens = 0}).value();
    return compute(lease, tokens, chunk_tokens, arithmetic);
  }

  KvLayout layout;
  std::unique_ptr<ModelRunner> runner;
  std::shared_ptr<const DeviceBlockMemory> memory;
  std::optional<KvCache> cache;
};

inline const TinyModel& small_model() {
  static const TinyModel model(
      Variant{.name = "Small", .heads = 2, .kv_heads = 1, .head_dim = 64, .rotated = 64, .type = TensorType::Q4_1});
  return model;
}

}  // namespace tiercel
