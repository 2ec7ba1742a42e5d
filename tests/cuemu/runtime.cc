// The CUDA runtime's functions on the emulated device. Compiled without instrumentation, like grid.cc.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/cuemu/device_state.h"
#include "tests/cuemu/fiber.h"

namespace cuemu {
namespace {

// Not a std::mutex, which ThreadSanitizer would see: its order is none that a device gives.
class Lock {
 public:
  Lock() { take(); }
  ~Lock() { give(); }
  // Lets others have it until one of them changes something.
  void wait() {
    const std::uint32_t seen = Device::changes;
    give();
    Device::changes.wait(seen);
    take();
  }

 private:
  static void take() {
    while (taken.test_and_set(std::memory_order_acquire)) taken.wait(true, std::memory_order_relaxed);
  }
  static void give() {
    taken.clear(std::memory_order_release);
    taken.notify_one();
  }
  static inline std::atomic_flag taken;
};

Device& device() {
  static auto* const only = new std::unique_ptr<Device>(new Device({}));  // not destroyed: threads may outlive main()
  return **only;
}

void replace_device(const DeviceOptions& options) {
  Device& old = device();
  old.~Device();
  new (&old) Device(options);
}

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// What a call of this function fails with before it does anything; success where it does not.
cudaError_t refusal(Device& d, std::string_view function) {
  if (d.options().devices == 0) return note(cudaErrorNoDevice);
  for (auto planned = d.planned_failures.begin(); planned != d.planned_failures.end(); ++planned) {
    if (planned->function != function || --planned->calls_left > 0) continue;
    const cudaError_t error = planned->error;
    d.planned_failures.erase(planned);
    return note(error);
  }
  const bool chooses = function == "cudaSetDevice" || function == "cudaGetDevice";  // another may be well
  return chooses ? cudaSuccess : note(d.broken(current_device));
}

// One call into the runtime: alone with the device, unless it is broken or the call is to fail.
template <class Body>
cudaError_t call(const char* function, const Body& body) {
  const Unseen unseen;
  const Lock lock;
  Device& d = device();
  if (const cudaError_t refused = refusal(d, function); refused != cudaSuccess) return refused;
  const cudaError_t error = body(d);
  d.drift();
  Device::changes.notify_all();
  return note(error);
}

// One that waits until `finish` says that what it waits for has come, which is on this device.
template <class Finish>
cudaError_t waiting_call(const char* function, int on, const Finish& finish) {
  const Unseen unseen;
  Lock lock;
  if (const cudaError_t refused = refusal(device(), function); refused != cudaSuccess) return refused;
  while (!finish(device())) {
    Device::changes.notify_all();
    lock.wait();
  }
  device().drift();
  Device::changes.notify_all();
  return note(device().broken(on));
}

// Of a broken device memory is still taken back, so that a test can end.
bool is_broken(cudaError_t error) {
  const Lock lock;
  return error != cudaSuccess && error == device().broken(current_device);
}

bool capturing(const Device& d, cudaStream_t stream) {
  return stream != nullptr && d.knows(stream) && stream->capture != nullptr;
}

struct Copy {
  bool valid = false, from_pageable = false, to_pageable = false;
};

Copy look_at(const Device& d, const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = d.is_device(to, bytes), from_device = d.is_device(from, bytes);
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  Copy copy;
  copy.valid = kind == cudaMemcpyDefault || (to_device == wants_to && from_device == wants_from);
  copy.from_pageable = !from_device && !d.is_pinned(from, bytes);
  copy.to_pageable = !to_device && !d.is_pinned(to, bytes);
  return copy;
}

// Memory that is not pinned is read by the caller, before this returns.
std::shared_ptr<char[]> staged(const void* from, std::size_t bytes) {
  std::shared_ptr<char[]> staging(new char[bytes]);
  std::memcpy(staging.get(), from, bytes);
  return staging;
}

cudaError_t copy(const char* function, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream, bool counts_as_call) {
  bool to_pageable = false;
  int on = 0;
  const cudaError_t error = call(function, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    const Copy what = look_at(d, to, from, bytes, kind);
    if (!what.valid) return cudaErrorInvalidValue;
    const bool pageable = what.from_pageable || what.to_pageable;
    if (pageable && capturing(d, stream)) return cudaErrorStreamCaptureUnsupported;
    d.counts.copies += 1;
    d.counts.pageable_copies += pageable ? 1 : 0;
    d.counts.copy_calls += counts_as_call ? 1 : 0;
    if (what.from_pageable) {
      d.queue(d.stream(stream), [to, staging = staged(from, bytes), bytes] { std::memcpy(to, staging.get(), bytes); });
    } else {
      d.queue(d.stream(stream), [=] { std::memcpy(to, from, bytes); });
    }
    to_pageable = what.to_pageable;
    on = d.stream(stream).device;
    return d.broken(on);
  });
  if (error != cudaSuccess || !to_pageable) return error;
  return waiting_call("", on, [&](Device& d) { return d.finish(d.stream(stream)); });
}

}  // namespace

