// A model on a GPU, and the memory of its KV blocks there. Where tiercel was built without CUDA both are Unavailable.
#pragma once

#include <memory>
#include <string>

#include "gguf/gguf_file.h"
#include "kv/block_memory.h"
#include "model/device_llama.h"
#include "model/model_runner.h"

namespace tiercel {

struct DevicePlacement {
  std::string device;  // "NVIDIA H200"
  std::unique_ptr<ModelRunner> model;
};

// As load_device_llama(); Unavailable says which GPUs there are.
Result<DevicePlacement> place_on_device(const GgufFile& file, const DeviceLlamaOptions& options);

// Of GPU `device`; `capacity_bytes` 0: nine tenths of what is free there now. InvalidArgument: less than a block.
Result<std::shared_ptr<const BlockMemory>> reserve_device_blocks(int device, const KvLayout& layout,
                                                                 std::size_t capacity_bytes);

}  // namespace tiercel
