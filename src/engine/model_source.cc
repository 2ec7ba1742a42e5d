#include "engine/model_source.h"

#include <algorithm>
#include <utility>

#include "engine/rank_messages.h"
#include "engine/rank_tiers.h"
#include "model/device_placement.h"
#include "model/model_shard.h"
#include "ranks/gloo_communicator.h"
#include "ranks/rank_links.h"
#include "ranks/tcp_communicator.h"

namespace tiercel {
namespace {

// Signs of life between ranks in the time that they wait for each other.
constexpr std::uint64_t kSignsInTimeout = 3;

}  // namespace

Result<std::unique_ptr<Communicator>> open_communicator(const RankOptions& ranks) {
  const CommunicatorOptions options{.address = ranks.address,
                                    .rank = ranks.rank,
                                    .size = ranks.size,
                                    .timeout_ms = ranks.open_timeout_ms,
                                    .open_timeout_ms = ranks.open_timeout_ms};
  return ranks.transport == RankTransport::Gloo ? open_gloo_communicator(options) : open_tcp_communicator(options);
}

Result<ModelSource> ModelSource::open(const EngineOptions& options, GgufFile file, const ModelShape& shape,
                                      std::uint32_t threads) {
  ModelSource source(std::move(file), {.compute = options.compute,
                                       .deterministic = options.deterministic,
                                       .threads = threads,
                                       .max_batch_tokens = options.max_batch_tokens,
                                       .max_logit_rows = options.max_batch_sequences + kScoringRows,
                                       .block_tokens = options.cache.block_tokens,
                                       .profile = options.profile_steps});
  const DeviceName device = parse_device(options.device).value_or(DeviceName());
  if (device.is_gpu) {
    source.on_gpu_ = true;
    source.device_options_ = {.device = device.number,
                              .compute = options.compute,
                              .deterministic = options.deterministic,
                              .max_batch_tokens = options.max_batch_tokens,
                              .max_sequences = options.max_batch_sequences,
                              .max_logit_rows = source.options_.max_logit_rows,
                              .context_tokens = options.context_tokens,
                              .block_tokens = options.cache.block_tokens};
    source.layout_ = device_llama_kv_layout(shape, source.device_options_);
    return source;
  }
  if (options.ranks.size > 1) TIERCEL_RETURN_IF_ERROR(source.find_ranks(options, shape));
  source.layout_ = llama_kv_layout(shape, source.options_);
  return source;
}

Status ModelSource::find_ranks(const EngineOptions& options, const ModelShape& shape) {
  auto shard = shard_model(shape, 0, options.ranks.size, options.ranks.pipeline);
  if (!shard.ok()) return shard.status();
  auto communicator = open_communicator(options.ranks);
  if (!communicator.ok()) return communicator.status();
  communicator_ = *std::move(communicator);
  rank_timeout_ms_ = options.ranks.timeout_ms;
  options_.shard = *shard;
  options_.communicator = communicator_.get();
  RankSettings settings{.timeout_ms = rank_timeout_ms_,
                        .max_batch_tokens = options_.max_batch_tokens,
                        .max_logit_rows = options_.max_logit_rows,
                        .block_tokens = options_.block_tokens,
                        .pipeline = options.ranks.pipeline,
                        .compute = options_.compute,
                        .deterministic = options_.deterministic,
                        .tiers = tier_settings_of(options.cache, llama_kv_layout(shape, options_).block_bytes())};
  TIERCEL_RETURN_IF_ERROR(share_settings(*communicator_, settings));
  auto links =
      link_with_first(*communicator_, options.ranks.address, settings.tiers.count(), options.ranks.open_timeout_ms);
  if (!links.ok()) return links.status();
  tier_links_ = *std::move(links);
  return {};
}

Result<std::unique_ptr<ModelRunner>> ModelSource::make_model(std::uint32_t threads) {
  if (on_gpu_) {
    auto placed = place_on_device(file_, device_options_);
    if (!placed.ok()) return placed.status();
    device_ = placed->device;
    return std::move(placed->model);
  }
  options_.threads = threads;
  if (!parameters_) {
    auto loaded = load_llama_parameters(std::move(file_), options_);
    if (!loaded.ok()) return loaded.status();
    parameters_ = *std::move(loaded);
  }
  auto model = make_llama(parameters_, options_);
  if (!model.ok() || !communicator_) return model;
  communicator_->set_timeout_ms(rank_timeout_ms_);
  auto ranked = std::make_unique<RankedModel>(std::move(communicator_), *std::move(model),
                                              std::max<std::uint64_t>(1, rank_timeout_ms_ / kSignsInTimeout));
  ranks_ = ranked.get();
  return std::unique_ptr<ModelRunner>(std::move(ranked));
}

Result<std::shared_ptr<const BlockMemory>> ModelSource::reserve_blocks(std::size_t capacity_bytes) {
  if (!on_gpu_) return std::shared_ptr<const BlockMemory>();
  return reserve_device_blocks(device_options_.device++, layout_, capacity_bytes);
}

Status ModelSource::share_tiers(KvCacheOptions& cache) {
  return ranks_ ? tiercel::share_tiers(cache, std::move(tier_links_), ranks_->progress()) : Status();
}

}  // namespace tiercel
