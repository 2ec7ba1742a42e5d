// Stands in for CUDA's header of this name: conversions to and from E4M3.
#pragma once

#include <cuda_fp16.h>

using __nv_fp8_storage_t = unsigned char;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };

// Only what saturates is there.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return cuemu::e4m3_bits(x);
}
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t) {
  return {cuemu::half_bits(cuemu::from_e4m3(x))};
}
