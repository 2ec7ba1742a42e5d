#include "model/micro_batches.h"

#include <algorithm>

namespace tiercel {

std::size_t count_micro_batches(std::size_t rows, std::uint32_t stages) {
  const std::size_t fewest = std::max<std::size_t>(1, (rows + kMostMicroBatchRows - 1) / kMostMicroBatchRows);
  if (stages == 1) return fewest;
  return std::max(fewest, std::min(rows / kMicroBatchRows, kMicroBatchesOfStage * stages));
}

std::size_t count_device_micro_batches(std::size_t rows, std::uint32_t stages) {
  if (stages == 1) return 1;
  return std::clamp<std::size_t>(rows / kDeviceMicroBatchRows, 1, kMicroBatchesOfStage * stages);
}

std::span<const std::span<const SequenceChunk>> MicroBatches::cut(std::span<const SequenceChunk> chunks,
                                                                  std::size_t count) {
  batches_.clear();
  if (count == 1) {
    batches_.push_back(chunks);
    return batches_;
  }
  std::size_t rows = 0, row = 0, first_part = 0;
  for (const SequenceChunk& chunk : chunks) rows += chunk.tokens.size();
  parts_.clear();
  parts_.reserve(chunks.size() + count - 1);  // where they are, they stay
  const auto end_of_batch = [&] { return rows * (batches_.size() + 1) / count; };
  for (const SequenceChunk& chunk : chunks) {
    for (std::size_t first = 0; first < chunk.tokens.size();) {
      const std::size_t tokens = std::min(chunk.tokens.size() - first, end_of_batch() - row);
      SequenceChunk& part = parts_.emplace_back(chunk);
      part.tokens = chunk.tokens.subspan(first, tokens);
      part.first_position = chunk.first_position + first;
      const std::size_t end = first + tokens;
      if (chunk.logits == Logits::Last && end < chunk.tokens.size()) {
        part.logits = Logits::None;
        part.draws = {};
      } else if (chunk.logits == Logits::All && !chunk.draws.empty()) {
        part.draws = chunk.draws.subspan(first, tokens);
      }
      first = end;
      row += tokens;
      if (row < end_of_batch()) continue;
      batches_.emplace_back(parts_.data() + first_part, parts_.size() - first_part);
      first_part = parts_.size();
    }
  }
  return batches_;
}

}  // namespace tiercel
