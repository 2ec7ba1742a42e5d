#include "device/cuda_graph.h"

#include "device/cuda_status.h"

namespace tiercel {

Result<CudaGraph> CudaGraph::capture(const CudaStream& stream, const std::function<Status()>& enqueue) {
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "beginning a CUDA graph"));
  const Status enqueued = enqueue();
  cudaGraph_t graph = nullptr;
  const Status ended = cuda_status(cudaStreamEndCapture(stream.get(), &graph), "ending a CUDA graph");
  cudaGraphExec_t executable = nullptr;
  Status status = enqueued.ok() ? ended : enqueued;
  if (status.ok()) status = cuda_status(cudaGraphInstantiate(&executable, graph, 0), "instantiating a CUDA graph");
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!status.ok()) return status;
  return CudaGraph(executable);
}

CudaGraph::~CudaGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
}

Status CudaGraph::launch(const CudaStream& stream) const {
  return cuda_status(cudaGraphLaunch(executable_, stream.get()), "launching a CUDA graph");
}

}  // namespace tiercel
