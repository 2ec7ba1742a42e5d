// Causal attention of new tokens over KV blocks, read where they lie (paged attention, Kwon et al. 2023) with an online
// softmax (Milakov and Gimelshein 2018). CPU, Highway; the block bytes are those of docs/block_format.md. Where they
// are int8, scores are sums over codes, times the key's scale, and softmax weights take the value's. What a context's
// sections give, and how it becomes one: attention_state.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/product_peak.h"
#include "tiercel/types.h"

namespace tiercel::kernels {

// Where one layer of a sequence's KV lies.
struct PagedKv {
  std::byte* arena = nullptr;  // block b begins at arena + b * layout.block_stride()
  KvLayout layout;
  std::size_t layer = 0;
};

// Writes K and V of one token, float32 [kv_heads][head_dim] each, into its place in `block`; of Int8 as
// encode_row() (kv_code.h) has them, to the bit.
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
  // To share one call among threads: compute only section `section` of the context, whose state goes to its place in
  // `states`, 64-byte aligned, [section][state_floats]; nothing goes to `out`. Then merge_sections() makes the result,
  // the same bits as those of one call. Null: everything.
  float* states = nullptr;
  std::size_t section = 0;
};

// One way to compute it. The functions take one KV head of one run of queries; `scratch` holds scratch_floats(...),
// 64-byte aligned, not shared between concurrent calls.
struct AttentionKernel {
  void (*attend)(const AttentionArgs& args, float* scratch);
  // All sections' states are there: `out` from them. They are spoilt.
  void (*merge_sections)(const AttentionArgs& args);
  std::size_t (*scratch_floats)(const KvLayout& layout, std::size_t tokens, std::size_t group);
  std::size_t (*state_floats)(const KvLayout& layout, std::size_t tokens, std::size_t group);
  std::size_t (*section_tokens)(const KvLayout& layout);
  // attend() of several runs, with the same bits: of one layer, KV head, group and style, none cut into sections, with
  // scratch for the queries of all. Their contexts begin with the same blocks, `shared` tokens of them, a multiple of
  // span_tokens, and all queries see these: they are read once for all. Null: nothing is gained.
  void (*attend_together)(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) = nullptr;
  std::size_t span_tokens = 0;
  // What most of the work is done by.
  Products prefill_products = Products::F32, decode_products = Products::F32;

  Products products(AttentionStyle style) const {
    return style == AttentionStyle::Prefill ? prefill_products : decode_products;
  }
  // Of a context of so many positions.
  std::size_t sections(const KvLayout& layout, std::size_t positions) const {
    const std::size_t tokens = section_tokens(layout);
    return (positions + tokens - 1) / tokens;
  }
};

// In float32, for every processor and dtype.
extern const AttentionKernel kAttention;
// Over bf16 or int8 KV, with bf16 queries and softmax weights: for processors with has_bf16_products()
// (group_linear.h). It has one style, whose result for a query is the same bits whatever others share the call.
extern const AttentionKernel kBf16Attention;
// The same in float32, for those of these processors that prefer it (prefers_int16_products()).
extern const AttentionKernel kWidenedAttention;
// The faster of the two on this processor.
const AttentionKernel& decode_attention();
// Over bf16 or int8 KV: what is of the style Prefill by products of bytes, what is of the style Decode as above. For
// processors with has_int8_attention().
extern const AttentionKernel kInt8Attention;
bool has_int8_attention();
// Likewise by products of 16-bit integers, which are no less exact than bf16: for processors with
// has_int16_attention() that prefer them (prefers_int16_products()).
extern const AttentionKernel kInt16Attention;
bool has_int16_attention();

}  // namespace tiercel::kernels
