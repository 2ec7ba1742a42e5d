// What the kernels of one step are told of its chunks: arrays that go to the GPU by one copy. No CUDA here.
//
// Rows (one for each new token) are not in the order of chunks: those that decode attention takes come first, then
// those of prefill attention, and within both those of one arithmetic are together. So a step is a few launches,
// whatever it is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model_runner.h"
#include "tiercel/types.h"

namespace tiercel {

struct DeviceStepLimits {
  std::size_t rows = 0;       // tokens of a step
  std::size_t sequences = 0;  // chunks of a step
  std::size_t logit_rows = 0;
  std::size_t context_tokens = 0;     // of a sequence
  bool has_prefill_attention = true;  // false: decode attention takes all rows
};

class DeviceStepPlan {
 public:
  struct Rows {
    std::size_t begin = 0, end = 0;
    std::size_t count() const { return end - begin; }
  };
  // Places in the arrays, in words of 32 bits, always the same.
  struct Offsets {
    std::size_t tokens;         // [row]
    std::size_t positions;      // [row]
    std::size_t slots;          // [row] block * block_tokens + token in block
    std::size_t row_sequences;  // [row of decode attention]
    std::size_t row_lengths;    // [row of decode attention] tokens that it sees
    std::size_t query_begins;   // [sequence of prefill attention + 1]
    std::size_t lengths;        // [sequence of prefill attention] tokens of its KV
    std::size_t wanted;         // [row of logits] whose they are: those to be returned, then those to draw from
    std::size_t draws;          // [row to draw from] SamplingRow, at a multiple of 8 bytes
    std::size_t tables;         // [sequence][table_stride()] blocks
    std::size_t words;          // all
  };

  DeviceStepPlan(const KvLayout& layout, const DeviceStepLimits& limits);

  const Offsets& offsets() const { return offsets_; }
  // Writes the arrays to `words`, offsets().words of them. Chunks are within the limits.
  void build(std::span<const SequenceChunk> chunks, std::uint32_t* words);

  // Of the step that was built last.
  std::size_t words_used() const;  // what is behind is not read
  std::size_t rows() const { return rows_; }
  std::size_t wanted() const { return wanted_; }  // rows of logits
  std::size_t drawn() const { return drawn_; }    // of these, the last ones are drawn from
  Rows of(Arithmetic arithmetic) const { return arithmetic_[static_cast<std::size_t>(arithmetic)]; }
  // Rows [0, decode_rows()) are for decode attention, the rest for prefill attention.
  std::size_t decode_rows() const { return decode_rows_; }
  std::size_t decode_sequences() const { return decode_sequences_; }
  std::size_t prefill_sequences() const { return sequences_ - decode_sequences_; }
  std::size_t most_queries() const { return most_queries_; }      // of a sequence of prefill attention
  std::size_t longest_decode() const { return longest_decode_; }  // no row of decode attention sees more
  // Blocks from one sequence's table to the next one's: as many as the longest has, up to the next power of two.
  std::size_t table_stride() const { return table_stride_; }

 private:
  void want(const SequenceChunk& chunk, std::uint32_t first_row, std::uint32_t* words);

  KvLayout layout_;
  DeviceStepLimits limits_;
  Offsets offsets_;
  std::vector<std::uint32_t> order_;       // chunks, in the order of their rows
  std::vector<std::uint32_t> first_rows_;  // by chunk
  Rows arithmetic_[3];
  std::size_t rows_ = 0, wanted_ = 0, drawn_ = 0, sequences_ = 0, decode_rows_ = 0, decode_sequences_ = 0,
              most_queries_ = 0, longest_decode_ = 0, table_stride_ = 1;
};

}  // namespace tiercel
