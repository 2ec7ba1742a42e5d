#include "model/device_forward.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "device/cuda_status.h"
#include "kernels/decode_attention_cuda.h"
#include "kernels/embedding_cuda.h"
#include "kernels/group_linear_cuda.h"
#include "kernels/kv_append_cuda.h"
#include "kernels/prefill_attention_cuda.h"
#include "kernels/row_kernels_cuda.h"
#include "kernels/sampling_cuda.h"

namespace tiercel {
namespace cuda = kernels::cuda;

std::vector<std::pair<std::string, std::string>> DeviceForward::kernels() const {
  const auto name = [&](const cuda::DeviceWeights& weights) {
    const char* activations = layout_.dtype == DType::F32 ? "f32" : "bf16";
    switch (weights.code) {
      case cuda::WeightCode::Group4: return fmt::format("CUDA, 4-bit groups x {}", activations);
      case cuda::WeightCode::Group8: return fmt::format("CUDA, 8-bit groups x {}", activations);
      case cuda::WeightCode::Plain: break;
    }
    return fmt::format("CUDA, {0} x {0}", activations);
  };
  const DeviceLlamaLayer& layer = weights_.layers.front();
  std::vector<std::pair<std::string, std::string>> names = {{"qkv", name(layer.qkv)},
                                                            {"attention_output", name(layer.attention_output)},
                                                            {"gate_up", name(layer.gate_up)},
                                                            {"down", name(layer.down)}};
  if (shard_.is_last_stage()) names.emplace_back("head", name(weights_.head));
  return names;
}

Status DeviceForward::linear(StepPart part, const cuda::DeviceWeights& weights, const std::byte* x, std::byte* y) {
  TIERCEL_RETURN_IF_ERROR(enter(part));
  for (const Arithmetic arithmetic : {Arithmetic::Any, Arithmetic::Prefill, Arithmetic::Decode}) {
    const DeviceStepPlan::Rows rows = plan_.of(arithmetic);
    if (rows.count() == 0) continue;
    TIERCEL_RETURN_IF_ERROR(cuda_status(cuda::linear({.dtype = layout_.dtype,
                                                      .w = weights,
                                                      .x = x + rows.begin * row_bytes(weights.columns),
                                                      .x_stride = weights.columns,
                                                      .rows = rows.count(),
                                                      .y = y + rows.begin * row_bytes(weights.outputs),
                                                      .y_stride = weights.outputs,
                                                      .arithmetic = static_cast<cuda::LinearArithmetic>(arithmetic),
                                                      .multiprocessors = multiprocessors_},
                                                     stream_.get()),
                                        "a linear layer"));
  }
  return {};
}

Status DeviceForward::add_up_ranks() {
  if (ranks_ == nullptr) return {};
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Exchange));
  return ranks_->add_up(workspace_.delta, plan_.rows() * config_.shape.hidden, layout_.dtype);
}

Status DeviceForward::norm(const std::byte* residual, const float* weight) {
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Norm));
  return cuda_status(cuda::rms_norm({.dtype = layout_.dtype,
                                     .x = workspace_.x,
                                     .residual = residual,
                                     .weight = weight,
                                     .out = workspace_.h,
                                     .epsilon = config_.norm_epsilon,
                                     .rows = plan_.rows(),
                                     .width = config_.shape.hidden},
                                    stream_.get()),
                     "RMSNorm");
}

