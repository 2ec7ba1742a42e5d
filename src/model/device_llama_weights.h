// The weights of a Llama-family model in the memory of a GPU, packed as its kernels take them
// (kernels/device_weights.h): as many bytes as in the file, or 2 (of float32 activations: 4) a value where the file has
// no groups.
#pragma once

#include <vector>

#include "device/device_buffer.h"
#include "kernels/device_weights.h"
#include "model/llama_tensors.h"
#include "tiercel/status.h"

namespace tiercel {

struct DeviceLlamaLayer {
  const float* attention_norm = nullptr;
  kernels::cuda::DeviceWeights qkv;  // outputs: query heads, key heads, value heads
  kernels::cuda::DeviceWeights attention_output;
  const float* feed_forward_norm = nullptr;
  kernels::cuda::DeviceWeights gate_up;
  kernels::cuda::DeviceWeights down;
};

// All pointers are device memory of `memory`.
struct DeviceLlamaWeights {
  DeviceBuffer memory;
  kernels::cuda::DeviceWeights embedding;  // of the first stage
  std::vector<DeviceLlamaLayer> layers;
  const float* output_norm = nullptr;
  kernels::cuda::DeviceWeights
      head;                        // of the last stage; the embedding's, where that is here and the file has no other
  const float* cos_sin = nullptr;  // [position][pairs][2]
};

// Packs what `shard` has, and copies it to the current GPU. `dtype` is the activations'; `context_tokens` positions are
// turned.
Result<DeviceLlamaWeights> upload_llama_weights(const LlamaTensors& tensors, const LlamaConfig& config,
                                                const ModelShard& shard, std::size_t context_tokens, DType dtype);

}  // namespace tiercel
