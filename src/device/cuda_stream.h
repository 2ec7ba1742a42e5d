// Streams and events of the CUDA runtime, owned. Both are move-only, and not thread-safe.
#pragma once

#include <utility>

#include <cuda_runtime_api.h>

#include "tiercel/status.h"

namespace tiercel {

class CudaStream;

// A point in a stream that others can wait for.
class CudaEvent {
 public:
  static Result<CudaEvent> create();
  // That knows when it was reached.
  static Result<CudaEvent> create_timed();
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent();

  // Moves it to the end of what the stream has been given until now. Who waits already goes on waiting for where it
  // was.
  Status record(const CudaStream& stream);
  // Whether the stream has come there; true before the first record().
  Result<bool> reached() const;
  // The thread sleeps meanwhile; for its stream it would spin.
  Status synchronize() const;
  // Of two timed ones that were reached.
  Result<double> seconds_since(const CudaEvent& earlier) const;
  cudaEvent_t get() const { return event_; }

 private:
  explicit CudaEvent(cudaEvent_t event) : event_(event) {}
  cudaEvent_t event_;
};

// A queue of work on the GPU, which waits for no other stream unless told to.
class CudaStream {
 public:
  static Result<CudaStream> create();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  // What it was given still runs.
  ~CudaStream();

  // What it is given from now on runs after the event.
  Status wait(const CudaEvent& event) const;
  Status synchronize() const;
  cudaStream_t get() const { return stream_; }

 private:
  explicit CudaStream(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t stream_;
};

}  // namespace tiercel