Status DeviceForward::attend(std::byte* arena, std::size_t layer, std::size_t longest_decode) {
  const std::size_t query_width = config_.query_width(), stride = query_width + 2 * config_.kv_width();
  const kernels::CodedKv kv = {.arena = arena, .layout = {.layout = layout_}, .layer = layer};
  const float scale = 1.0f / std::sqrt(static_cast<float>(layout_.head_dim));
  const DeviceStepPlan::Offsets& at = plan_.offsets();
  if (plan_.decode_rows() > 0) {
    const std::size_t row_floats = cuda::decode_attention_workspace_floats(layout_, 1, config_.group(), longest_decode);
    const std::size_t most_rows = std::max<std::size_t>(
        1, DeviceWorkspace::kAttentionBytes / sizeof(float) / std::max<std::size_t>(1, row_floats));
    for (std::size_t first = 0; first < plan_.decode_rows(); first += most_rows) {
      TIERCEL_RETURN_IF_ERROR(
          cuda_status(cuda::decode_attention({.kv = kv,
                                              .block_tables = planned(at.tables),
                                              .table_stride = plan_.table_stride(),
                                              .row_sequences = planned(at.row_sequences) + first,
                                              .lengths = planned(at.row_lengths) + first,
                                              .rows = std::min(most_rows, plan_.decode_rows() - first),
                                              .longest = longest_decode,
                                              .group = config_.group(),
                                              .q = workspace_.qkv + first * row_bytes(stride),
                                              .q_stride = stride,
                                              .out = workspace_.attended + first * row_bytes(query_width),
                                              .out_stride = query_width,
                                              .scale = scale,
                                              .workspace = workspace_.attention},
                                             stream_.get()),
                      "decode attention"));
    }
  }
  if (plan_.prefill_sequences() == 0) return {};
  return cuda_status(
      cuda::prefill_attention({.kv = kv,
                               .block_tables = planned(at.tables) + plan_.decode_sequences() * plan_.table_stride(),
                               .table_stride = plan_.table_stride(),
                               .query_begins = planned(at.query_begins),
                               .lengths = planned(at.lengths),
                               .sequences = plan_.prefill_sequences(),
                               .most_queries = plan_.most_queries(),
                               .group = config_.group(),
                               .q = workspace_.qkv + plan_.decode_rows() * row_bytes(stride),
                               .q_stride = stride,
                               .out = workspace_.attended + plan_.decode_rows() * row_bytes(query_width),
                               .out_stride = query_width,
                               .scale = scale},
                              stream_.get()),
      "prefill attention");
}

Status DeviceForward::compute_layer(std::size_t index, std::byte* arena, std::size_t longest_decode,
                                    const BeforeBlocks& before_blocks) {
  const DeviceLlamaLayer& layer = weights_.layers[index];
  const std::size_t query_width = config_.query_width(), stride = query_width + 2 * config_.kv_width();
  TIERCEL_RETURN_IF_ERROR(norm(index == 0 ? nullptr : workspace_.delta, layer.attention_norm));
  TIERCEL_RETURN_IF_ERROR(linear(StepPart::Qkv, layer.qkv, workspace_.h, workspace_.qkv));
  if (before_blocks) {
    TIERCEL_RETURN_IF_ERROR(enter(StepPart::Copy));
    TIERCEL_RETURN_IF_ERROR(before_blocks(index));
  }
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Rope));
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cuda::kv_append({.kv = {.arena = arena, .layout = {.layout = layout_}, .layer = index},
                                   .slots = planned(plan_.offsets().slots),
                                   .positions = planned(plan_.offsets().positions),
                                   .cos_sin = weights_.cos_sin,
                                   .pairs = config_.rope_frequencies.size(),
                                   .tokens = plan_.rows(),
                                   .query_heads = config_.shape.heads,
                                   .q = workspace_.qkv,
                                   .q_stride = stride,
                                   .k = workspace_.qkv + row_bytes(query_width),
                                   .v = workspace_.qkv + row_bytes(query_width + config_.kv_width()),
                                   .kv_stride = stride},
                                  stream_.get()),
                  "RoPE and appending K and V"));
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Attention));
  TIERCEL_RETURN_IF_ERROR(attend(arena, index, longest_decode));
  TIERCEL_RETURN_IF_ERROR(
      linear(StepPart::AttentionOutput, layer.attention_output, workspace_.attended, workspace_.delta));
  TIERCEL_RETURN_IF_ERROR(add_up_ranks());
  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, layer.feed_forward_norm));
  TIERCEL_RETURN_IF_ERROR(linear(StepPart::GateUp, layer.gate_up, workspace_.h, workspace_.gate_up));
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Activation));
  TIERCEL_RETURN_IF_ERROR(cuda_status(cuda::swiglu({.dtype = layout_.dtype,
                                                    .gate_up = workspace_.gate_up,
                                                    .out = workspace_.active,
                                                    .rows = plan_.rows(),
                                                    .width = config_.shape.feed_forward},
                                                   stream_.get()),
                                      "SwiGLU"));
  TIERCEL_RETURN_IF_ERROR(linear(StepPart::Down, layer.down, workspace_.active, workspace_.delta));
  return add_up_ranks();
}

