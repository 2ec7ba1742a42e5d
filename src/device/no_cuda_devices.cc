#include "device/cuda_devices.h"

namespace tiercel {

CudaDevices list_cuda_devices() {
  return {.built = false,
          .toolkit = {},
          .devices = {},
          .note = "built without CUDA (TIERCEL_CUDA=off, or no toolkit found)"};
}

}  // namespace tiercel
