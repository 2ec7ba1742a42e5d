// Causal attention of many queries per sequence over paged KV on a GPU, by tensor cores: the CUDA counterpart of
// kAttention for chunks of prompts, ragged over sequences.
//
// Queries and softmax weights are multiplied in the element type, f16 or bf16, and summed in float32, as
// kBf16Attention does. A query's result is the same bits whatever other queries share the call. KV in float32
// is for decode_attention(), with a row for each query.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/kv_code.h"

namespace tiercel::kernels::cuda {

// All pointers are device memory. Queries and results have the layout's element type; their rows begin at even
// elements.
struct PrefillAttentionArgs {
  CodedKv kv;                             // Plain; f16 or bf16; head_dim 64, 80, 96, 128 or 256
  const BlockId* block_tables = nullptr;  // [sequences][table_stride]
  std::size_t table_stride = 0;
  const std::uint32_t* query_begins = nullptr;  // [sequences + 1]: where in q those of a sequence are
  const std::uint32_t* lengths = nullptr;       // [sequences]: tokens of KV; the last query is the last of them
  std::size_t sequences = 0;                    // at most 65535
  std::size_t most_queries = 0;                 // no sequence has more
  std::size_t group = 1;                        // query heads of a KV head
  const void* q = nullptr;                      // [query][q_stride], heads of head_dim side by side
  std::size_t q_stride = 0;
  void* out = nullptr;  // [query][out_stride]
  std::size_t out_stride = 0;
  float scale = 1;  // of the scores, 1 / sqrt(head_dim)
};

// cudaErrorNotSupported for f32 and for coded KV.
cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
