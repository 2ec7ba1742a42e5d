// Attention of one query per row over paged KV on a GPU: the CUDA counterpart of kAttention with few queries.
//
// A row's KV is cut into splits of a fixed number of tokens, whatever else runs, and their results are put together in
// order: a row's result is the same bits in every batch. One read of K and V serves all query heads of a KV head, up
// to 8.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/kv_code.h"

namespace tiercel::kernels::cuda {

// All pointers are device memory. Queries and results have the layout's element type, also where KV is coded; then it
// is not f32.
struct DecodeAttentionArgs {
  CodedKv kv;                             // head_dim 64, 80, 96, 128 or 256
  const BlockId* block_tables = nullptr;  // [sequence][table_stride]
  std::size_t table_stride = 0;
  const std::uint32_t* row_sequences = nullptr;  // [rows]: whose table a row reads; null: row i is of sequence i
  const std::uint32_t* lengths = nullptr;        // [rows]: tokens that a row sees, itself included; at least 1
  std::size_t rows = 0;                          // at most 65535
  std::size_t longest = 0;                       // no length is greater
  std::size_t group = 1;                         // query heads of a KV head
  const void* q = nullptr;                       // [rows][q_stride], heads of head_dim side by side
  std::size_t q_stride = 0;
  void* out = nullptr;  // [rows][out_stride]
  std::size_t out_stride = 0;
  float scale = 1;             // of the scores, 1 / sqrt(head_dim)
  float* workspace = nullptr;  // decode_attention_workspace_floats(...)
};

std::size_t decode_attention_workspace_floats(const KvLayout& layout, std::size_t rows, std::size_t group,
                                              std::size_t longest);

// Two kernels on `stream`, one where no row has more than one split.
cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
