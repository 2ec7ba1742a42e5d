#include "device/cuda_devices.h"

#include <cuda_runtime_api.h>

namespace tiercel {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

CudaDevices list_cuda_devices() {
  CudaDevices result{.built = true, .toolkit = version_text(CUDART_VERSION), .devices = {}, .note = {}};
  int driver_version = 0;
  if (cudaDriverGetVersion(&driver_version) != cudaSuccess || driver_version == 0) {
    result.note = "no NVIDIA driver is loaded";
    return result;
  }
  int count = 0;
  if (cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    result.note =
        error == cudaErrorInsufficientDriver
            ? "the NVIDIA driver supports CUDA " + version_text(driver_version) + ", older than this build needs"
            : std::string("the CUDA runtime reports: ") + cudaGetErrorString(error);
    cudaGetLastError();  // the error must not surface in a later CUDA call
    return result;
  }
  if (count == 0) result.note = "no GPU is visible";
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) {
      result.note = "device " + std::to_string(device) + ": " + cudaGetErrorString(error);
      cudaGetLastError();
      continue;
    }
    result.devices.push_back({.name = properties.name,
                              .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                              .compute_major = properties.major,
                              .compute_minor = properties.minor});
  }
  return result;
}

Result<CudaDevice> find_cuda_device(int number) {
  const CudaDevices known = list_cuda_devices();
  if (known.devices.empty()) {
    return Status::unavailable("there is no GPU: " + known.note + "; use the device cpu");
  }
  if (static_cast<std::size_t>(number) < known.devices.size()) return known.devices[static_cast<std::size_t>(number)];
  return Status::unavailable("there is no GPU " + std::to_string(number) + "; the last one is " +
                             std::to_string(known.devices.size() - 1));
}

}  // namespace tiercel
