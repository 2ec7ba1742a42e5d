// A Llama-family transformer (Touvron et al. 2023) on the CPU: RMSNorm, RoPE, grouped-query attention over paged KV,
// SwiGLU, tied or own output head. Linear layers run through LibTorch or in place (linear.h), the rest through
// kernels/.
#pragma once

#include <memory>
#include <string>

#include "gguf/gguf_file.h"
#include "model/model_runner.h"
#include "tiercel/options.h"

namespace tiercel {

struct LlamaOptions {
  Compute compute = Compute::Fast;
  bool deterministic = false;  // chunks come with Arithmetic::Prefill or Decode, never Any
  std::uint32_t threads = 1;
  std::size_t max_batch_tokens = 1024;
  std::size_t max_logit_rows = 128;
  std::uint32_t block_tokens = 32;
  bool profile = false;
};

// KV layout of the model in `file` under these options.
KvLayout llama_kv_layout(const ModelShape& shape, const LlamaOptions& options);

// Takes the file over; its mapping serves as weights. Measures and packs. InvalidArgument: a tensor is missing, has
// another shape, or is none that this architecture knows.
Result<std::unique_ptr<ModelRunner>> load_llama(GgufFile file, const LlamaOptions& options);

}  // namespace tiercel
