// A step cut into micro-batches, so that what a layer leaves of them is near when the next one reads it, and so that
// stages work at the same time: while one computes a micro-batch, the stage before computes the next (Huang et al.
// 2019, "GPipe"). With m of them, s stages that take equally long take (m + s - 1) / m times as long as if none ever
// waited.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model_runner.h"

namespace tiercel {

// Below so many rows weights are read for longer than they are multiplied, and more micro-batches read them more often.
inline constexpr std::size_t kMicroBatchRows = 16;
// More rows at once were slower: a prompt of 1,954 tokens took 542 ms by 512 rows, 552 by 768, 555 by 1,024, 597 by
// 2,048, and 562 by 256 (SmolLM2-135M on two Zen 5 cores).
inline constexpr std::size_t kMostMicroBatchRows = 512;
// On a GPU the first is an estimate (docs/gpu.md: from there on a linear layer waits for instructions), and whole steps
// are best.
inline constexpr std::size_t kDeviceMicroBatchRows = 32;
// With these nine tenths of the time go into work, however many stages there are.
inline constexpr std::size_t kMicroBatchesOfStage = 8;

// Into how many a step of so many rows is cut: as few as have no more than kMostMicroBatchRows each. With stages, as
// many as have kMicroBatchRows each, if these are more, and no more than kMicroBatchesOfStage for each stage.
std::size_t count_micro_batches(std::size_t rows, std::uint32_t stages);
// On a GPU: one; with stages, as many as have kDeviceMicroBatchRows each, and no more than kMicroBatchesOfStage for
// each stage.
std::size_t count_device_micro_batches(std::size_t rows, std::uint32_t stages);

class MicroBatches {
 public:
  // `count` runs of rows in the step's order, as even as rows allow; a chunk that goes on in the next one is cut. Later
  // rows of a sequence are in the same micro-batch as earlier ones or behind it. Logits are of the rows that they were
  // asked for, and so are draws. `count` is no more than there are rows. Valid until the next call, and as long as the
  // chunks are.
  std::span<const std::span<const SequenceChunk>> cut(std::span<const SequenceChunk> chunks, std::size_t count);

 private:
  std::vector<SequenceChunk> parts_;
  std::vector<std::span<const SequenceChunk>> batches_;
};

}  // namespace tiercel
