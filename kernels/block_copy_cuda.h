// Copies of many whole blocks by one kernel: within device memory (copy-on-write, blocks moved to where a batch needs
// them), and between it and pinned host memory where a copy engine's cost per copy would be felt.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace tiercel::kernels::cuda {

// Both ends begin at multiples of 16 bytes. The copies of one call may not overlap each other.
struct BlockCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
};

// `copies` lies in memory that the device reads: `count` of them, at most 65535, `bytes` each, a multiple of 16.
cudaError_t copy_blocks(const BlockCopy* copies, std::size_t count, std::size_t bytes, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
