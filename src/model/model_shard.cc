#include "model/model_shard.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

namespace tiercel {
namespace {

// Columns that are quantised together, rows that kernels like to have together.
constexpr std::uint32_t kUnit = 32;

// Part `index` of `count` things in `parts` runs, of which the first have one more where they are not all equal.
ModelShard::Range part_of(std::uint32_t count, std::uint32_t parts, std::uint32_t index) {
  const std::uint32_t each = count / parts, more = count % parts;
  return {.first = index * each + std::min(index, more), .count = each + (index < more ? 1 : 0)};
}

// In units of 32, what is left over with the last.
ModelShard::Range part_in_units(std::uint32_t count, std::uint32_t parts, std::uint32_t index) {
  const ModelShard::Range units = part_of(count / kUnit, parts, index);
  return {.first = units.first * kUnit,
          .count = index + 1 == parts ? count - units.first * kUnit : units.count * kUnit};
}

// What the ranks of one stage share: everything in a layer, and the head.
Status share_stage(const ModelShape& shape, ModelShard& shard) {
  const std::uint32_t size = shard.stage_ranks(), place = shard.place();
  if (size == 1) return {};
  const std::uint32_t group = shape.heads / shape.kv_heads;
  const std::uint32_t most = std::min({shape.heads, shape.feed_forward / kUnit, shape.vocabulary / kUnit});
  if (size > most) {
    const std::string each = shard.stages > 1 ? fmt::format(" in each of {} stages", shard.stages) : "";
    return Status::invalid_argument(
        fmt::format("ranks are {}{}; this model has parts for {} at most ({} query heads, {} feed-forward rows); give "
                    "fewer ranks",
                    size, each, most, shape.heads, shape.feed_forward));
  }
  if (shape.head_dim % kUnit != 0) {
    return Status::invalid_argument(
        fmt::format("heads of this model have size {}; only multiples of {} can be shared by ranks: give 1 rank{}",
                    shape.head_dim, kUnit, shard.stages > 1 ? " a stage" : ""));
  }
  shard.feed_forward = part_in_units(shape.feed_forward, size, place);
  if (shard.is_last_stage()) shard.vocabulary = part_in_units(shape.vocabulary, size, place);
  if (size <= shape.kv_heads) {
    shard.kv_heads = part_of(shape.kv_heads, size, place);
    shard.heads = {.first = shard.kv_heads.first * group, .count = shard.kv_heads.count * group};
    return {};
  }
  // Each KV head has some ranks, the first of them one more; these share its query heads.
  std::uint32_t kv_head = 0;
  ModelShard::Range sharing = part_of(size, shape.kv_heads, kv_head);
  while (place >= sharing.first + sharing.count) sharing = part_of(size, shape.kv_heads, ++kv_head);
  const ModelShard::Range heads = part_of(group, sharing.count, place - sharing.first);
  shard.kv_heads = {.first = kv_head, .count = 1};
  shard.heads = {.first = kv_head * group + heads.first, .count = heads.count};
  return {};
}

}  // namespace

Result<ModelShard> shard_model(const ModelShape& shape, std::uint32_t rank, std::uint32_t size, std::uint32_t stages) {
  if (stages == 0 || size % stages != 0) {
    return Status::invalid_argument(
        fmt::format("{} ranks are no {} stages of as many each; give a multiple", size, stages));
  }
  ModelShard shard{.rank = rank,
                   .size = size,
                   .stages = stages,
                   .layers = {0, shape.layers},
                   .heads = {0, shape.heads},
                   .kv_heads = {0, shape.kv_heads},
                   .feed_forward = {0, shape.feed_forward},
                   .vocabulary = {0, shape.vocabulary}};
  if (stages > 1) {
    if (stages > shape.layers) {
      return Status::invalid_argument(
          fmt::format("ranks.pipeline is {}; this model has {} layers; give fewer stages", stages, shape.layers));
    }
    shard.layers = part_of(shape.layers, stages, shard.stage());
    if (!shard.is_last_stage()) shard.vocabulary = {};
  }
  TIERCEL_RETURN_IF_ERROR(share_stage(shape, shard));
  return shard;
}

}  // namespace tiercel
