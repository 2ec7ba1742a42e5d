#include "model/llama_ranks.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

namespace tiercel {
namespace {

// Whether all ranks have the same.
Status agree(Communicator& communicator, const Fingerprint& whole) {
  std::vector<Fingerprint> all(communicator.size());
  TIERCEL_RETURN_IF_ERROR(communicator.all_gather(&whole, sizeof whole, all.data()));
  const auto other = std::ranges::find_if(all, [&](const Fingerprint& one) { return !(one == all.front()); });
  if (other == all.end()) return {};
  return Status::invalid_argument(fmt::format(
      "ranks 0 and {} would compute different models; give all the same file, the same tiercel, and processors that "
      "multiply alike (tiercel info)",
      other - all.begin()));
}

}  // namespace

Result<LlamaRanks> LlamaRanks::join(Communicator& communicator, const ModelShape& shape, const ModelShard& shard,
                                    const Fingerprint& whole) {
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
  TIERCEL_RETURN_IF_ERROR(agree(communicator, whole));
  return ranks;
}

Status LlamaRanks::add_up(float* values, std::size_t count) {
  if (shard_.stage_ranks() == 1) return {};
  return (stage_ ? *stage_ : *communicator_).all_reduce_sum(values, count, Element::F32);
}

Status LlamaRanks::receive_hidden(float* values, std::size_t count) {
  return communicator_->receive(values, count * sizeof(float), shard_.rank - shard_.stage_ranks());
}

Status LlamaRanks::send_hidden(const float* values, std::size_t count) {
  return communicator_->send(values, count * sizeof(float), shard_.rank + shard_.stage_ranks());
}

Status LlamaRanks::await_last_stage() {
  const std::uint32_t last = sources_.front().rank;
  std::byte sign{};
  if (shard_.rank == last && last > 0) return communicator_->send(&sign, sizeof sign, 0);
  return shard_.rank == 0 && last > 0 ? communicator_->receive(&sign, sizeof sign, last) : Status();
}

Status LlamaRanks::gather_logits(const float* part, std::size_t rows, float* logits) {
  if (rows == 0) return await_last_stage();
  if (shard_.rank > 0) {
    if (!shard_.is_last_stage()) return {};
    return communicator_->send(part, rows * shard_.vocabulary.count * sizeof(float), 0);
  }
  const std::size_t width = sources_.back().vocabulary.first + sources_.back().vocabulary.count;
  for (const auto& [rank, vocabulary] : sources_) {
    const auto [first, count] = vocabulary;
    const float* from = part;
    if (rank > 0) {
      const bool is_whole = count == width;
      if (!is_whole) received_.resize(std::max(received_.size(), rows * count));
      float* const to = is_whole ? logits : received_.data();
      TIERCEL_RETURN_IF_ERROR(communicator_->receive(to, rows * count * sizeof(float), rank));
      if (is_whole) continue;
      from = to;
    }
    for (std::size_t row = 0; row < rows; ++row) std::copy_n(from + row * count, count, logits + row * width + first);
  }
  return {};
}

}  // namespace tiercel
