// The numbers of a Llama-family model, read from GGUF metadata and checked against each other.
#pragma once

#include <vector>

#include "gguf/gguf_file.h"
#include "model/model_runner.h"
#include "model/model_shard.h"
#include "tiercel/status.h"

namespace tiercel {

struct LlamaConfig {
  ModelShape shape;
  float norm_epsilon = 1e-5f;
  // Radians per position of each rotated pair, scaling included: base^(-2i / rotated) / (linear factor * Llama-3
  // factor).
  std::vector<double> rope_frequencies;

  std::size_t query_width() const { return std::size_t{shape.heads} * shape.head_dim; }
  std::size_t kv_width() const { return std::size_t{shape.kv_heads} * shape.head_dim; }
  std::size_t group() const { return shape.heads / shape.kv_heads; }
  // What a rank computes: its heads and its part of the feed-forward layers, everything else as it is.
  LlamaConfig part(const ModelShard& shard) const;
};

// InvalidArgument naming the key, its value and what is supported.
Result<LlamaConfig> read_llama_config(const GgufFile& file);

}  // namespace tiercel
