// What a step of a Llama on a GPU writes besides KV: activations, logits, and what its kernels are told. One piece of
// memory on the GPU, and pinned memory for what is copied.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device_buffer.h"
#include "kernels/sampling_row.h"
#include "model/device_llama.h"
#include "model/llama_config.h"

namespace tiercel {

struct DeviceWorkspace {
  // Of decode attention's partial results. Rows that do not fit take turns.
  static constexpr std::size_t kAttentionBytes = std::size_t{64} << 20;

  // For a rank's part of the model (`config`) and steps of at most options.max_batch_tokens tokens, which are told by
  // `plan_words` words, in so many `plans`. On the current GPU.
  static Result<DeviceWorkspace> allocate(const LlamaConfig& config, const DeviceLlamaOptions& options,
                                          std::size_t plan_words, std::size_t plans);

  DeviceBuffer memory;
  // One row per token of a step, elements of the KV's type.
  std::byte* x = nullptr;                // [rows][hidden], the residual stream
  std::byte* h = nullptr;                // [rows][hidden], normalised
  std::byte* qkv = nullptr;              // [rows][query heads, key heads, value heads][head_dim]
  std::byte* attended = nullptr;         // [rows][query heads][head_dim]
  std::byte* delta = nullptr;            // [rows][hidden], what a layer adds to x
  std::byte* gate_up = nullptr;          // [rows][gate, up]
  std::byte* active = nullptr;           // [rows][feed_forward]
  std::byte* wanted = nullptr;           // [max_logit_rows][hidden], those whose logits are
  float* parts = nullptr;                // what the head gives: alone, logits; of ranks: [max_logit_rows][own part of
                                         // the vocabulary], at rank 0 room for those of all
  float* logits = nullptr;               // [max_logit_rows][vocabulary]; of ranks: at rank 0
  kernels::DrawnToken* drawn = nullptr;  // [max_logit_rows]; of ranks: at rank 0
  float* attention = nullptr;            // kAttentionBytes, or more where a single row needs it
  std::uint32_t* plan = nullptr;         // DeviceStepPlan

  PinnedBuffer host_plan;  // plans one behind the other: the GPU reads each when it comes there
  PinnedBuffer host_logits, host_drawn;
};

}  // namespace tiercel
