#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tiercel/status.h"

namespace tiercel {

struct CudaDevice {
  std::string name;
  int64_t memory_bytes = 0;
  int compute_major = 0;  // compute capability, such as 9.0
  int compute_minor = 0;
};

struct CudaDevices {
  bool built = false;               // whether this binary was built with CUDA
  std::string toolkit;              // version of the CUDA runtime it was built with, such as "13.0"; empty if !built
  std::vector<CudaDevice> devices;  // in the CUDA runtime's order; CUDA_VISIBLE_DEVICES applies
  std::string note;                 // why `devices` is empty or incomplete; empty where there is nothing to say
};

// Lists the GPUs that this process can see. It never fails: without CUDA, a driver or a GPU the list is empty and the
// note says why. Initialises the CUDA driver, but creates no context and takes no GPU memory. Thread-safe.
CudaDevices list_cuda_devices();
// The one of that number. Unavailable: there is none; says which there are, or why there are none.
Result<CudaDevice> find_cuda_device(int number);

}  // namespace tiercel
