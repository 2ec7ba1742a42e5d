// Stands in for CUDA's header of this name: half as a storage type, with its conversions.
#pragma once

#include <cstdint>

#include "tests/cuemu/device_language.h"
#include "tests/cuemu/narrow_floats.h"

struct __half_raw {
  unsigned short x;
};
struct __half {
  unsigned short bits;
  __half() = default;
  __half(float value) : bits(cuemu::half_bits(value)) {}  // NOLINT: implicit, as CUDA's
  __half(__half_raw raw) : bits(raw.x) {}                 // NOLINT
  operator float() const { return cuemu::from_half(bits); }
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) { return {x}; }
inline __half __float2half_rn(float x) { return {x}; }
inline float __half2float(__half x) { return x; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {a.x - b.x, a.y - b.y}; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
