// Streams, events and graphs. Compiled without instrumentation, like grid.cc.
#include "tests/cuemu/runtime_call.h"

using cuemu::call;
using cuemu::Device;
using cuemu::is_capturing;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return call(__func__, [&](Device& d) {
    *stream = d.create_stream();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cuemu::Unseen unseen;
  const cuemu::Lock lock;
  Device& d = cuemu::device();
  if (stream == nullptr || !d.knows(stream)) return cuemu::note(cudaErrorInvalidResourceHandle);
  d.destroy_stream(stream);
  return cuemu::note(d.broken(cuemu::current_device));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  int on = 0;
  const cudaError_t error = call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    on = d.stream(stream).device;
    return is_capturing(d, stream) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
  });
  if (error != cudaSuccess) return error;
  return cuemu::waiting_call("", on, [&](Device& d) { return d.finish(d.stream(stream)); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (d.stream(stream).queue.empty()) {
      cuemu::acquire(&d.stream(stream).order);
      return cudaSuccess;
    }
    d.run_towards(d.stream(stream));
    return cudaErrorNotReady;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream) || event == nullptr) return cudaErrorInvalidResourceHandle;
    d.wait(d.stream(stream), *event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return call(__func__, [&](Device& d) {
    *event = new cuemu::Event{cuemu::current_device, nullptr};
    ++d.events;
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return cuemu::note(cudaErrorInvalidResourceHandle);
  const cuemu::Unseen unseen;
  const cuemu::Lock lock;
  delete event;
  --cuemu::device().events;
  return cuemu::note(cuemu::device().broken(cuemu::current_device));
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream) || event == nullptr || d.stream(stream).device != event->device)
      return cudaErrorInvalidResourceHandle;
    d.record(d.stream(stream), *event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return cuemu::note(cudaErrorInvalidResourceHandle);
  return cuemu::waiting_call(__func__, event->device,
                             [&](Device& d) { return event->last == nullptr || d.finish(*event->last); });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call(__func__, [&](Device& d) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->last == nullptr) return cudaSuccess;
    if (event->last->done) {
      cuemu::acquire(&event->last->order);
      return d.broken(event->device);
    }
    d.run_towards(*event->last->stream);
    return cudaErrorNotReady;
  });
}

// Operations are the device's only clock: a millisecond each.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call(__func__, [&](Device&) {
    if (begin == nullptr || end == nullptr || begin->last == nullptr || end->last == nullptr)
      return cudaErrorInvalidResourceHandle;
    if (!begin->last->done || !end->last->done) return cudaErrorNotReady;
    *milliseconds = static_cast<float>(end->last->at) - static_cast<float>(begin->last->at);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return call(__func__, [&](Device& d) {
    if (stream == nullptr || !d.knows(stream)) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture != nullptr) return cudaErrorIllegalState;
    stream->capture = new cuemu::Graph;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return call(__func__, [&](Device& d) {
    if (!is_capturing(d, stream)) return cudaErrorIllegalState;
    *graph = stream->capture;
    ++d.graphs;
    d.end_capture(stream->capture);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call(__func__, [&](Device& d) {
    *status = is_capturing(d, stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call(__func__, [&](Device& d) {
    *executable = new cuemu::Graph(*graph);
    ++d.graphs;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    ++d.counts.graph_launches;
    for (const auto& operation : executable->operations) d.queue(d.stream(stream), operation);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const cuemu::Unseen unseen;
  const cuemu::Lock lock;
  delete graph;
  --cuemu::device().graphs;
  return cuemu::note(cuemu::device().broken(cuemu::current_device));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }
