// What the CUDA kernels share: values of device memory as float32, read and written 16 bytes at a time, and reductions
// within a warp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tiercel/types.h"

namespace tiercel::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpLanes = 32;
constexpr float kLowest = -1e30f;  // a maximum before the first score: no NaN when infinities are subtracted from it
constexpr float kLog2E = 1.44269504f;

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// 16 bytes of a row, one load or store. The row begins at a multiple of 16 bytes.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];

  __device__ static Pack load(const T* row, int index) { return reinterpret_cast<const Pack*>(row)[index]; }
  __device__ void store(T* row, int index) const { reinterpret_cast<Pack*>(row)[index] = *this; }
};

// Over `width` neighbouring lanes, a power of two; every lane gets the result. All lanes of the warp call it.
template <int width = kWarpLanes>
__device__ inline float lane_sum(float value) {
  for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
template <int width = kWarpLanes>
__device__ inline float lane_max(float value) {
  for (int distance = width / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

constexpr unsigned divide_up(unsigned n, unsigned by) { return (n + by - 1) / by; }

// Calls f with a value of the element type. Host only.
template <class Function>
cudaError_t with_type(DType dtype, const Function& f) {
  switch (dtype) {
    case DType::F32: return f(float());
    case DType::F16: return f(__half());
    case DType::BF16: return f(__nv_bfloat16());
    case DType::Int8: break;  // what is computed with; codes are a KvCode
  }
  return cudaErrorInvalidValue;
}

// A number that is known when a kernel is compiled.
template <int value_>
struct Constant {
  static constexpr int value = value_;
};

// Calls f with the head size as a Constant; cudaErrorInvalidValue for one that no kernel is compiled for.
template <class Function>
cudaError_t with_head_dim(unsigned head_dim, const Function& f) {
  switch (head_dim) {
    case 64: return f(Constant<64>());
    case 80: return f(Constant<80>());
    case 96: return f(Constant<96>());
    case 128: return f(Constant<128>());
    case 256: return f(Constant<256>());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace tiercel::kernels::cuda
