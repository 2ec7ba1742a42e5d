// A Llama-family transformer (Touvron et al. 2023) on a GPU: every layer by the kernels of kernels/*.cu, over weights
// in the file's precision and KV blocks in the GPU's memory. No LibTorch.
//
// What a step is told is one copy, logits and drawn tokens that it gives back are one each; between them the host waits
// for nothing. A step that only decodes is a CUDA graph.
#pragma once

#include <memory>

#include "gguf/gguf_file.h"
#include "model/device_ranks.h"
#include "model/model_runner.h"
#include "tiercel/options.h"

namespace tiercel {

struct DeviceLlamaOptions {
  int device = 0;                   // by the CUDA runtime's number
  Compute compute = Compute::Fast;  // Precise: float32 activations and KV; otherwise bf16
  bool deterministic = false;       // chunks come with Arithmetic::Prefill or Decode, never Any
  std::size_t max_batch_tokens = 1024;
  std::size_t max_sequences = 128;
  std::size_t max_logit_rows = 128;
  std::size_t context_tokens = 0;  // longest sequence; 0: what the model was trained for
  std::uint32_t block_tokens = 32;
  bool profile = false;  // ModelRunner::profile(): steps are no graphs then
  // The ranks that share the model, and what this one has of it. They all have the same options and call step() with
  // the same chunks. Logits and drawn tokens are rank 0's, and nobody else's: how a token is drawn need be said to rank
  // 0 alone, and to the others that it is (any `draws`, as many). `open_communicator` is called where there is more
  // than one.
  ModelShard shard = {};
  OpenDeviceCommunicator open_communicator = {};
};

// KV layout of a model of this shape under these options, of this rank.
inline KvLayout device_llama_kv_layout(const ModelShape& shape, const DeviceLlamaOptions& options) {
  return {.layers = options.shard.size > 1 ? options.shard.layers.count : shape.layers,
          .kv_heads = options.shard.size > 1 ? options.shard.kv_heads.count : shape.kv_heads,
          .head_dim = shape.head_dim,
          .block_tokens = options.block_tokens,
          .dtype = options.compute == Compute::Precise ? DType::F32 : DType::BF16};
}

// With ranks it waits for all of them. Weights and workspace go to the GPU; the file is not needed afterwards. Its
// step() takes an arena of device memory (DeviceBlockMemory). InvalidArgument: what read_llama_config() and
// read_llama_tensors() refuse, or a head size that the kernels have not; or the ranks have different models or GPUs.
// ResourceExhausted: the GPU's memory does not suffice. Unavailable: no such GPU, or it failed; then every later step()
// says so too.
Result<std::unique_ptr<ModelRunner>> load_device_llama(const GgufFile& file, const DeviceLlamaOptions& options);

}  // namespace tiercel
