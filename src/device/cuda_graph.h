// A sequence of kernels that is given to the GPU as one: launching hundreds of short kernels one by one takes the host
// longer than running them takes the GPU. Move-only, not thread-safe.
#pragma once

#include <functional>
#include <utility>

#include <cuda_runtime_api.h>

#include "device/cuda_stream.h"
#include "tiercel/status.h"

namespace tiercel {

class CudaGraph {
 public:
  // What `enqueue` gives the stream, which runs nothing of it now: kernels whose arguments are always the same, over
  // memory that outlives the graph. Nothing in it may wait for the GPU.
  static Result<CudaGraph> capture(const CudaStream& stream, const std::function<Status()>& enqueue);
  CudaGraph(CudaGraph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }
  ~CudaGraph();

  Status launch(const CudaStream& stream) const;

 private:
  explicit CudaGraph(cudaGraphExec_t executable) : executable_(executable) {}
  cudaGraphExec_t executable_;
};

}  // namespace tiercel
