#include "model/llama_ranks.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

namespace tiercel {

Result<LlamaRanks> LlamaRanks::join(Communicator& communicator, const ModelShape& shape, const ModelShard& shard) {
  LlamaRanks ranks(communicator, shard);
  const std::uint32_t stage_ranks = shard.stage_ranks();
  for (std::uint32_t rank = shard.size - stage_ranks; rank < shard.size; ++rank) {
    const auto part = shard_model(shape, rank, shard.size, shard.stages);
    if (!part.ok()) return part.status();
    ranks.sources_.push_back({.rank = rank, .vocabulary = part->vocabulary});
  }
  if (shard.stages > 1 && stage_ranks > 1) {
    std::vector<std::uint32_t> members(stage_ranks);
    std::iota(members.begin(), members.end(), shard.stage() * stage_ranks);
    auto stage = communicator.group(members);
    if (!stage.ok()) return stage.status();
    ranks.stage_ = *std::move(stage);
  }
  return ranks;
}

Status LlamaRanks::add_up(void* values, std::size_t count, Element element) {
  if (shard_.stage_ranks() == 1) return {};
  return (stage_ ? *stage_ : *communicator_).all_reduce_sum(values, count, element);
}

Status LlamaRanks::receive_hidden(void* values, std::size_t bytes) {
  return communicator_->receive(values, bytes, shard_.rank - shard_.stage_ranks());
}

Status LlamaRanks::send_hidden(const void* values, std::size_t bytes) {
  return communicator_->send(values, bytes, shard_.rank + shard_.stage_ranks());
}

Status LlamaRanks::await_last_stage(void* sign) {
  const std::uint32_t last = sources_.front().rank;
  if (shard_.rank == last && last > 0) return communicator_->send(sign, 1, 0);
  return shard_.rank == 0 && last > 0 ? communicator_->receive(sign, 1, last) : Status();
}

Status LlamaRanks::gather_logits(float* parts, std::size_t rows) {
  if (rows == 0) return await_last_stage(parts);
  if (shard_.rank > 0) {
    if (!shard_.is_last_stage()) return {};
    return communicator_->send(parts, rows * shard_.vocabulary.count * sizeof(float), 0);
  }
  for (const auto& [rank, vocabulary] : sources_) {
    const std::size_t floats = rows * vocabulary.count;
    if (rank > 0) TIERCEL_RETURN_IF_ERROR(communicator_->receive(parts, floats * sizeof(float), rank));
    parts += floats;
  }
  return {};
}

void LlamaRanks::join_logits(const float* parts, std::size_t rows, float* logits) const {
  const std::size_t width = sources_.back().vocabulary.first + sources_.back().vocabulary.count;
  for (const auto& [rank, vocabulary] : sources_) {
    const auto [first, count] = vocabulary;
    for (std::size_t row = 0; row < rows; ++row, parts += count)
      std::copy_n(parts, count, logits + row * width + first);
  }
}

Status compare_models(Communicator& communicator, const Fingerprint& whole) {
  std::vector<Fingerprint> all(communicator.size());
  TIERCEL_RETURN_IF_ERROR(communicator.all_gather(&whole, sizeof whole, all.data()));
  const auto other = std::ranges::find_if(all, [&](const Fingerprint& one) { return !(one == all.front()); });
  if (other == all.end()) return {};
  return Status::invalid_argument(fmt::format(
      "ranks 0 and {} would compute different models; give all the same file, the same tiercel, and processors that "
      "multiply alike (tiercel info)",
      other - all.begin()));
}

}  // namespace tiercel
