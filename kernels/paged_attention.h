// Causal attention of new tokens over KV blocks, read where they lie (paged attention, Kwon et al. 2023) with an online
// softmax (Milakov and Gimelshein 2018). CPU, Highway; the block bytes are those of docs/block_format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tiercel/types.h"

namespace tiercel::kernels {

// Where one layer of a sequence's KV lies.
struct PagedKv {
  std::byte* arena = nullptr;  // block b begins at arena + b * layout.block_bytes()
  KvLayout layout;
  std::size_t layer = 0;
};

// Writes K and V of one token, float32 [kv_heads][head_dim] each, into its place in `block`.
void append_kv(const PagedKv& kv, BlockId block, std::size_t token_in_block, const float* k, const float* v);

// How scores are computed. Each style's result for a query is the same bits whatever other queries share the call.
enum class AttentionStyle {
  Decode,   // dot products along head_dim: for few queries
  Prefill,  // K transposed once per block, then outer products: for many queries
};

struct AttentionArgs {
  PagedKv kv;
  const BlockId* block_table = nullptr;  // covers first_position + tokens positions
  std::size_t first_position = 0;        // of the first query
  std::size_t tokens = 0;                // queries; query i sees positions 0 .. first_position + i
  std::size_t kv_head = 0;
  std::size_t group = 1;     // query heads of this KV head: kv_head * group .. + group - 1
  const float* q = nullptr;  // [tokens][q_stride], heads of head_dim side by side
  std::size_t q_stride = 0;
  float* out = nullptr;  // the same shape as q
  std::size_t out_stride = 0;
  float scale = 1;  // of the scores, 1 / sqrt(head_dim)
  AttentionStyle style = AttentionStyle::Decode;
};

// Floats of scratch that one call needs.
std::size_t attention_scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group);

// One KV head of one run of queries. `scratch` holds attention_scratch_floats(...), 64-byte aligned, not shared between
// concurrent calls.
void paged_attention(const AttentionArgs& args, float* scratch);

// The same over bf16 KV, with bf16 queries and softmax weights: for processors with has_bf16_products()
// (group_linear.h). It has one style, whose result for a query is the same bits whatever others share the call.
std::size_t bf16_attention_scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group);
void paged_attention_bf16(const AttentionArgs& args, float* scratch);

}  // namespace tiercel::kernels
