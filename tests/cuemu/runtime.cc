// Devices, errors and launches; what tests ask the emulator for. Compiled without instrumentation, like grid.cc.
#include "tests/cuemu/runtime_call.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

namespace cuemu {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

void replace_device(const DeviceOptions& options) {
  Device& old = device();
  old.~Device();
  new (&old) Device(options);
}

}  // namespace

Device& device() {
  static auto* const only = new std::unique_ptr<Device>(new Device({}));  // not destroyed: threads may outlive main()
  return **only;
}

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

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

bool is_capturing(const Device& d, cudaStream_t stream) {
  return stream != nullptr && d.knows(stream) && stream->capture != nullptr;
}

cudaError_t finish_current_device(const char* function) {
  const int on = current_device;
  return waiting_call(function, on, [&](Device& d) { return d.finish_device(on); });
}

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
cudaError_t cudaDeviceSynchronize() { return cuemu::finish_current_device(__func__); }
