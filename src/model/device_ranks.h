// What the ranks of a model on GPUs say to each other within a step, each with a part of the model's heads,
// feed-forward rows and vocabulary: sums behind attention and the feed-forward layer, and the logits, which come
// together at rank 0.
//
// Everything but wait(), join() and leave() is ordered in the model's stream. Not thread-safe, but for leave().
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "model/model_runner.h"
#include "model/model_shard.h"
#include "ranks/communicator.h"
#include "tiercel/types.h"

namespace tiercel {

class CudaStream;  // device/cuda_stream.h

// Opens a communicator for device memory, ordered in the stream.
using OpenDeviceCommunicator = std::function<Result<std::unique_ptr<Communicator>>(const CudaStream&)>;

class DeviceRanks {
 public:
  // Waits for the other ranks. InvalidArgument where they compute something else than `whole`. `stream` outlives this.
  static Result<DeviceRanks> join(const ModelShape& shape, const ModelShard& shard, const OpenDeviceCommunicator& open,
                                  const CudaStream& stream, const Fingerprint& whole);

  // `values`, of which each rank has a part, become the sum of all.
  Status add_up(void* values, std::size_t count, DType dtype);
  // Each rank has `rows` of its part of the vocabulary at `logits`; at rank 0 those of the others come behind its own.
  Status gather_logits(float* logits, std::size_t rows);
  // Of what rank 0 then has, on the host: rows of the whole vocabulary.
  void join_parts(const float* parts, std::size_t rows, float* logits) const;
  // Until all of the above is through, or a deadline is over.
  Status wait() { return communicator_->wait(); }
  // Ends what is under way, and everything later. Any thread.
  void leave() { communicator_->abort(); }

 private:
  DeviceRanks(std::unique_ptr<Communicator> communicator, std::vector<ModelShard::Range> vocabulary)
      : communicator_(std::move(communicator)), vocabulary_(std::move(vocabulary)) {}

  std::unique_ptr<Communicator> communicator_;
  std::vector<ModelShard::Range> vocabulary_;  // by rank
};

}  // namespace tiercel
