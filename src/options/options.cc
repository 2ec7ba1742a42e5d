#include "tiercel/options.h"

#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/device_name.h"
#include "options/option_table.h"

namespace tiercel {
namespace {

constexpr std::string_view kCachePrefix = "cache.";

bool is_lossy(Codec codec) { return codec == Codec::Int8 || codec == Codec::Int4; }

Status check_capacity(std::string_view key, std::size_t capacity_bytes) {
  if (capacity_bytes > 0) return {};
  return Status::invalid_argument(fmt::format("{} is 0; give a size such as 2GiB, at least one block", key));
}

// A tier that is there, and rounds to codes of its own.
std::optional<std::pair<std::string_view, Codec>> lossy_tier(const KvCacheOptions& cache) {
  if (cache.memory_tier_bytes > 0 && is_lossy(cache.memory_tier_codec)) {
    return std::pair("memory_tier_codec", cache.memory_tier_codec);
  }
  if (!cache.disk_dir.empty() && is_lossy(cache.disk_codec)) return std::pair("disk_codec", cache.disk_codec);
  return std::nullopt;
}

Status check_kv_dtype(const EngineOptions& options) {
  if (options.cache.kv_dtype != KvDType::Int8) return {};
  if (const auto tier = lossy_tier(options.cache)) {
    return Status::invalid_argument(
        fmt::format("cache.{} is {}, and cache.kv_dtype is int8; give raw or lossless: KV is of 8 bits already, and a "
                    "tier keeps it "
                    "as it is",
                    tier->first, to_string(tier->second)));
  }
  return {};
}

Status check_device(const EngineOptions& options) {
  const std::optional<DeviceName> device = parse_device(options.device);
  if (!device) {
    return Status::invalid_argument(fmt::format("device is \"{}\"; give cpu, cuda or cuda:N", options.device));
  }
  if (!device->is_gpu) return check_capacity("cache.capacity_bytes", options.cache.capacity_bytes);
  if (options.cache.kv_dtype == KvDType::Int8) {
    return Status::invalid_argument(fmt::format(
        "device is {}, and cache.kv_dtype is int8; give auto: KV of 8 bits is for CPUs yet", options.device));
  }
  constexpr std::uint32_t kMostExactRanks = 2;  // a sum of more is in an order that depends on where it is in a step
  const std::uint32_t most = kMostExactRanks * options.ranks.pipeline;
  if (!options.deterministic || options.ranks.size <= most) return {};
  return Status::invalid_argument(fmt::format(
      "device is {}, deterministic is true and ranks.size is {}; give at most {} ranks{}: NCCL adds up more "
      "in an order that depends on the batch",
      options.device, options.ranks.size, most, options.ranks.pipeline > 1 ? ", 2 in each stage" : ""));
}

Status check_replicas(const EngineOptions& options) {
  if (options.replicas == 1) return {};
  if (options.ranks.size > 1) {
    return Status::invalid_argument(
        fmt::format("replicas is {}, and ranks.size is {}; give one of them: replicas are not shared by ranks yet",
                    options.replicas, options.ranks.size));
  }
  if (!options.cache.record_trace.empty()) {
    return Status::invalid_argument(
        fmt::format("replicas is {}, and cache.record_trace is given; give one of them: a trace is of one cache",
                    options.replicas));
  }
  return {};
}

Status check_ranks(const EngineOptions& options) {
  const RankOptions& ranks = options.ranks;
  if (ranks.size % ranks.pipeline != 0) {
    return Status::invalid_argument(fmt::format(
        "ranks.pipeline is {}, and ranks.size is {}; give a size that is a multiple: each stage has as many "
        "ranks",
        ranks.pipeline, ranks.size));
  }
  if (ranks.rank >= ranks.size) {
    return Status::invalid_argument(
        fmt::format("ranks.rank is {}; give 0 to {}, since ranks.size is {}", ranks.rank, ranks.size - 1, ranks.size));
  }
  if (ranks.size == 1) return {};
  if (ranks.address.empty()) {
    return Status::invalid_argument(
        fmt::format("ranks.address is empty; give host:port of rank 0, since ranks.size is {}", ranks.size));
  }
  return {};
}

}  // namespace

Status KvCacheOptions::validate() const {
  EngineOptions engine;
  engine.cache = *this;
  for (const OptionField& field : option_fields()) {
    if (!field.key.starts_with(kCachePrefix)) continue;
    TIERCEL_RETURN_IF_ERROR(field.check(engine, field.key.substr(kCachePrefix.size())));
  }
  return check_capacity("capacity_bytes", capacity_bytes);
}

Status EngineOptions::validate() const {
  if (model.empty()) return Status::invalid_argument("model is empty; give the path of a GGUF file");
  for (const OptionField& field : option_fields()) TIERCEL_RETURN_IF_ERROR(field.check(*this, field.key));
  if (max_batch_tokens < max_batch_sequences) {
    return Status::invalid_argument(
        fmt::format("max_batch_tokens is {}; give at least max_batch_sequences, which is {}", max_batch_tokens,
                    max_batch_sequences));
  }
  TIERCEL_RETURN_IF_ERROR(check_ranks(*this));
  TIERCEL_RETURN_IF_ERROR(check_device(*this));
  TIERCEL_RETURN_IF_ERROR(check_replicas(*this));
  TIERCEL_RETURN_IF_ERROR(check_kv_dtype(*this));
  const auto lossy = lossy_tier(cache);
  if (deterministic && lossy) {
    return Status::invalid_argument(
        fmt::format("cache.{} is {}; give raw or lossless: deterministic needs back every bit", lossy->first,
                    to_string(lossy->second)));
  }
  return {};
}

}  // namespace tiercel