void reset_device(const DeviceOptions& options) {
  const Unseen unseen;
  const Lock lock;
  if (!device().finish_all()) {
    std::fprintf(stderr, "cuemu: a stream waits for what has never come\n");
    std::abort();
  }
  const std::string left = device().leftovers();
  if (!left.empty()) {
    std::fprintf(stderr, "cuemu: the device was not given back: %s\n", left.c_str());
    std::abort();
  }
  replace_device(options);
  last_error = cudaSuccess;
  current_device = 0;
}

void with_devices(const std::function<bool(Device&)>& body) {
  const Unseen unseen;
  Lock lock;
  while (!body(device())) {
    Device::changes.notify_all();
    lock.wait();
  }
  device().drift();
  Device::changes.notify_all();
}

void fail_call(std::string_view function, int nth, cudaError_t error) {
  const Lock lock;
  device().planned_failures.push_back({std::string(function), nth, error});
}

void fail_operation(int nth, cudaError_t error, int device_number) {
  const Lock lock;
  device().plan_failure(nth, error, device_number);
}

DeviceCounts device_counts() {
  const Lock lock;
  return device().counts;
}

std::size_t allocated_bytes() {
  const Lock lock;
  return device().allocated();
}

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call("cudaFuncSetAttribute", [&](Device& d) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    const int most = d.options().compute_major >= 9 ? 232448 : 166912;  // 227 and 163 KiB
    if (value < 0 || value > most) return cudaErrorInvalidValue;
    d.dynamic_shared_limits[kernel] = value;
    return cudaSuccess;
  });
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
  return call("cudaLaunchKernelEx", [&](Device& d) {
    if (!d.knows(config.stream) || d.stream(config.stream).device != current_device)
      return cudaErrorInvalidResourceHandle;
    const dim3 g = config.gridDim, b = config.blockDim;
    const auto within = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
    if (!within(g.x, 0x7fffffffu) || !within(g.y, 65535) || !within(g.z, 65535) || !within(b.x, 1024) ||
        !within(b.y, 1024) || !within(b.z, 64) || b.x * b.y * b.z > 1024) {
      return cudaErrorInvalidConfiguration;
    }
    const auto limit = d.dynamic_shared_limits.find(kernel);
    if (config.dynamicSmemBytes >
        static_cast<std::size_t>(limit == d.dynamic_shared_limits.end() ? 48 * 1024 : limit->second)) {
      return cudaErrorInvalidValue;
    }
    ++d.counts.launches;
    d.queue(d.stream(config.stream),
            [&d, shape = LaunchShape{g, b, config.dynamicSmemBytes}, thread = std::move(thread)]() mutable {
              shape.seed = d.random(~std::uint64_t{0});
              run_kernel(shape, thread);
            });
    return cudaSuccess;
  });
}

}  // namespace cuemu

