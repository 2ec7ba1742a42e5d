#include "tiercel/options.h"

#include <cmath>
#include <string_view>

#include <fmt/format.h>

namespace tiercel {
namespace {

template <class Value, class Range>
Status out_of_range(std::string_view field, const Value& value, const Range& range) {
  return Status::invalid_argument(fmt::format("{} is {}; give {}", field, value, range));
}

}  // namespace

Status KvCacheOptions::validate() const {
  if (capacity_bytes == 0) return out_of_range("capacity_bytes", capacity_bytes, "at least the bytes of one block");
  if (tier_deadline_ms == 0) return out_of_range("tier_deadline_ms", tier_deadline_ms, "at least 1");
  if (tier_writes != WritePolicy::EveryBlock && tier_writes != WritePolicy::SeenTwice) {
    return out_of_range("tier_writes", static_cast<unsigned>(tier_writes),
                        "WritePolicy::EveryBlock (0) or WritePolicy::SeenTwice (1)");
  }
  switch (block_tokens) {
    case 8:
    case 16:
    case 32:
    case 64:
    case 128: return {};
    default: return out_of_range("block_tokens", block_tokens, "8, 16, 32, 64 or 128");
  }
}

Status EngineOptions::validate() const {
  if (model.empty()) return Status::invalid_argument("model is empty; give the path of a GGUF file");
  if (const Status status = cache.validate(); !status.ok()) return {status.code(), "cache." + status.message()};
  if (compute != Compute::Fast && compute != Compute::Precise) {
    return out_of_range("compute", static_cast<unsigned>(compute), "Compute::Fast (0) or Compute::Precise (1)");
  }
  const auto is_lossy = [](Codec codec) { return codec == Codec::Int8 || codec == Codec::Int4; };
  const bool lossy_memory = cache.memory_tier_bytes > 0 && is_lossy(cache.memory_tier_codec);
  const bool lossy_disk = !cache.disk_dir.empty() && is_lossy(cache.disk_codec);
  if (deterministic && (lossy_memory || lossy_disk)) {
    const auto codec = to_string(lossy_memory ? cache.memory_tier_codec : cache.disk_codec);
    return out_of_range(lossy_memory ? "cache.memory_tier_codec" : "cache.disk_codec", codec,
                        "raw or lossless: deterministic needs back every bit");
  }
  if (threads > 256) return out_of_range("threads", threads, "0 (one per core) to 256");
  if (max_batch_sequences < 1 || max_batch_sequences > 4096) {
    return out_of_range("max_batch_sequences", max_batch_sequences, "1 to 4096");
  }
  if (max_batch_tokens < 32 || max_batch_tokens > 65536) {
    return out_of_range("max_batch_tokens", max_batch_tokens, "32 to 65536");
  }
  if (max_batch_tokens < max_batch_sequences) {
    return out_of_range("max_batch_tokens", max_batch_tokens,
                        fmt::format("at least max_batch_sequences, which is {}", max_batch_sequences));
  }
  if (max_queued_requests < 1) return out_of_range("max_queued_requests", max_queued_requests, "at least 1");
  if (!(target_step_ms >= 0) || !std::isfinite(target_step_ms)) {
    return out_of_range("target_step_ms", target_step_ms, "0 (automatic) or a finite number above it");
  }
  if (aging_ms < 1) return out_of_range("aging_ms", aging_ms, "at least 1");
  if (stats_window_ms < 60 || stats_window_ms > 86'400'000) {
    return out_of_range("stats_window_ms", stats_window_ms, "60 to 86400000");
  }
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    if (cpus[i] >= 4096) return out_of_range(fmt::format("cpus[{}]", i), cpus[i], "0 to 4095");
  }
  return {};
}

}  // namespace tiercel