Status DeviceForward::begin() {
  if (!shard_.is_first_stage()) {
    TIERCEL_RETURN_IF_ERROR(enter(StepPart::Exchange));
    return ranks_->receive_hidden(workspace_.x, plan_.rows() * row_bytes(config_.shape.hidden));
  }
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Embed));
  return cuda_status(cuda::embed({.dtype = layout_.dtype,
                                  .table = weights_.embedding,
                                  .tokens = reinterpret_cast<const TokenId*>(planned(plan_.offsets().tokens)),
                                  .rows = plan_.rows(),
                                  .out = workspace_.x,
                                  .out_stride = config_.shape.hidden},
                                 stream_.get()),
                     "the embedding");
}

Status DeviceForward::hand_on() {
  // Adds delta to x, as the next stage's first layer would; what it makes of h nobody reads.
  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, weights_.output_norm));
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Exchange));
  return ranks_->send_hidden(workspace_.x, plan_.rows() * row_bytes(config_.shape.hidden));
}

Status DeviceForward::enqueue_layers(std::byte* arena, std::size_t longest_decode, const WantedRows& wanted,
                                     const BeforeBlocks& before_blocks) {
  TIERCEL_RETURN_IF_ERROR(begin());
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    TIERCEL_RETURN_IF_ERROR(compute_layer(i, arena, longest_decode, before_blocks));
  }
  if (!shard_.is_last_stage()) return hand_on();
  if (plan_.wanted() == 0) return {};
  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, weights_.output_norm));
  const std::size_t returned = plan_.wanted() - plan_.drawn();
  if (wanted.drawn == wanted.returned + returned) return keep(0, plan_.wanted(), wanted.returned);
  TIERCEL_RETURN_IF_ERROR(keep(0, returned, wanted.returned));
  return keep(returned, plan_.drawn(), wanted.drawn);
}

Status DeviceForward::keep(std::size_t first, std::size_t count, std::size_t to) {
  if (count == 0) return {};
  const std::size_t hidden = config_.shape.hidden;
  return cuda_status(cuda::gather_rows({.dtype = layout_.dtype,
                                        .from = workspace_.h,
                                        .from_stride = hidden,
                                        .rows = planned(plan_.offsets().wanted) + first,
                                        .count = count,
                                        .width = hidden,
                                        .to = workspace_.wanted + to * row_bytes(hidden),
                                        .to_stride = hidden},
                                       stream_.get()),
                     "gathering rows");
}

Status DeviceForward::enqueue_end(bool exact_head) {
  if (shard_.is_last_stage() && plan_.wanted() > 0) TIERCEL_RETURN_IF_ERROR(head(exact_head));
  if (ranks_ != nullptr) {
    TIERCEL_RETURN_IF_ERROR(enter(StepPart::Exchange));
    TIERCEL_RETURN_IF_ERROR(ranks_->gather_logits(workspace_.parts, plan_.wanted(), workspace_.logits));
    if (!ranks_->has_logits()) return {};
  }
  return plan_.drawn() > 0 ? draw() : Status();
}

Status DeviceForward::head(bool exact) {
  const std::size_t hidden = config_.shape.hidden;
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Head));
  return cuda_status(cuda::linear({.dtype = layout_.dtype,
                                   .w = weights_.head,
                                   .x = workspace_.wanted,
                                   .x_stride = hidden,
                                   .rows = plan_.wanted(),
                                   .y = workspace_.parts,
                                   .y_stride = weights_.head.outputs,
                                   .float_output = true,
                                   .arithmetic = exact ? cuda::LinearArithmetic::Decode : cuda::LinearArithmetic::Any,
                                   .multiprocessors = multiprocessors_},
                                  stream_.get()),
                     "the output head");
}

Status DeviceForward::draw() {
  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Sample));
  const std::size_t vocabulary = config_.shape.vocabulary;
  return cuda_status(
      cuda::sample({.logits = workspace_.logits + (plan_.wanted() - plan_.drawn()) * vocabulary,
                    .stride = vocabulary,
                    .vocabulary = vocabulary,
                    .rows = plan_.drawn(),
                    .options = reinterpret_cast<const kernels::SamplingRow*>(planned(plan_.offsets().draws)),
                    .drawn = workspace_.drawn},
                   stream_.get()),
      "drawing tokens");
}

}  // namespace tiercel
