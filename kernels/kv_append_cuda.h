// RoPE of new tokens' queries and keys, and their K and V into KV blocks, by one kernel on a GPU: the CUDA counterpart
// of rope() and append_kv(), and of encode_row() where KV is kept in fewer bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/kv_code.h"

namespace tiercel::kernels::cuda {

// All pointers are device memory. q, k and v have the layout's element type, heads of head_dim side by side; they may
// be parts of the same rows. Rows begin at even elements.
struct KvAppendArgs {
  CodedKv kv;                                // head_dim 64, 80, 96, 128 or 256
  const std::uint32_t* slots = nullptr;      // [tokens]: block * block_tokens + token in block; no two are the same
  const std::uint32_t* positions = nullptr;  // [tokens]
  const float* cos_sin = nullptr;            // [position][pairs][2], as rope_angles() gives them
  std::size_t pairs = 0;                     // how many of a head's leading pairs are rotated
  std::size_t tokens = 0;                    // at most 65535
  std::size_t query_heads = 0;
  void* q = nullptr;  // [tokens][q_stride], rotated in place
  std::size_t q_stride = 0;
  const void* k = nullptr;  // [tokens][kv_stride], left as it is
  const void* v = nullptr;
  std::size_t kv_stride = 0;
};
cudaError_t kv_append(const KvAppendArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
