#include "engine/rank_messages.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "engine/message_bytes.h"

namespace tiercel {
namespace {

// What a small message, such as a step of a few tokens, fits in as a whole: one broadcast instead of two.
constexpr std::size_t kFirstBytes = 1024;

struct Head {
  RankMessage message;
  std::uint32_t bytes;
};
constexpr std::size_t kBytesInFirst = kFirstBytes - sizeof(Head);

// A chunk without its tokens and blocks, which follow all chunks in one run each.
struct ChunkHead {
  std::uint64_t first_position;
  std::uint32_t tokens, blocks;
  Logits logits;
  Arithmetic arithmetic;
  bool any_attention, is_drawn;
};

}  // namespace

RankSettings settings_of(const EngineOptions& options) {
  return {.timeout_ms = options.ranks.timeout_ms,
          .max_batch_tokens = options.max_batch_tokens,
          .max_batch_sequences = options.max_batch_sequences,
          .context_tokens = options.context_tokens,
          .block_tokens = options.cache.block_tokens,
          .pipeline = options.ranks.pipeline,
          .compute = options.compute,
          .kv_dtype = options.cache.kv_dtype,
          .deterministic = options.deterministic,
          .tiers = {}};
}

void take_settings(const RankSettings& settings, EngineOptions& options) {
  options.ranks.timeout_ms = settings.timeout_ms;
  options.ranks.pipeline = settings.pipeline;
  options.max_batch_tokens = settings.max_batch_tokens;
  options.max_batch_sequences = settings.max_batch_sequences;
  options.context_tokens = settings.context_tokens;
  options.cache.block_tokens = settings.block_tokens;
  options.compute = settings.compute;
  options.cache.kv_dtype = settings.kv_dtype;
  options.deterministic = settings.deterministic;
  options.profile_steps = false;  // nobody asks here
}

Status share_settings(Communicator& communicator, RankSettings& settings) {
  return communicator.broadcast(&settings, sizeof settings, 0);
}

Status compare_devices(Communicator& communicator, bool on_gpu, const Status& usable) {
  struct Device {
    bool on_gpu, is_usable;
  };
  const Device mine{.on_gpu = on_gpu, .is_usable = usable.ok()};
  std::vector<Device> all(communicator.size());
  const Status heard = communicator.all_gather(&mine, sizeof mine, all.data());
  TIERCEL_RETURN_IF_ERROR(usable);
  TIERCEL_RETURN_IF_ERROR(heard);
  const auto name = [](const Device& device) { return device.on_gpu ? "GPU" : "CPU"; };
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank].on_gpu != all[0].on_gpu) {
      return Status::invalid_argument(fmt::format(
          "rank 0 computes on a {}, and rank {} on a {}; give all ranks a GPU (device cuda or cuda:N), or none",
          name(all[0]), rank, name(all[rank])));
    }
    if (!all[rank].is_usable) {
      return Status::unavailable(
          fmt::format("rank {} cannot compute on its {}; look at what it says", rank, name(all[rank])));
    }
  }
  return {};
}

void write_step(std::span<const BlockCopy> copies, std::span<const SequenceChunk> chunks,
                std::vector<std::byte>& bytes) {
  bytes.clear();
  const std::uint32_t counts[] = {static_cast<std::uint32_t>(copies.size()), static_cast<std::uint32_t>(chunks.size())};
  append(bytes, counts, std::size(counts));
  append(bytes, copies.data(), copies.size());
  for (const SequenceChunk& chunk : chunks) {
    const ChunkHead head{.first_position = chunk.first_position,
                         .tokens = static_cast<std::uint32_t>(chunk.tokens.size()),
                         .blocks = static_cast<std::uint32_t>(chunk.block_table.size()),
                         .logits = chunk.logits,
                         .arithmetic = chunk.arithmetic,
                         .any_attention = chunk.any_attention,
                         .is_drawn = !chunk.draws.empty()};
    append(bytes, &head, 1);
  }
  for (const SequenceChunk& chunk : chunks) append(bytes, chunk.tokens.data(), chunk.tokens.size());
  for (const SequenceChunk& chunk : chunks) append(bytes, chunk.block_table.data(), chunk.block_table.size());
}

