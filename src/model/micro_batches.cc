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

std::vector<std::vector<SequenceChunk>> cut_into_micro_batches(std::span<const SequenceChunk> chunks,
                                                               std::size_t count) {
  std::size_t rows = 0;
  for (const SequenceChunk& chunk : chunks) rows += chunk.tokens.size();
  std::vector<std::vector<SequenceChunk>> batches(count);
  std::size_t batch = 0, row = 0;
  for (const SequenceChunk& chunk : chunks) {
    for (std::size_t first = 0; first < chunk.tokens.size();) {
      while (row == rows * (batch + 1) / count) ++batch;
      const std::size_t end_of_batch = rows * (batch + 1) / count;
      const std::size_t tokens = std::min(chunk.tokens.size() - first, end_of_batch - row);
      SequenceChunk& part = batches[batch].emplace_back(chunk);
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
    }
  }
  return batches;
}

}  // namespace tiercel
