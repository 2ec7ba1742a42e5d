// The GPU that the CUDA runtime takes a thread's calls to mean.
#pragma once

#include <cuda_runtime_api.h>

namespace tiercel {

// For as long as it lives, the calling thread's current GPU is `device`; then again what it was.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    if (cudaGetDevice(&before_) == cudaSuccess && before_ != device) changed_ = cudaSetDevice(device) == cudaSuccess;
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace tiercel
