#include "engine/model_source.h"

#include <algorithm>
#include <utility>

#include "device/cuda_devices.h"
#include "device/nccl_communicator.h"
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

CommunicatorOptions communicator_options(const RankOptions& ranks, std::uint64_t timeout_ms) {
  return {.address = ranks.address,
          .rank = ranks.rank,
          .size = ranks.size,
          .timeout_ms = timeout_ms,
          .open_timeout_ms = ranks.open_timeout_ms};
}

// Ranks load their parts between operations, each at its own pace, so it waits as long as they may take to open.
Result<std::unique_ptr<Communicator>> open_communicator(const RankOptions& ranks) {
  const CommunicatorOptions options = communicator_options(ranks, ranks.open_timeout_ms);
  return ranks.transport == RankTransport::Gloo ? open_gloo_communicator(options) : open_tcp_communicator(options);
}

// Whether a rank can be on it.
Status check_gpu(int device) {
  TIERCEL_RETURN_IF_ERROR(find_cuda_device(device).status());
  return find_nccl();
}

}  // namespace

Result<ModelSource> ModelSource::open(const EngineOptions& options, GgufFile file, const ModelShape& shape) {
  const DeviceName device = parse_device(options.device).value_or(DeviceName());
  ModelSource source(std::move(file));
  source.on_gpu_ = device.is_gpu;
  source.device_options_.device = device.number;
  if (options.ranks.rank == 0) TIERCEL_RETURN_IF_ERROR(source.configure(options, shape));
  if (options.ranks.size > 1) TIERCEL_RETURN_IF_ERROR(source.find_ranks(options, shape));
  return source;
}

Status ModelSource::configure(const EngineOptions& options, const ModelShape& shape) {
  ModelShard shard;  // all of it
  if (options.ranks.size > 1) {
    auto part = shard_model(shape, options.ranks.rank, options.ranks.size, options.ranks.pipeline);
    if (!part.ok()) return part.status();
    shard = *part;
  }
  options_ = {.compute = options.compute,
              .kv_dtype = options.cache.kv_dtype,
              .deterministic = options.deterministic,
              .max_batch_tokens = options.max_batch_tokens,
              .max_logit_rows = options.max_batch_sequences + kScoringRows,
              .block_tokens = options.cache.block_tokens,
              .profile = options.profile_steps,
              .shard = shard};
  device_options_ = {.device = device_options_.device,
                     .compute = options.compute,
                     .deterministic = options.deterministic,
                     .max_batch_tokens = options.max_batch_tokens,
                     .max_sequences = options.max_batch_sequences,
                     .max_logit_rows = options_.max_logit_rows,
                     .context_tokens = options.context_tokens,
                     .block_tokens = options.cache.block_tokens,
                     .profile = options.profile_steps,
                     .shard = shard};
  rank_options_ = options.ranks;
  layout_ = on_gpu_ ? device_llama_kv_layout(shape, device_options_) : llama_kv_layout(shape, options_);
  return {};
}

Status ModelSource::find_ranks(EngineOptions options, const ModelShape& shape) {
  // The first rank says before anybody waits that it cannot; another one, when it can be heard.
  const Status usable = on_gpu_ ? check_gpu(device_options_.device) : Status();
  if (options.ranks.rank == 0) TIERCEL_RETURN_IF_ERROR(usable);
  auto communicator = open_communicator(options.ranks);
  if (!communicator.ok()) return communicator.status();
  communicator_ = *std::move(communicator);
  RankSettings settings = settings_of(options);
  if (options.ranks.rank == 0) settings.tiers = tier_settings_of(options.cache, layout_.block_bytes());
  TIERCEL_RETURN_IF_ERROR(share_settings(*communicator_, settings));
  TIERCEL_RETURN_IF_ERROR(compare_devices(*communicator_, on_gpu_, usable));
  if (options.ranks.rank > 0) {
    take_settings(settings, options);
    TIERCEL_RETURN_IF_ERROR(configure(options, shape));
  }
  tiers_ = settings.tiers;
  auto links = link_with_first(*communicator_, options.ranks.address, tiers_.count(), options.ranks.open_timeout_ms);
  if (!links.ok()) return links.status();
  tier_links_ = *std::move(links);
  return {};
}

Result<std::unique_ptr<ModelRunner>> ModelSource::make_host_model() {
  options_.communicator = communicator_.get();
  if (!parameters_) {
    auto loaded = load_llama_parameters(std::move(file_), options_);
    if (!loaded.ok()) return loaded.status();
    parameters_ = *std::move(loaded);
  }
  return make_llama(parameters_, options_);
}

Result<std::unique_ptr<ModelRunner>> ModelSource::make_device_model() {
  if (communicator_) {
    device_options_.open_communicator = [this](const CudaStream& stream) {
      return open_nccl_communicator(communicator_options(rank_options_, rank_options_.timeout_ms), *communicator_,
                                    stream);
    };
  }
  auto placed = place_on_device(file_, device_options_);
  if (!placed.ok()) return placed.status();
  device_ = placed->device;
  return std::move(placed->model);
}

Result<std::unique_ptr<ModelRunner>> ModelSource::make_model(std::uint32_t threads) {
  options_.threads = threads;
  auto model = on_gpu_ ? make_device_model() : make_host_model();
  if (!model.ok() || !communicator_) return model;
  communicator_->set_timeout_ms(rank_options_.timeout_ms);
  if (rank_options_.rank > 0) return model;
  auto ranked = std::make_unique<RankedModel>(std::move(communicator_), *std::move(model),
                                              std::max<std::uint64_t>(1, rank_options_.timeout_ms / kSignsInTimeout));
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
