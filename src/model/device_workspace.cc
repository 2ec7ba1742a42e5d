#include "model/device_workspace.h"

#include <algorithm>
#include <bit>

#include "kernels/decode_attention_cuda.h"

namespace tiercel {

Result<DeviceWorkspace> DeviceWorkspace::allocate(const LlamaConfig& config, const DeviceLlamaOptions& options,
                                                  std::size_t plan_words, std::size_t plans) {
  const ModelShape& shape = config.shape;
  const KvLayout layout = device_llama_kv_layout(shape, options);
  const std::size_t rows = options.max_batch_tokens, query_width = config.query_width();
  const auto bytes_of = [&](std::size_t elements) { return elements * size_of(layout.dtype); };
  const ModelShard& shard = options.shard;
  const bool is_first = shard.rank == 0;
  const auto of_logits = [&](std::size_t width) { return options.max_logit_rows * width * sizeof(float); };
  const std::size_t logits_bytes = is_first ? of_logits(shape.vocabulary) : 0;
  const std::size_t drawn_bytes = is_first ? options.max_logit_rows * sizeof(kernels::DrawnToken) : 0;
  const std::size_t parts_bytes = shard.size == 1 ? 0 : is_first ? logits_bytes : of_logits(shard.vocabulary.count);
  const std::size_t one_row_floats = kernels::cuda::decode_attention_workspace_floats(
      layout, 1, config.group(), std::bit_ceil(options.context_tokens));
  DeviceWorkspace workspace;
  struct Part {
    std::byte** place;
    std::size_t bytes;
  };
  const Part parts[] = {
      {&workspace.x, bytes_of(rows * shape.hidden)},
      {&workspace.h, bytes_of(rows * shape.hidden)},
      {&workspace.qkv, bytes_of(rows * (query_width + 2 * config.kv_width()))},
      {&workspace.attended, bytes_of(rows * query_width)},
      {&workspace.delta, bytes_of(rows * shape.hidden)},
      {&workspace.gate_up, bytes_of(rows * 2 * shape.feed_forward)},
      {&workspace.active, bytes_of(rows * shape.feed_forward)},
      {&workspace.wanted, bytes_of(options.max_logit_rows * shape.hidden)},
      {reinterpret_cast<std::byte**>(&workspace.parts), parts_bytes},
      {reinterpret_cast<std::byte**>(&workspace.logits), logits_bytes},
      {reinterpret_cast<std::byte**>(&workspace.drawn), drawn_bytes},
      {reinterpret_cast<std::byte**>(&workspace.attention), std::max(kAttentionBytes, one_row_floats * sizeof(float))},
      {reinterpret_cast<std::byte**>(&workspace.plan), plan_words * sizeof(std::uint32_t)}};
  constexpr std::size_t kAlignment = 256;
  const auto aligned = [](std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; };
  std::size_t all = 0;
  for (const Part& part : parts) all += aligned(part.bytes);
  auto memory = DeviceBuffer::allocate(all, "a step's workspace");
  if (!memory.ok()) return memory.status();
  workspace.memory = *std::move(memory);
  std::byte* next = workspace.memory.start();
  for (const Part& part : parts) {
    *part.place = next;
    next += aligned(part.bytes);
  }
  if (shard.size == 1) workspace.parts = workspace.logits;
  struct HostPart {
    PinnedBuffer* place;
    std::size_t bytes;
    const char* what;
  };
  const std::size_t host_plan_bytes = plans * plan_words * sizeof(std::uint32_t);
  const HostPart host_parts[] = {{&workspace.host_plan, host_plan_bytes, "what a step is told"},
                                 {&workspace.host_logits, logits_bytes, "logits"},
                                 {&workspace.host_drawn, drawn_bytes, "drawn tokens"}};
  for (const HostPart& part : host_parts) {
    if (part.bytes == 0) continue;
    auto buffer = PinnedBuffer::allocate(part.bytes, part.what);
    if (!buffer.ok()) return buffer.status();
    *part.place = *std::move(buffer);
  }
  return workspace;
}

}  // namespace tiercel
