#include <cuda_runtime.h>

#include "tests/cuemu/test_kernels.h"

namespace cuemu {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kMostThreads = 128;

__device__ int thread_of_block() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
__device__ int block_of_grid() { return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); }

template <class T>
__global__ void __launch_bounds__(kMostThreads) language(const Results r) {
  __shared__ T values[kMostThreads];
  const int size = blockDim.x * blockDim.y * blockDim.z, thread = thread_of_block(), block = block_of_grid();
  const int index = block * size + thread;
  r.indices[index] = index;
  values[thread] = static_cast<T>(index);
  __syncthreads();
  r.reversed[index] = static_cast<int>(values[size - 1 - thread]);

  const int count = __syncthreads_count(thread % 3 == 0), all = __syncthreads_and(thread >= 0),
            any = __syncthreads_or(thread < 0);
  if (block == 0) {
    r.barrier_results[3 * thread] = count;
    r.barrier_results[3 * thread + 1] = all;
    r.barrier_results[3 * thread + 2] = any;
  }
  atomicAdd(&r.sums[0], 1ull);
  atomicMax(&r.sums[1], static_cast<unsigned long long>(index));
  atomicMin(&r.sums[2], static_cast<unsigned long long>(index));
  atomicAdd(reinterpret_cast<float*>(&r.sums[3]), 0.5f);
  atomicOr(reinterpret_cast<unsigned*>(&r.sums[4]), 1u << (thread % 32));
  atomicSub(reinterpret_cast<int*>(&r.sums[5]), 2);
  for (unsigned long long seen = r.sums[6] * 0, old; (old = atomicCAS(&r.sums[6], seen, seen + 3)) != seen;) seen = old;
  atomicExch(&r.sums[7], 7ull);

  if (block != 0) return;
  const unsigned lane = thread % 32;
  unsigned* out = r.lanes + 16 * thread;
  out[0] = __shfl_sync(kAll, lane, 5);
  out[1] = __shfl_sync(kAll, lane, 9, 8);
  out[2] = __shfl_up_sync(kAll, lane, 3);
  out[3] = __shfl_up_sync(kAll, lane, 3, 16);
  out[4] = __shfl_down_sync(kAll, lane, 3);
  out[5] = __shfl_down_sync(kAll, lane, 3, 4);
  out[6] = __shfl_xor_sync(kAll, lane, 16);
  out[7] = static_cast<unsigned>(__shfl_xor_sync(kAll, 0.5f + lane, 1));
  out[8] = __ballot_sync(kAll, lane % 4 == 1);
  out[9] = __any_sync(kAll, lane == 7);
  out[10] = __all_sync(kAll, lane != 7);
  out[11] = __match_any_sync(kAll, lane / 8);
  // Halves of a warp go different ways, and meet again.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  if (lane < 16) {
    out[12] = __ballot_sync(half, lane % 2);
  } else {
    out[12] = __shfl_sync(half, lane, 20);
  }
  __syncwarp();
  out[13] = __ballot_sync(kAll, 1);
  out[14] = static_cast<unsigned>(__shfl_sync(kAll, 0x100000000ull * lane, 3) >> 32);
  out[15] = (__activemask() >> lane) & 1u;
}

__global__ void reverse(const int* __restrict__ from, int* __restrict__ to) {
  extern __shared__ int values[];
  values[threadIdx.x] = __ldg(from + threadIdx.x);
  __syncthreads();
  to[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

__global__ void increment(const int* from, int* to, unsigned count) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from[i] + 1;
}

__global__ void last_block(unsigned* last) {
  if (threadIdx.x == 0) atomicExch(last, blockIdx.x);
}

__global__ void vector_roots(const float4* from, float4* to) {
  const float4 v = from[threadIdx.x];
  to[threadIdx.x] = make_float4(sqrtf(v.x), sqrtf(v.y), sqrtf(v.z), sqrtf(v.w));
}

}  // namespace

cudaError_t run_language(const Results& results, dim3 grid, dim3 block, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {grid, block, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, language<double>, results);
}
cudaError_t run_reverse(const int* from, int* to, unsigned count, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {1, count, count * sizeof(int), stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, reverse, from, to);
}
cudaError_t run_increment(const int* from, int* to, unsigned count, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {(count + 31) / 32, 32, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, increment, from, to, count);
}
cudaError_t run_last_block(unsigned blocks, unsigned* last, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {blocks, 32, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, last_block, last);
}
cudaError_t run_vector_roots(const float* from, float* to, unsigned count, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {1, count / 4, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, vector_roots, reinterpret_cast<const float4*>(from),
                            reinterpret_cast<float4*>(to));
}

}  // namespace cuemu
