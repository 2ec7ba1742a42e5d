// The weights of a Llama-family model, taken out of a GGUF file with their names and shapes checked.
#pragma once

#include <optional>
#include <vector>

#include "gguf/gguf_file.h"
#include "model/linear.h"
#include "model/llama_config.h"
#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel {

// Of a rank's heads and feed-forward rows. What it adds to the residual stream is a part: that of all ranks of its
// stage is the sum.
struct LlamaLayer {
  std::vector<float> attention_norm;     // [hidden]
  Linear qkv;                            // hidden -> query heads, key heads, value heads
  Linear attention_output;               // query heads -> hidden
  std::vector<float> feed_forward_norm;  // [hidden]
  Linear gate_up;                        // hidden -> gate, up
  Linear down;                           // feed_forward -> hidden
};

struct LlamaWeights {
  GgufTensor embedding;  // [vocabulary][hidden], in the file
  std::vector<LlamaLayer> layers;
  std::vector<float> output_norm;  // [hidden]
  // hidden -> vocabulary; float32 results in every mode, since logits decide. Of the last stage.
  std::optional<Linear> head;
  std::vector<std::vector<std::byte>> copies;  // of columns, until the layers are packed
  std::size_t mapped_bytes = 0;                // of what is used where the file is mapped

  // Calls f(kind, layers of that kind) for each kind of linear layer.
  template <class Function>
  void for_each_kind(const Function& f) {
    const auto of = [&](Linear LlamaLayer::*member) {
      std::vector<Linear*> linears;
      for (LlamaLayer& layer : layers) linears.push_back(&(layer.*member));
      return linears;
    };
    f("qkv", of(&LlamaLayer::qkv));
    f("attention_output", of(&LlamaLayer::attention_output));
    f("gate_up", of(&LlamaLayer::gate_up));
    f("down", of(&LlamaLayer::down));
    if (head) f("head", std::vector<Linear*>{&*head});
  }
};

// What `shard` has, as views into `file` (of columns: copies), nothing packed. `config` is that of the whole model.
// InvalidArgument: a tensor is missing, has another shape, or is none that this architecture has (using the rest would
// compute another model).
Result<LlamaWeights> read_llama_weights(const GgufFile& file, const LlamaConfig& config, const ModelShard& shard,
                                        Compute compute);

}  // namespace tiercel
