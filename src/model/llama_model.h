// A Llama-family transformer (Touvron et al. 2023) on the CPU: RMSNorm, RoPE, grouped-query attention over paged KV,
// SwiGLU, tied or own output head. Linear layers run through LibTorch or in place (linear.h), the rest through
// kernels/.
#pragma once

#include <memory>
#include <string>

#include "gguf/gguf_file.h"
#include "model/model_runner.h"
#include "model/model_shard.h"
#include "tiercel/options.h"

namespace tiercel {

class Communicator;  // ranks/communicator.h

struct LlamaOptions {
  Compute compute = Compute::Fast;
  KvDType kv_dtype = KvDType::Auto;
  bool deterministic = false;  // chunks come with Arithmetic::Prefill or Decode, never Any
  std::uint32_t threads = 1;
  std::size_t max_batch_tokens = 1024;
  std::size_t max_logit_rows = 128;
  std::uint32_t block_tokens = 32;
  bool profile = false;
  // The ranks that share the model, and what this one has of it; null: alone. It outlives the model. They all have the
  // same options and call step() with the same chunks; logits are rank 0's, and nobody else's.
  Communicator* communicator = nullptr;
  ModelShard shard = {};
};

// KV layout of a model of this shape under these options, of this rank.
KvLayout llama_kv_layout(const ModelShape& shape, const LlamaOptions& options);

// What runners of one model share: the file's mapping and its weights, packed for this machine. Never changed.
struct LlamaParameters;

// Takes the file over; its mapping serves as weights. Measures and packs, with options.threads. InvalidArgument: a
// tensor is missing, has another shape, or is none that this architecture knows.
Result<std::shared_ptr<const LlamaParameters>> load_llama_parameters(GgufFile file, const LlamaOptions& options);

// A runner with threads and a workspace of its own; its threads may run where the calling one may. `options` but for
// `threads` as they were at loading. Its memory() has the weights too, which are there once for all runners.
// InvalidArgument: the ranks have different models, options or processors. With ranks it waits for all of them, and
// returns the communicator's Status where one fails.
Result<std::unique_ptr<ModelRunner>> make_llama(std::shared_ptr<const LlamaParameters> parameters,
                                                const LlamaOptions& options);

// Both.
Result<std::unique_ptr<ModelRunner>> load_llama(GgufFile file, const LlamaOptions& options);

}  // namespace tiercel
