#include "device/cuda_stream.h"

#include "device/cuda_status.h"

namespace tiercel {

Result<CudaEvent> CudaEvent::create() {
  cudaEvent_t event = nullptr;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
                                      "creating a CUDA event"));
  return CudaEvent(event);
}

Result<CudaEvent> CudaEvent::create_timed() {
  cudaEvent_t event = nullptr;
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), "creating a CUDA event"));
  return CudaEvent(event);
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

Status CudaEvent::record(const CudaStream& stream) {
  return cuda_status(cudaEventRecord(event_, stream.get()), "recording a CUDA event");
}

Result<bool> CudaEvent::reached() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) return false;
  TIERCEL_RETURN_IF_ERROR(cuda_status(error, "asking for a CUDA event"));
  return true;
}

Status CudaEvent::synchronize() const { return cuda_status(cudaEventSynchronize(event_), "waiting for a CUDA event"); }

Result<double> CudaEvent::seconds_since(const CudaEvent& earlier) const {
  float milliseconds = 0;
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "timing CUDA events"));
  return milliseconds * 1e-3;
}

Result<CudaStream> CudaStream::create() {
  cudaStream_t stream = nullptr;
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a CUDA stream"));
  return CudaStream(stream);
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Status CudaStream::wait(const CudaEvent& event) const {
  return cuda_status(cudaStreamWaitEvent(stream_, event.get(), 0), "ordering CUDA streams");
}

Status CudaStream::synchronize() const {
  return cuda_status(cudaStreamSynchronize(stream_), "waiting for a CUDA stream");
}

}  // namespace tiercel