using cuemu::call;
using cuemu::capturing;
using cuemu::Device;

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuemu::last_error;
  cuemu::last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return cuemu::last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidPitchValue: return "cudaErrorInvalidPitchValue";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "another CUDA error";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return call(__func__, [&](Device& d) {
    *count = d.options().devices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  *device = cuemu::current_device;
  return call(__func__, [](Device&) { return cudaSuccess; });
}

cudaError_t cudaSetDevice(int device) {
  return call(__func__, [&](Device& d) {
    if (device < 0 || device >= d.options().devices) return cudaErrorInvalidDevice;
    cuemu::current_device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call(__func__, [&](Device& d) {
    if (device < 0 || device >= d.options().devices) return cudaErrorInvalidDevice;
    *properties = {
        "Emulated GPU", d.options().memory_bytes, 232448, d.options().compute_major, d.options().compute_minor, 132};
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call(__func__, [&](Device& d) {
    if (device < 0 || device >= d.options().devices) return cudaErrorInvalidDevice;
    switch (attribute) {
      case cudaDevAttrMultiProcessorCount: *value = 132; break;
      case cudaDevAttrComputeCapabilityMajor: *value = d.options().compute_major; break;
      case cudaDevAttrComputeCapabilityMinor: *value = d.options().compute_minor; break;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
      default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return call(__func__, [](Device&) { return cudaSuccess; });
}

namespace {
cudaError_t finish_current_device(const char* function) {
  const int on = cuemu::current_device;
  return cuemu::waiting_call(function, on, [&](Device& d) { return d.finish_device(on); });
}
}  // namespace

cudaError_t cudaDeviceSynchronize() { return finish_current_device(__func__); }

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call(__func__, [&](Device& d) {
    *free = d.free_bytes();
    *total = d.options().memory_bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return call(__func__, [&](Device& d) {
    *memory = bytes == 0 ? nullptr : d.allocate(bytes);
    return *memory == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    *memory = bytes == 0 ? nullptr : d.allocate(bytes);
    return *memory == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  });
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  cudaError_t error = finish_current_device(__func__);  // as a device does
  if (error == cudaSuccess) {
    error = call("", [&](Device& d) { return d.free(memory) ? cudaSuccess : cudaErrorInvalidValue; });
  }
  if (cuemu::is_broken(error)) {
    const cuemu::Unseen unseen;
    const cuemu::Lock lock;
    cuemu::device().acquire_broken();
    cuemu::device().free(memory);
  }
  return error;
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (!d.is_device(memory, 1)) return cudaErrorInvalidValue;
    d.queue(d.stream(stream), [&d, memory] { d.free(memory); });
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return call(__func__, [&](Device& d) {
    *memory = nullptr;
    if (posix_memalign(memory, 4096, bytes) != 0) return cudaErrorMemoryAllocation;
    d.pin(*memory, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  cudaError_t error = finish_current_device(__func__);
  if (error == cudaSuccess) {
    error = call("", [&](Device& d) { return d.unpin(memory) ? cudaSuccess : cudaErrorInvalidValue; });
  }
  if (cuemu::is_broken(error)) {
    const cuemu::Unseen unseen;
    const cuemu::Lock lock;
    cuemu::device().acquire_broken();
    cuemu::device().unpin(memory);
  }
  if (error != cudaErrorInvalidValue) std::free(memory);
  return error;
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
  return call(__func__,
              [&](Device& d) { return d.pin(memory, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered; });
}

cudaError_t cudaHostUnregister(void* memory) {
  cudaError_t error = finish_current_device(__func__);
  if (error == cudaSuccess) {
    error = call("", [&](Device& d) { return d.unpin(memory) ? cudaSuccess : cudaErrorHostMemoryNotRegistered; });
  }
  if (cuemu::is_broken(error)) {
    const cuemu::Unseen unseen;
    const cuemu::Lock lock;
    cuemu::device().acquire_broken();
    cuemu::device().unpin(memory);
  }
  return error;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cuemu::copy(__func__, to, from, bytes, kind, nullptr, true);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cuemu::copy(__func__, to, from, bytes, kind, stream, true);
}

// Within device memory.
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
    if (kind != cudaMemcpyDeviceToDevice) return cudaErrorNotSupported;
    if (width == 0 || height == 0) return cudaSuccess;
    const auto bytes = [&](std::size_t pitch) { return (height - 1) * pitch + width; };
    if (!d.is_device(to, bytes(to_pitch)) || !d.is_device(from, bytes(from_pitch))) return cudaErrorInvalidValue;
    ++d.counts.copies;
    ++d.counts.copy_calls;
    d.queue(d.stream(stream), [=] {
      for (std::size_t row = 0; row < height; ++row) {
        std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
      }
    });
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const std::size_t* bytes, std::size_t count,
                                 cudaMemcpyAttributes* attributes, std::size_t* attribute_begins,
                                 std::size_t attribute_count, cudaStream_t stream) {
  // CUDA refuses the default stream and captures here, and wants attributes that cover every copy.
  if (stream == nullptr || count == 0 || attribute_count == 0 || attributes == nullptr || attribute_begins[0] != 0) {
    return cuemu::note(cudaErrorInvalidValue);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const cudaError_t error = cuemu::copy(__func__, to[i], from[i], bytes[i], cudaMemcpyDefault, stream, i == 0);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(memory, value, bytes, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return call(__func__, [&](Device& d) {
    if (!d.knows(stream)) return cudaErrorInvalidResourceHandle;
    if (!d.is_device(memory, bytes)) return cudaErrorInvalidValue;
    d.queue(d.stream(stream), [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
  });
}

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
    return capturing(d, stream) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
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
    if (!capturing(d, stream)) return cudaErrorIllegalState;
    *graph = stream->capture;
    ++d.graphs;
    d.end_capture(stream->capture);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return call(__func__, [&](Device& d) {
    *status = capturing(d, stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
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
