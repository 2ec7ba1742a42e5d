// Stands in for CUDA's header of this name: the language of kernels, and launching them.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <utility>

#include "tests/cuemu/device_language.h"

namespace cuemu {
cudaError_t launch(const cudaLaunchConfig_t& shape, const void* kernel, std::function<void()> thread);
cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
}  // namespace cuemu

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return [&](Parameters... parameters) {
    return cuemu::launch(*config, reinterpret_cast<const void*>(kernel), [=] { kernel(parameters...); });
  }(std::forward<Arguments>(arguments)...);
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cuemu::set_function_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
