// What a model's KV depends on, as a fingerprint: KV of equal fingerprints is interchangeable, any other is never taken
// for it.
#pragma once

#include <cstdint>
#include <span>

#include "gguf/gguf_file.h"
#include "model/llama_config.h"
#include "model/model_shard.h"
#include "tiercel/types.h"

namespace tiercel {

// Of the whole model: every weight, the positions' frequencies, the layout of its KV, and in `arithmetic` what else
// changes the bits of a token.
Fingerprint model_fingerprint(const GgufFile& file, const LlamaConfig& config, const KvLayout& layout,
                              std::span<const std::uint32_t> arithmetic);

// KV of one rank is that of other heads and layers, and of sums added up otherwise, than that of another rank, of ranks
// in other stages or of one alone.
Fingerprint shard_fingerprint(const Fingerprint& whole, const ModelShard& shard);

}  // namespace tiercel
