// The model on the CPU, for programs that have only the one on (emulated) GPUs, and so need no LibTorch.
#include "model/llama_model.h"

namespace tiercel {
namespace {

Status not_here() { return Status::unavailable("this program has no model on the CPU"); }

}  // namespace

KvLayout llama_kv_layout(const ModelShape& shape, const LlamaOptions& options) {
  return {.layers = shape.layers,
          .kv_heads = options.shard.size > 1 ? options.shard.kv_heads.count : shape.kv_heads,
          .head_dim = shape.head_dim,
          .block_tokens = options.block_tokens,
          .dtype = options.compute == Compute::Precise ? DType::F32 : DType::BF16};
}

Result<std::shared_ptr<const LlamaParameters>> load_llama_parameters(GgufFile, const LlamaOptions&) {
  return not_here();
}

Result<std::unique_ptr<ModelRunner>> make_llama(std::shared_ptr<const LlamaParameters>, const LlamaOptions&) {
  return not_here();
}

}  // namespace tiercel
