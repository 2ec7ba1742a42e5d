// The tensors of a Llama-family model, found in a GGUF file with their names and shapes checked, and cut to what a rank
// has. Nothing is computed or packed here, and no LibTorch needed: each device packs them as its kernels want them.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "gguf/gguf_file.h"
#include "model/llama_config.h"
#include "model/model_shard.h"
#include "tiercel/status.h"

namespace tiercel {

// Matrices are [outputs][columns]. Of a rank's heads and feed-forward rows: what it adds to the residual stream is a
// part, that of all ranks of its stage is the sum.
struct LlamaLayerTensors {
  std::vector<float> attention_norm;     // [hidden]
  std::array<GgufTensor, 3> qkv;         // hidden -> query heads, key heads, value heads
  GgufTensor attention_output;           // query heads -> hidden
  std::vector<float> feed_forward_norm;  // [hidden]
  std::array<GgufTensor, 2> gate_up;     // hidden -> feed_forward each
  GgufTensor down;                       // feed_forward -> hidden
};

struct LlamaTensors {
  GgufTensor embedding;                        // [vocabulary][hidden], whole
  std::vector<LlamaLayerTensors> layers;       // of the shard's stage
  std::vector<float> output_norm;              // [hidden]
  GgufTensor head;                             // hidden -> vocabulary; with a tied head the embedding's rows
  std::vector<std::vector<std::byte>> copies;  // of columns: what tensors point to that are no view into the file
  std::size_t mapped_bytes = 0;                // of matrices that are views into the file
};

// What `shard` has, as views into `file` and `copies`. `config` is that of the whole model. InvalidArgument: a tensor
// is missing, has another shape, or is none that this architecture has (using the rest would compute another model).
Result<LlamaTensors> read_llama_tensors(const GgufFile& file, const LlamaConfig& config, const ModelShard& shard);

}  // namespace tiercel
