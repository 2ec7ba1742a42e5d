// The ranks of a model on GPUs: what they say to each other within a step (llama_ranks.h), through device memory, and
// how they begin and end.
//
// Everything but wait(), join() and leave() is ordered in the model's stream. Not thread-safe, but for
// leave().
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "model/llama_ranks.h"
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

  Status add_up(void* values, std::size_t count, DType dtype);
  Status receive_hidden(void* values, std::size_t bytes) { return ranks_.receive_hidden(values, bytes); }
  Status send_hidden(const void* values, std::size_t bytes) { return ranks_.send_hidden(values, bytes); }
  // As LlamaRanks has it; what comes together at rank 0 becomes rows of the whole vocabulary at `logits`.
  Status gather_logits(float* parts, std::size_t rows, float* logits);
  // Whether logits come together here.
  bool has_logits() const { return communicator_->rank() == 0; }
  // Until all of the above is through, or a deadline is over.
  Status wait() { return communicator_->wait(); }
  // Ends what is under way, and everything later. Any thread.
  void leave() { communicator_->abort(); }

 private:
  DeviceRanks(std::unique_ptr<Communicator> communicator, LlamaRanks ranks, const CudaStream& stream)
      : communicator_(std::move(communicator)), ranks_(std::move(ranks)), stream_(&stream) {}

  std::unique_ptr<Communicator> communicator_;
  LlamaRanks ranks_;
  const CudaStream* stream_;
};

}  // namespace tiercel
