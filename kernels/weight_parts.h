// How a lane reads its part of a group of weights (device_weights.h), and what it makes of it: operands of tensor cores
// with the scales that their product takes, or values in float32.
//
// A part is 8 columns of 4 outputs. pair<T>(j, p) is columns 2 p and 2 p + 1 of output j in a register, as integers in
// the element type where the weight has a scale; value(j, i) is the weight in column i.
#pragma once

#include "kernels/device_weights.h"
#include "kernels/tensor_core.h"

namespace tiercel::kernels::cuda {

struct alignas(16) Quad {
  unsigned values[4];
};

enum class Reads { Once, Again };  // whether the device is to keep what is read near

template <Reads reads>
__device__ Quad load_quad(const std::byte* at) {
  const uint4* from = reinterpret_cast<const uint4*>(at);
  const uint4 quad = reads == Reads::Once ? __ldcs(from) : *from;
  return {quad.x, quad.y, quad.z, quad.w};
}

// Two elements side by side: from this number on (1024 in f16, 128 in bf16) the next 128 integers are in the low bits.
template <class T>
constexpr unsigned kIntegersBegin = std::is_same_v<T, __half> ? 0x64006400u : 0x43004300u;
template <class T>
constexpr unsigned kOnes = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;

// bits & mask | others, by one operation.
__device__ inline unsigned select_bits(unsigned bits, unsigned mask, unsigned others) {
#if defined(__CUDA_ARCH__)
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(bits), "r"(mask), "r"(others));
  return result;
#else
  return (bits & mask) | others;
#endif
}

template <class T>
__device__ unsigned subtract_pairs(unsigned a, unsigned b) {
  using Two = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  const Two difference = __hsub2(reinterpret_cast<const Two&>(a), reinterpret_cast<const Two&>(b));
  return reinterpret_cast<const unsigned&>(difference);
}

__device__ inline float half_bits_to_float(unsigned bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

struct Group4Part {
  static constexpr bool kHasScale = true, kHasMinimum = true;
  Quad scales, nibbles;

  template <Reads reads>
  __device__ static Group4Part load(const std::byte* group, int lane) {
    return {load_quad<reads>(group + 16 * (lane / 4)), load_quad<reads>(group + 4 * kDeviceTileOutputs + 16 * lane)};
  }
  __device__ float scale(int j) const { return half_bits_to_float(scales.values[j] & 0xffffu); }
  __device__ float minimum(int j) const { return half_bits_to_float(scales.values[j] >> 16); }
  template <class T>
  __device__ unsigned pair(int j, int p) const {
    return subtract_pairs<T>(select_bits(nibbles.values[j] >> 4 * p, 0x000f000fu, kIntegersBegin<T>),
                             kIntegersBegin<T>);
  }
  __device__ float value(int j, int i) const {
    const unsigned nibble = nibbles.values[j] >> (4 * (i / 2) + 16 * (i % 2)) & 15u;
    return __fmaf_rn(static_cast<float>(nibble), scale(j), minimum(j));
  }
};

struct Group8Part {
  static constexpr bool kHasScale = true, kHasMinimum = false;
  struct alignas(8) Scales {
    unsigned values[2];
  };
  Scales scales;
  Quad bytes[2];

  template <Reads reads>
  __device__ static Group8Part load(const std::byte* group, int lane) {
    const std::byte* at = group + 2 * kDeviceTileOutputs + 16 * lane;
    return {reinterpret_cast<const Scales*>(group)[lane / 4],
            {load_quad<reads>(at), load_quad<reads>(at + 16 * kWarpLanes)}};
  }
  __device__ float scale(int j) const { return half_bits_to_float(scales.values[j / 2] >> 16 * (j % 2) & 0xffffu); }
  __device__ static float minimum(int) { return 0; }
  template <class T>
  __device__ unsigned pair(int j, int p) const {
    const unsigned two = __byte_perm(four(j, p / 2), 0, p % 2 == 0 ? 0x4140 : 0x4342);
    // 7 bits, less 128 where the eighth is set.
    return subtract_pairs<T>(select_bits(two, 0x007f007fu, kIntegersBegin<T>),
                             select_bits(two, 0x00800080u, kIntegersBegin<T>));
  }
  __device__ float value(int j, int i) const {
    return static_cast<float>(static_cast<signed char>(four(j, i / 4) >> 8 * (i % 4))) * scale(j);
  }

 private:
  __device__ unsigned four(int j, int half) const { return bytes[j / 2].values[j % 2 * 2 + half]; }
};

template <class T>
struct PlainPart {
  static constexpr bool kHasScale = false, kHasMinimum = false;
  static constexpr int kQuads = 4 * 8 * sizeof(T) / sizeof(Quad);
  Quad quads[kQuads];

  template <Reads reads>
  __device__ static PlainPart load(const std::byte* group, int lane) {
    PlainPart part;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) part.quads[q] = load_quad<reads>(group + 16 * (q * kWarpLanes + lane));
    return part;
  }
  template <class Element>
  __device__ unsigned pair(int j, int p) const {
    static_assert(std::is_same_v<T, Element>);
    return quads[j].values[p];
  }
  __device__ float value(int j, int i) const {
    const unsigned register_ = quads[j * kQuads / 4 + i * sizeof(T) / 16].values[i * sizeof(T) / 4 % 4];
    if constexpr (sizeof(T) == 4) return __uint_as_float(register_);
    const auto bits = static_cast<unsigned short>(register_ >> 16 * (i % 2));
    return to_float(reinterpret_cast<const T&>(bits));
  }
};

template <class T, WeightCode code>
using Part = std::conditional_t<code == WeightCode::Group4, Group4Part,
                                std::conditional_t<code == WeightCode::Group8, Group8Part, PlainPart<T>>>;

template <class T>
constexpr DType kDTypeOf = sizeof(T) == 4              ? DType::F32
                           : std::is_same_v<T, __half> ? DType::F16
                                                       : DType::BF16;

// Where a tile begins.
template <class T, WeightCode code>
__device__ const std::byte* tile_of(const DeviceWeights& w, unsigned tile) {
  return w.data + tile * (w.columns / kDeviceGroupColumns) * device_group_bytes(code, kDTypeOf<T>);
}

// Calls f with the code as a constant. Host only.
template <class Function>
cudaError_t with_code(WeightCode code, const Function& f) {
  switch (code) {
    case WeightCode::Group4: return f(std::integral_constant<WeightCode, WeightCode::Group4>());
    case WeightCode::Group8: return f(std::integral_constant<WeightCode, WeightCode::Group8>());
    case WeightCode::Plain: return f(std::integral_constant<WeightCode, WeightCode::Plain>());
  }
  return cudaErrorInvalidValue;
}

}  // namespace tiercel::kernels::cuda
