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
  // Each rank has `rows` of its part of the vocabulary at `parts`. At rank 0 those of the others come behind its own
  // there, which has room for all, and become rows of the whole vocabulary at `logits`.
  Status gather_logits(float* parts, std::size_t rows, float* logits);
  // Whether logits come together here.
  bool has_logits() const { return communicator_->rank() == 0; }
  // Until all of the above is through, or a deadline is over.
  Status wait() { return communicator_->wait(); }
  // Ends what is under way, and everything later. Any thread.
  void leave() { communicator_->abort(); }

 private:
  DeviceRanks(std::unique_ptr<Communicator> communicator, std::vector<ModelShard::Range> vocabulary,
              const CudaStream& stream)
      : communicator_(std::move(communicator)), vocabulary_(std::move(vocabulary)), stream_(&stream) {}

  std::unique_ptr<Communicator> communicator_;
  std::vector<ModelShard::Range> vocabulary_;  // by rank
  const CudaStream* stream_;
};

}  // namespace tiercel
