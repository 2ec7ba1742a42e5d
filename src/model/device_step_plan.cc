#include "model/device_step_plan.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <numeric>
#include <utility>

namespace tiercel {
namespace {

// From how many new tokens on prefill attention, with its tiles of queries, is worth it.
constexpr std::size_t kPrefillAttentionTokens = 8;

bool wants_prefill_attention(const SequenceChunk& chunk) {
  switch (chunk.arithmetic) {
    case Arithmetic::Decode: return false;
    case Arithmetic::Prefill: return true;
    case Arithmetic::Any: break;
  }
  return chunk.tokens.size() >= kPrefillAttentionTokens;
}

// The order of rows: see the head of the header.
int place_of(const SequenceChunk& chunk) {
  if (chunk.arithmetic == Arithmetic::Decode) return 0;
  if (chunk.arithmetic == Arithmetic::Prefill) return 3;
  return wants_prefill_attention(chunk) ? 2 : 1;
}

}  // namespace

DeviceStepPlan::DeviceStepPlan(const KvLayout& layout, const DeviceStepLimits& limits)
    : layout_(layout), limits_(limits) {
  std::size_t next = 0;
  const auto take = [&](std::size_t words) { return std::exchange(next, next + words); };
  offsets_.tokens = take(limits.rows);
  offsets_.positions = take(limits.rows);
  offsets_.slots = take(limits.rows);
  offsets_.row_sequences = take(limits.rows);
  offsets_.row_lengths = take(limits.rows);
  offsets_.query_begins = take(limits.sequences + 1);
  offsets_.lengths = take(limits.sequences);
  offsets_.wanted = take(limits.logit_rows);
  next += next % 2;
  offsets_.draws = take(limits.logit_rows * sizeof(kernels::SamplingRow) / sizeof(std::uint32_t));
  offsets_.tables = take(limits.sequences * std::bit_ceil(layout.blocks_for(limits.context_tokens)));
  offsets_.words = next;
}

std::size_t DeviceStepPlan::words_used() const { return offsets_.tables + sequences_ * table_stride_; }

void DeviceStepPlan::build(std::span<const SequenceChunk> chunks, std::uint32_t* words) {
  assert(chunks.size() <= limits_.sequences);
  order_.resize(chunks.size());
  first_rows_.resize(chunks.size());
  std::iota(order_.begin(), order_.end(), 0u);
  std::ranges::stable_sort(order_, {}, [&](std::uint32_t chunk) { return place_of(chunks[chunk]); });
  rows_ = wanted_ = drawn_ = decode_rows_ = decode_sequences_ = most_queries_ = longest_decode_ = 0;
  sequences_ = chunks.size();
  std::ranges::fill(arithmetic_, Rows());
  std::size_t longest = 1;
  for (const SequenceChunk& chunk : chunks) longest = std::max(longest, chunk.first_position + chunk.tokens.size());
  table_stride_ = std::bit_ceil(layout_.blocks_for(longest));

  for (std::size_t sequence = 0; sequence < order_.size(); ++sequence) {
    const SequenceChunk& chunk = chunks[order_[sequence]];
    const std::size_t tokens = chunk.tokens.size(), length = chunk.first_position + tokens;
    const std::size_t blocks = layout_.blocks_for(length);
    assert(rows_ + tokens <= limits_.rows && chunk.block_table.size() >= blocks);
    first_rows_[order_[sequence]] = static_cast<std::uint32_t>(rows_);
    std::ranges::copy(chunk.block_table.first(blocks), words + offsets_.tables + sequence * table_stride_);
    const bool prefill = limits_.has_prefill_attention && wants_prefill_attention(chunk);
    Rows& same = arithmetic_[static_cast<std::size_t>(chunk.arithmetic)];
    if (same.count() == 0) same.begin = rows_;
    same.end = rows_ + tokens;
    if (prefill) {
      const std::size_t place = sequence - decode_sequences_;
      words[offsets_.query_begins + place] = static_cast<std::uint32_t>(rows_ - decode_rows_);
      words[offsets_.query_begins + place + 1] = static_cast<std::uint32_t>(rows_ - decode_rows_ + tokens);
      words[offsets_.lengths + place] = static_cast<std::uint32_t>(length);
      most_queries_ = std::max(most_queries_, tokens);
    } else {
      ++decode_sequences_;
      longest_decode_ = std::max(longest_decode_, length);
    }
    for (std::size_t t = 0; t < tokens; ++t, ++rows_) {
      const std::size_t position = chunk.first_position + t;
      const std::size_t slot = std::size_t{chunk.block_table[position / layout_.block_tokens]} * layout_.block_tokens +
                               position % layout_.block_tokens;
      words[offsets_.tokens + rows_] = static_cast<std::uint32_t>(chunk.tokens[t]);
      words[offsets_.positions + rows_] = static_cast<std::uint32_t>(position);
      words[offsets_.slots + rows_] = static_cast<std::uint32_t>(slot);
      if (prefill) continue;
      words[offsets_.row_sequences + rows_] = static_cast<std::uint32_t>(sequence);
      words[offsets_.row_lengths + rows_] = static_cast<std::uint32_t>(position + 1);
      ++decode_rows_;
    }
  }
  for (const bool draws : {false, true}) {
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      if (chunks[c].draws.empty() != draws) want(chunks[c], first_rows_[c], words);
    }
  }
}

void DeviceStepPlan::want(const SequenceChunk& chunk, std::uint32_t first_row, std::uint32_t* words) {
  const std::size_t tokens = chunk.tokens.size();
  for (std::size_t t = tokens - chunk.logit_rows(); t < tokens; ++t) {
    assert(wanted_ < limits_.logit_rows);
    words[offsets_.wanted + wanted_++] = first_row + static_cast<std::uint32_t>(t);
  }
  if (chunk.draws.empty()) return;
  assert(chunk.draws.size() == chunk.logit_rows());
  constexpr std::size_t kDrawWords = sizeof(kernels::SamplingRow) / sizeof(std::uint32_t);
  std::memcpy(words + offsets_.draws + drawn_ * kDrawWords, chunk.draws.data(), chunk.draws.size_bytes());
  drawn_ += chunk.draws.size();
}

}  // namespace tiercel
