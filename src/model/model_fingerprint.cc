#include "model/model_fingerprint.h"

#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tiercel {

Fingerprint model_fingerprint(const GgufFile& file, const LlamaConfig& config, const KvLayout& layout,
                              std::span<const std::uint32_t> arithmetic) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  const auto add = [&](const void* data, std::size_t size) { XXH3_128bits_update(&state, data, size); };
  for (const GgufTensor& tensor : file.tensors()) {
    add(tensor.name.data(), tensor.name.size());
    add(&tensor.type, sizeof tensor.type);
    add(tensor.shape.data(), sizeof tensor.shape);
    add(tensor.data.data(), tensor.data.size());
  }
  add(config.rope_frequencies.data(), config.rope_frequencies.size() * sizeof(double));
  const std::uint32_t dimensions[] = {layout.layers, layout.kv_heads, layout.head_dim, layout.block_tokens,
                                      static_cast<std::uint32_t>(layout.dtype)};
  add(dimensions, sizeof dimensions);
  add(arithmetic.data(), arithmetic.size_bytes());
  add(&config.norm_epsilon, sizeof config.norm_epsilon);
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return {{hash.low64, hash.high64}};
}

Fingerprint shard_fingerprint(const Fingerprint& whole, const ModelShard& shard) {
  if (shard.size == 1) return whole;
  std::vector<std::uint64_t> parts = {whole.words[0],       whole.words[1],       shard.size,        shard.rank,
                                      shard.kv_heads.first, shard.kv_heads.count, shard.heads.first, shard.heads.count};
  if (shard.stages > 1) parts.insert(parts.end(), {shard.stages, shard.layers.first, shard.layers.count});
  const XXH128_hash_t hash = XXH3_128bits(parts.data(), parts.size() * sizeof(std::uint64_t));
  return {{hash.low64, hash.high64}};
}

}  // namespace tiercel
