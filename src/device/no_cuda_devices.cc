#include "device/cuda_devices.h"

namespace tiercel {

CudaDevices list_cuda_devices() {
  return {.built = false,
          .toolkit = {},
          .devices = {},
          .note = "built without CUDA (TIERCEL_CUDA=off, or no toolkit found)"};
}

Result<CudaDevice> find_cuda_device(int) {
  return Status::unavailable(
      "this tiercel was built without CUDA; use the device cpu, or build it where there is a CUDA 13 toolkit");
}

}  // namespace tiercel