Status read_step(std::span<const std::byte> bytes, std::size_t blocks, std::size_t vocabulary, RankStep& step) {
  const auto no_step = [] { return Status::internal("what rank 0 sent is no step"); };
  MessageReader reader(bytes);
  std::vector<std::uint32_t> counts;
  std::vector<ChunkHead> heads;
  if (!reader.read(counts, 2) || !reader.read(step.copies, counts[0]) || !reader.read(heads, counts[1])) {
    return no_step();
  }
  std::size_t tokens = 0, table_blocks = 0;
  for (const ChunkHead& head : heads) tokens += head.tokens, table_blocks += head.blocks;
  if (!reader.read(step.tokens, tokens) || !reader.read(step.blocks, table_blocks) || !reader.at_end()) {
    return no_step();
  }
  const auto is_block = [&](BlockId block) { return block < blocks; };
  const bool fits =
      std::ranges::all_of(heads, [](const ChunkHead& head) { return head.tokens > 0; }) &&
      std::ranges::all_of(step.tokens,
                          [&](TokenId token) { return token >= 0 && static_cast<std::size_t>(token) < vocabulary; }) &&
      std::ranges::all_of(step.blocks, is_block) &&
      std::ranges::all_of(step.copies, [&](const BlockCopy& copy) { return is_block(copy.from) && is_block(copy.to); });
  if (!fits) return no_step();
  step.chunks.clear();
  step.draws.resize(tokens);  // no chunk has more
  const TokenId* next_token = step.tokens.data();
  const BlockId* next_block = step.blocks.data();
  for (const ChunkHead& head : heads) {
    step.chunks.push_back({.tokens = {next_token, head.tokens},
                           .first_position = static_cast<std::size_t>(head.first_position),
                           .block_table = {next_block, head.blocks},
                           .logits = head.logits,
                           .arithmetic = head.arithmetic,
                           .any_attention = head.any_attention});
    SequenceChunk& chunk = step.chunks.back();
    if (head.is_drawn) chunk.draws = std::span(step.draws).first(chunk.logit_rows());
    next_token += head.tokens;
    next_block += head.blocks;
  }
  return {};
}

Status send_message(Communicator& communicator, RankMessage message, std::span<const std::byte> bytes) {
  std::array<std::byte, kFirstBytes> first = {};
  const Head head{.message = message, .bytes = static_cast<std::uint32_t>(bytes.size())};
  std::memcpy(first.data(), &head, sizeof head);
  const std::size_t in_first = std::min(bytes.size(), kBytesInFirst);
  if (in_first > 0) std::memcpy(first.data() + sizeof head, bytes.data(), in_first);
  TIERCEL_RETURN_IF_ERROR(communicator.broadcast(first.data(), first.size(), 0));
  const std::span<const std::byte> rest = bytes.subspan(in_first);
  return rest.empty() ? Status() : communicator.broadcast(const_cast<std::byte*>(rest.data()), rest.size(), 0);
}

Result<ReceivedMessage> receive_message(Communicator& communicator, std::vector<std::byte>& storage) {
  std::array<std::byte, kFirstBytes> first;
  TIERCEL_RETURN_IF_ERROR(communicator.broadcast(first.data(), first.size(), 0));
  Head head;
  std::memcpy(&head, first.data(), sizeof head);
  storage.resize(head.bytes);
  const std::size_t in_first = std::min<std::size_t>(head.bytes, kBytesInFirst);
  if (in_first > 0) std::memcpy(storage.data(), first.data() + sizeof head, in_first);
  if (head.bytes > in_first) {
    TIERCEL_RETURN_IF_ERROR(communicator.broadcast(storage.data() + in_first, head.bytes - in_first, 0));
  }
  return ReceivedMessage{head.message, storage};
}

}  // namespace tiercel
