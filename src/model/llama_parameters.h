// What runners of one Llama-family model share: the file's mapping, and the weights of this rank, packed for this
// machine, each kind of layer with the product that was measured to be the fastest.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/page_memory.h"
#include "base/thread_team.h"
#include "gguf/gguf_file.h"
#include "model/llama_config.h"
#include "model/llama_model.h"
#include "model/llama_weights.h"
#include "model/model_runner.h"

namespace tiercel {

// Our team's threads each call LibTorch for a part of the work. Its thread count is a setting of the calling thread.
void use_one_libtorch_thread();

struct LlamaParameters {
  // Packs the weights that `file_` has of this rank. Throws where the system gives no memory.
  LlamaParameters(GgufFile file_, LlamaConfig config_, LlamaWeights weights_, const LlamaOptions& options);

  GgufFile file;
  LlamaConfig config;  // of the whole model
  LlamaWeights weights;
  PageMemory groups_memory;  // of the weights, packed
  Fingerprint whole_fingerprint, fingerprint;
  ModelMemory memory;  // without a workspace
  std::vector<std::pair<std::string, std::string>> kernel_names;

 private:
  void choose_kernels(const LlamaOptions& options, ThreadTeam& team);
};

}  // namespace tiercel
