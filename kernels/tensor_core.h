// Tensor cores: products of small matrices that a warp holds in registers, by PTX on a GPU. The portable body does the
// same by shuffles; it says where each value is held, and runs on the emulator.
//
// The matrices are those of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With g = lane / 4 and t = lane
// % 4, values in pairs of neighbours, the first in the low half of a register:
//   A, 16 x 16   a[0] row g, columns 2t and 2t + 1; a[1] row g + 8; a[2] row g, columns 2t + 8 and 2t + 9; a[3] row g +
//   8 B, 16 x 8    b[0] rows 2t and 2t + 1 of column g; b[1] rows 2t + 8 and 2t + 9 C, 16 x 8    c[0] and c[1] row g,
//   columns 2t and 2t + 1; c[2] and c[3] row g + 8
#pragma once

#include <type_traits>

#include "kernels/cuda_values.h"

namespace tiercel::kernels::cuda {

// Two values side by side in a register.
template <class T>
struct alignas(4) Pair {
  T low, high;
};
template <class T>
__device__ unsigned pack(float low, float high) {
  const Pair<T> pair = {from_float<T>(low), from_float<T>(high)};
  return reinterpret_cast<const unsigned&>(pair);
}
template <class T>
__device__ unsigned load_pair(const T* values) {  // at an even element
  return *reinterpret_cast<const unsigned*>(values);
}

// c += a * b, in float32. All lanes of the warp call it.
template <class T>
__device__ void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  const int lane = threadIdx.x % kWarpLanes, g = lane / 4, t = lane % 4;
  const auto from = [](unsigned first, unsigned second, int source) {
    const unsigned long long both = static_cast<unsigned long long>(second) << 32 | first;
    return __shfl_sync(kAllLanes, both, source);
  };
  const auto value = [](unsigned long long registers, int i) {
    const auto bits = static_cast<unsigned short>(registers >> 16 * i);
    return to_float(reinterpret_cast<const T&>(bits));
  };
  for (int s = 0; s < 4; ++s) {
    const unsigned long long left = from(a[0], a[1], 4 * g + s), right = from(a[2], a[3], 4 * g + s);
    for (int column = 0; column < 2; ++column) {
      const unsigned long long down = from(b[0], b[1], 4 * (2 * t + column) + s);
      for (int row = 0; row < 2; ++row) {  // registers: row g in the low half, row g + 8 in the high
        for (int i = 0; i < 2; ++i) {
          c[2 * row + column] += value(left, 2 * row + i) * value(down, i);
          c[2 * row + column] += value(right, 2 * row + i) * value(down, 2 + i);
        }
      }
    }
  }
#endif
}

// B from 16 rows of 8 values in shared memory, each row at a multiple of 16 bytes. All lanes of the warp call it.
template <class T>
__device__ void load_rows(unsigned (&b)[2], const T* rows, int stride) {
  const int lane = threadIdx.x % kWarpLanes;
#if defined(__CUDA_ARCH__)
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(rows + lane % 16 * stride));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(b[0]), "=r"(b[1])
               : "r"(address)
               : "memory");
#else
  const T* column = rows + lane / 4;
  const int row = lane % 4 * 2;
  for (int half_of_rows = 0; half_of_rows < 2; ++half_of_rows) {
    const T* at = column + (row + 8 * half_of_rows) * stride;
    const Pair<T> pair = {at[0], at[stride]};
    b[half_of_rows] = reinterpret_cast<const unsigned&>(pair);
  }
#endif
}

}  // namespace tiercel::kernels::cuda
