// Rows that are picked by index, on a GPU: tokens' rows of the embedding, and the rows of a step whose logits are
// wanted. All pointers are device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/device_weights.h"

namespace tiercel::kernels::cuda {

// out[r] = row tokens[r] of the table, rounded to the type: what dequantize() has, rounded once. The table is packed as
// weights are, so that one which is also the output head is in memory once.
struct EmbeddingArgs {
  DType dtype = DType::BF16;        // of out, and of a Plain table
  DeviceWeights table;              // an output for each token
  const TokenId* tokens = nullptr;  // [rows], each below table.outputs
  std::size_t rows = 0;             // 0: nothing is done
  void* out = nullptr;              // [rows][out_stride], rows begin at multiples of 16 bytes
  std::size_t out_stride = 0;       // in elements
};
cudaError_t embed(const EmbeddingArgs& args, cudaStream_t stream);

// to[i] = from[rows[i]], the bytes. Rows begin at multiples of 16 bytes and are whole multiples of 16 bytes long.
struct GatherRowsArgs {
  DType dtype = DType::BF16;
  const void* from = nullptr;  // [...][from_stride], strides in elements
  std::size_t from_stride = 0;
  const std::uint32_t* rows = nullptr;  // [count]; a row may be named more than once
  std::size_t count = 0;                // 0: nothing is done
  std::size_t width = 0;                // elements of a row
  void* to = nullptr;                   // [count][to_stride]; does not overlap `from`
  std::size_t to_stride = 0;
};
cudaError_t gather_rows(const GatherRowsArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
