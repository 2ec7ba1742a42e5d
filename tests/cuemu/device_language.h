// What CUDA C++ adds to the language, for a kernel that runs on the emulator (grid.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

// Before the names of indices become macros.
#include <cuda_runtime_api.h>

#include "tests/cuemu/grid.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

#define threadIdx (::cuemu::place->thread)
#define blockIdx (::cuemu::place->block)
#define blockDim (::cuemu::place->block_size)
#define gridDim (::cuemu::place->grid_size)
constexpr int warpSize = 32;

// Operations on all threads of a block, or on the lanes of a warp.

using CuemuWhere = std::source_location;

inline void __syncthreads(const CuemuWhere& where = CuemuWhere::current()) {
  cuemu::block_barrier(cuemu::Barrier::Plain, 0, where);
}
inline int __syncthreads_count(int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return cuemu::block_barrier(cuemu::Barrier::Count, predicate, where);
}
inline int __syncthreads_and(int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return cuemu::block_barrier(cuemu::Barrier::And, predicate, where);
}
inline int __syncthreads_or(int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return cuemu::block_barrier(cuemu::Barrier::Or, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const CuemuWhere& where = CuemuWhere::current()) {
  cuemu::warp_operation(cuemu::WarpOperation::Sync, mask, 0, 0, where);
}
inline unsigned __activemask() { return 1u << cuemu::place->lane; }
inline void __threadfence() { cuemu::thread_fence(); }
inline void __threadfence_block() { cuemu::thread_fence(); }

namespace cuemu {

template <class T>
T shuffle(unsigned mask, T value, int source, const std::source_location& where) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_operation(WarpOperation::Shuffle, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Lanes are shuffled within segments of `width`; outside of its own a lane reads itself.
inline int segment_begin(int width) { return static_cast<int>(place->lane) & ~(width - 1); }

}  // namespace cuemu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, const CuemuWhere& where = CuemuWhere::current()) {
  return cuemu::shuffle(mask, value, cuemu::segment_begin(width) + (source & (width - 1)), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const CuemuWhere& where = CuemuWhere::current()) {
  const int source = static_cast<int>(cuemu::place->lane) - static_cast<int>(delta);
  return cuemu::shuffle(mask, value, source >= cuemu::segment_begin(width) ? source : -1, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const CuemuWhere& where = CuemuWhere::current()) {
  const int source = static_cast<int>(cuemu::place->lane + delta);
  return cuemu::shuffle(mask, value, source < cuemu::segment_begin(width) + width ? source : -1, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, const CuemuWhere& where = CuemuWhere::current()) {
  const int source = static_cast<int>(cuemu::place->lane) ^ lanes;
  return cuemu::shuffle(mask, value, source < cuemu::segment_begin(width) + width ? source : -1, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return static_cast<unsigned>(cuemu::warp_operation(cuemu::WarpOperation::Ballot, mask, predicate != 0, 0, where));
}
inline int __any_sync(unsigned mask, int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const CuemuWhere& where = CuemuWhere::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, const CuemuWhere& where = CuemuWhere::current()) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return static_cast<unsigned>(cuemu::warp_operation(cuemu::WarpOperation::Match, mask, bits, 0, where));
}

// Atomics: of 4 and 8 bytes, and relaxed, as CUDA's are.

namespace cuemu {

template <class T, class Change>
T change_atomically(T* address, const Change& change) {
  T old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  for (;;) {
    T changed = change(old);
    if (__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
  }
}

}  // namespace cuemu

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return static_cast<T>(old - value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return std::max(old, value); });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return std::min(old, value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return old | value; });
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return old & value; });
}
template <class T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return old ^ value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return cuemu::change_atomically(address, [&](T old) { return old == compare ? value : old; });
}

// Arithmetic. What a device approximates is exact to a float's rounding here.

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
// Four of the eight bytes of y and x; each 4 bits of the selector name one.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7u) & 0xffu) << 8 * i;
  }
  return result;
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
using std::max;
using std::min;
