#include <cuda_runtime.h>

#include "kernels/block_copy_cuda.h"
#include "kernels/cuda_values.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // loads of a thread that are under way together

// Block: a piece (x) of one copy (y). Each thread moves kAtOnce times 16 bytes.
__global__ void __launch_bounds__(kThreads) copy_pieces(const BlockCopy* copies, const unsigned units) {
  const BlockCopy copy = copies[blockIdx.y];
  const auto* from = reinterpret_cast<const uint4*>(copy.from);
  auto* to = reinterpret_cast<uint4*>(copy.to);
  const unsigned first = blockIdx.x * kThreads * kAtOnce + threadIdx.x;
  uint4 held[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (first + i * kThreads < units) held[i] = from[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (first + i * kThreads < units) to[first + i * kThreads] = held[i];
  }
}

}  // namespace

cudaError_t copy_blocks(const BlockCopy* copies, std::size_t count, std::size_t bytes, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto units = static_cast<unsigned>(bytes / sizeof(uint4));
  const cudaLaunchConfig_t config = {
      {divide_up(units, kThreads * kAtOnce), static_cast<unsigned>(count)}, kThreads, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, copy_pieces, copies, units);
}

}  // namespace tiercel::kernels::cuda
