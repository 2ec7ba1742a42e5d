#include "model/llama_model.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "base/step_profile.h"
#include "base/thread_team.h"
#include "gguf/dequantize.h"
#include "kernels/attention_plan.h"
#include "kernels/group_linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "model/llama_config.h"
#include "model/llama_parameters.h"
#include "model/llama_ranks.h"
#include "model/llama_weights.h"
#include "model/machine_speed.h"
#include "model/micro_batches.h"
#include "model/row_draws.h"

namespace tiercel {
namespace {

// From how many new tokens on a chunk's attention is worth transposing keys.
constexpr std::size_t kPrefillAttentionTokens = 8;
// Rows that one task normalises, rotates or activates.
constexpr std::size_t kRowGrain = 8;

const kernels::AttentionKernel& attention_for(Compute compute) {
  if (compute == Compute::Turbo && kernels::has_int8_attention()) return kernels::kInt8Attention;
  if (compute == Compute::Fast && kernels::prefers_int16_products() && kernels::has_int16_attention()) {
    return kernels::kInt16Attention;
  }
  if (compute != Compute::Precise && kernels::has_bf16_products()) return kernels::decode_attention();
  return kernels::kAttention;
}

// Consecutive rows of a micro-batch that share one arithmetic.
struct RowGroup {
  std::size_t begin = 0, end = 0;
  Arithmetic arithmetic = Arithmetic::Any;
};

class LlamaModel final : public ModelRunner {
 public:
  // `ranks`: those that share the model; none: alone.
  LlamaModel(std::shared_ptr<const LlamaParameters> parameters, const LlamaOptions& options,
             std::optional<LlamaRanks> ranks)
      : parameters_(std::move(parameters)),
        weights_(parameters_->weights),
        shape_(parameters_->config.shape),
        config_(parameters_->config.part(options.shard)),
        options_(options),
        ranks_(std::move(ranks)),
        layout_(llama_kv_layout(shape_, options)),
        attention_kernel_(attention_for(options.compute)),
        attention_(attention_kernel_, layout_, config_.group(), options.threads),
        team_(options.threads, use_one_libtorch_thread),
        draws_(shape_.vocabulary),
        memory_(parameters_->memory) {
    allocate_workspace();
    if (options_.profile) {
      speed_.emplace(team_);
      profile_ = std::make_unique<StepProfile>();
    }
  }

  const ModelShape& shape() const override { return shape_; }
  const Fingerprint& fingerprint() const override { return parameters_->fingerprint; }
  ModelMemory memory() const override { return memory_; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return parameters_->kernel_names; }
  std::size_t max_logit_rows() const override { return options_.max_logit_rows; }
  bool draws_tokens() const override { return is_first_rank(); }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override;
  std::span<const kernels::DrawnToken> drawn() const override { return draws_.drawn(); }
  StepProfile* profile() override { return profile_.get(); }
  double workers_cpu_s() override { return team_.workers_cpu_s(); }

 private:
  using Chunks = std::span<const SequenceChunk>;

  bool is_first_rank() const { return options_.shard.rank == 0; }
  std::size_t hidden_bytes() const { return rows_ * config_.shape.hidden * sizeof(float); }
  void allocate_workspace();
  float* allocate(std::size_t floats);

  // A micro-batch through this rank's stage: from its tokens or the stage before to `delta`, which is yet to be added
  // to the residual stream. Behind the last layer there are the rows whose logits are wanted.
  Status compute(Chunks chunks, std::byte* arena);
  // What follows: x to the next stage, or, in the last, logits as rows from `first_row` on.
  Status hand_on(std::size_t first_row, bool exact);
  // delta, of which each rank of the stage has a part, becomes the sum of all.
  Status add_up_ranks();
  Status exchange(const std::function<Status(LlamaRanks&)>& say);

  // Numbers the chunks' rows, and plans their computing.
  void plan(Chunks chunks, std::byte* arena);
  // Goes on with the rows whose logits are wanted, at the front of what rows have. Their queries are in qkv.
  void keep_wanted_rows(Chunks chunks, std::byte* arena);
  // `count` tokens of a chunk, from one that is in row `from` of qkv, as the next rows.
  void plan_rows(const SequenceChunk& chunk, std::byte* arena, std::size_t first_token, std::size_t count,
                 std::size_t from);
  // Calls do_row(chunk, token of it, row) for all rows, by all threads.
  template <class DoRow>
  void for_each_row(Chunks chunks, const DoRow& do_row);
  // The angles of positions, and in the first stage the embedding of tokens.
  void begin(Chunks chunks);
  void add_residual();
  void rotate_and_append(Chunks chunks, std::byte* arena, std::size_t layer);
  void attend(std::size_t layer);
  void norm(const float* residual, const std::vector<float>& weight);
  void linear(StepPart part, const Linear& layer, const float* x, float* y);
  void gate(const Linear& layer);  // from h to active

  // The least time for a part of the current micro-batch, on this machine; 0 where nobody asks.
  double linear_bound_s(const Linear& layer, std::size_t rows) const;
  double attention_bound_s() const;
  double rows_bound_s(std::size_t floats_each) const;  // that are read or written for each row

  const std::shared_ptr<const LlamaParameters> parameters_;
  const LlamaWeights& weights_;  // of these
  ModelShape shape_;             // of the whole model
  LlamaConfig config_;           // of this rank
  LlamaOptions options_;
  std::optional<LlamaRanks> ranks_;
  KvLayout layout_;
  const kernels::AttentionKernel& attention_kernel_;
  MicroBatches micro_batches_;
  kernels::AttentionPlan attention_;  // of the current one
  ThreadTeam team_;
  RowDraws draws_;
  ModelMemory memory_;

  // Workspace, one row per token of a micro-batch.
  std::vector<at::Tensor> buffers_;
  float* x_;         // [rows][hidden], the residual stream
  float* h_;         // [rows][hidden], normalised
  float* qkv_;       // [rows][query heads, key heads, value heads][head_dim]
  float* attended_;  // [rows][query heads][head_dim]
  float* delta_;     // [rows][hidden], what a layer adds to x
  float* gate_up_;   // [rows, or some of them][gate, up]
  float* active_;    // [rows][feed_forward]
  float* angles_;    // [rows][pairs][cos, sin]
  float* head_;      // [max_logit_rows][this rank's part of the vocabulary]; at rank 0 those of all
  float* logits_;    // [max_logit_rows][vocabulary], of rank 0; what head_ has, where that is whole rows
  RoundedRows rounded_;

  std::optional<MachineSpeed> speed_;  // where there is a profile
  std::unique_ptr<StepProfile> profile_;

  std::thread::id step_thread_;

  // The current micro-batch.
  std::size_t rows_ = 0;
  std::vector<RowGroup> groups_;
  std::vector<std::size_t> chunk_rows_;  // first row of each chunk
};

float* LlamaModel::allocate(std::size_t floats) {
  buffers_.push_back(at::empty({static_cast<std::int64_t>(floats)}, at::kFloat));
  memory_.workspace_bytes += floats * sizeof(float);
  return buffers_.back().data_ptr<float>();
}

void LlamaModel::allocate_workspace() {
  const ModelShape& shape = config_.shape;
  const std::size_t rows = std::min(options_.max_batch_tokens, kMostMicroBatchRows);
  x_ = allocate(rows * shape.hidden);
  h_ = allocate(rows * shape.hidden);
  qkv_ = allocate(rows * (config_.query_width() + 2 * config_.kv_width()));
  attended_ = allocate(rows * config_.query_width());
  delta_ = allocate(rows * shape.hidden);
  gate_up_ = allocate(weights_.layers.front().gate_up.gated_floats(rows, options_.threads));
  active_ = allocate(rows * shape.feed_forward);
  angles_ = allocate(rows * 2 * config_.rope_frequencies.size());
  const std::size_t part = is_first_rank() ? shape.vocabulary : options_.shard.vocabulary.count;
  head_ = allocate(options_.max_logit_rows * part);
  const bool joins = is_first_rank() && ranks_ && !ranks_->has_whole_rows();
  logits_ = joins ? allocate(options_.max_logit_rows * part) : head_;
  attention_.set_workspace(allocate(attention_.workspace_floats()));
}

void LlamaModel::plan(Chunks chunks, std::byte* arena) {
  rows_ = 0;
  groups_.clear();
  attention_.clear();
  chunk_rows_.clear();
  for (const SequenceChunk& chunk : chunks) {
    chunk_rows_.push_back(rows_);
    plan_rows(chunk, arena, 0, chunk.tokens.size(), rows_);
  }
  attention_.finish();
}

void LlamaModel::keep_wanted_rows(Chunks chunks, std::byte* arena) {
  const std::size_t hidden = config_.shape.hidden;
  rows_ = 0;
  groups_.clear();
  attention_.clear();
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    const SequenceChunk& chunk = chunks[c];
    const std::size_t count = chunk.logit_rows();
    if (count == 0) continue;
    const std::size_t first = chunk.tokens.size() - count, from = chunk_rows_[c] + first;
    std::memmove(x_ + rows_ * hidden, x_ + from * hidden, count * hidden * sizeof(float));
    plan_rows(chunk, arena, first, count, from);
  }
  attention_.finish();
}

void LlamaModel::plan_rows(const SequenceChunk& chunk, std::byte* arena, std::size_t first_token, std::size_t count,
                           std::size_t from) {
  const std::size_t query_width = config_.query_width(), stride = query_width + 2 * config_.kv_width();
  if (groups_.empty() || groups_.back().arithmetic != chunk.arithmetic)
    groups_.push_back({rows_, rows_, chunk.arithmetic});
  groups_.back().end = rows_ + count;
  const bool prefill = chunk.arithmetic == Arithmetic::Any || chunk.any_attention
                           ? chunk.tokens.size() >= kPrefillAttentionTokens
                           : chunk.arithmetic == Arithmetic::Prefill;
  attention_.add({.kv = {arena, layout_},
                  .block_table = chunk.block_table.data(),
                  .first_position = chunk.first_position + first_token,
                  .tokens = count,
                  .group = config_.group(),
                  .q = qkv_ + from * stride,
                  .q_stride = stride,
                  .out = attended_ + rows_ * query_width,
                  .out_stride = query_width,
                  .scale = 1.0f / std::sqrt(static_cast<float>(layout_.head_dim)),
                  .style = prefill ? kernels::AttentionStyle::Prefill : kernels::AttentionStyle::Decode});
  rows_ += count;
}

template <class DoRow>
void LlamaModel::for_each_row(Chunks chunks, const DoRow& do_row) {
  team_.run_parts(rows_, kRowGrain, [&](std::size_t begin, std::size_t end) {
    auto c = static_cast<std::size_t>(std::ranges::upper_bound(chunk_rows_, begin) - chunk_rows_.begin() - 1);
    for (std::size_t row = begin; row < end; ++row) {
      while (c + 1 < chunks.size() && chunk_rows_[c + 1] <= row) ++c;
      do_row(chunks[c], row - chunk_rows_[c], row);
    }
  });
}

void LlamaModel::begin(Chunks chunks) {
  const PartTimer timer(profile_.get(), StepPart::Embed, rows_bound_s(config_.shape.hidden));
  const std::size_t hidden = config_.shape.hidden, pairs = config_.rope_frequencies.size();
  const GgufTensor& table = weights_.embedding;
  const bool embeds = options_.shard.is_first_stage();
  for_each_row(chunks, [&](const SequenceChunk& chunk, std::size_t t, std::size_t row) {
    kernels::rope_angles(config_.rope_frequencies.data(), pairs, chunk.first_position + t, angles_ + row * 2 * pairs);
    if (!embeds) return;
    const auto token = static_cast<std::size_t>(chunk.tokens[t]);
    dequantize(table.type, table.data.subspan(token * table.row_bytes(), table.row_bytes()),
               {x_ + row * hidden, hidden});
  });
}

void LlamaModel::rotate_and_append(Chunks chunks, std::byte* arena, std::size_t layer) {
  // Queries and keys are turned in place; K and V are read and written, at half the width.
  const PartTimer timer(profile_.get(), StepPart::Rope,
                        rows_bound_s(2 * config_.query_width() + 4 * config_.kv_width()));
  const ModelShape& shape = config_.shape;
  const std::size_t pairs = config_.rope_frequencies.size();
  const std::size_t query_width = config_.query_width(), kv_width = config_.kv_width(),
                    stride = query_width + 2 * kv_width;
  const kernels::PagedKv kv{arena, layout_, layer};
  for_each_row(chunks, [&](const SequenceChunk& chunk, std::size_t token, std::size_t row) {
    float* q = qkv_ + row * stride;
    const float* angles = angles_ + row * 2 * pairs;
    kernels::rope(q, shape.heads + shape.kv_heads, shape.head_dim, angles, pairs);  // keys follow queries
    const std::size_t position = chunk.first_position + token;
    kernels::append_kv(kv, chunk.block_table[position / layout_.block_tokens], position % layout_.block_tokens,
                       q + query_width, q + query_width + kv_width);
  });
}

void LlamaModel::attend(std::size_t layer) {
  const PartTimer timer(profile_.get(), StepPart::Attention, attention_bound_s());
  attention_.run(team_, layer);
}

void LlamaModel::norm(const float* residual, const std::vector<float>& weight) {
  const std::size_t hidden = config_.shape.hidden;
  const PartTimer timer(profile_.get(), StepPart::Norm, rows_bound_s((residual ? 4 : 2) * hidden));
  team_.run_parts(rows_, kRowGrain, [&](std::size_t begin, std::size_t end) {
    kernels::rms_norm(x_ + begin * hidden, residual ? residual + begin * hidden : nullptr, weight.data(),
                      config_.norm_epsilon, end - begin, hidden, h_ + begin * hidden);
  });
}

void LlamaModel::linear(StepPart part, const Linear& layer, const float* x, float* y) {
  for (const RowGroup& group : groups_) {
    const PartTimer timer(profile_.get(), part, linear_bound_s(layer, group.end - group.begin));
    layer.forward(group.arithmetic, team_, x + group.begin * layer.columns(), group.end - group.begin,
                  y + group.begin * layer.outputs(), rounded_);
  }
}

void LlamaModel::gate(const Linear& layer) {
  for (const RowGroup& group : groups_) {
    const PartTimer timer(profile_.get(), StepPart::GateUp, linear_bound_s(layer, group.end - group.begin));
    layer.forward_gated(group.arithmetic, team_, h_ + group.begin * layer.columns(), group.end - group.begin, gate_up_,
                        active_ + group.begin * layer.outputs() / 2, rounded_);
  }
}

double LlamaModel::linear_bound_s(const Linear& layer, std::size_t rows) const {
  if (!profile_) return 0;
  const Linear::Cost cost = layer.cost(rows);
  return speed_->least_s(cost.products, cost.multiplications, cost.bytes);
}

double LlamaModel::attention_bound_s() const {
  if (!profile_) return 0;
  double seconds = 0, bytes = 0;
  for (const kernels::AttentionArgs& run : attention_.runs()) {
    const auto before = static_cast<double>(run.first_position), tokens = static_cast<double>(run.tokens);
    seconds +=
        speed_->least_s(attention_kernel_.products(run.style),
                        2 * tokens * (before + (tokens + 1) / 2) * static_cast<double>(config_.query_width()), 0);
    bytes += (before + tokens) * static_cast<double>(layout_.token_bytes()) / layout_.layers;
  }
  return std::max(seconds, speed_->least_s(bytes));
}

double LlamaModel::rows_bound_s(std::size_t floats_each) const {
  return profile_ ? speed_->least_s(static_cast<double>(rows_ * floats_each * sizeof(float))) : 0;
}

Status LlamaModel::exchange(const std::function<Status(LlamaRanks&)>& say) {
  if (!ranks_) return {};
  const PartTimer timer(profile_.get(), StepPart::Exchange);
  return say(*ranks_);
}

Status LlamaModel::add_up_ranks() {
  return exchange([&](LlamaRanks& ranks) { return ranks.add_up(delta_, rows_ * config_.shape.hidden, Element::F32); });
}

void LlamaModel::add_residual() {
  const std::size_t hidden = config_.shape.hidden;
  const PartTimer timer(profile_.get(), StepPart::Norm, rows_bound_s(3 * hidden));
  team_.run_parts(rows_, kRowGrain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin * hidden; i < end * hidden; ++i) x_[i] += delta_[i];
  });
}

Status LlamaModel::compute(Chunks chunks, std::byte* arena) {
  plan(chunks, arena);
  begin(chunks);
  if (!options_.shard.is_first_stage()) {
    TIERCEL_RETURN_IF_ERROR(exchange([&](LlamaRanks& ranks) { return ranks.receive_hidden(x_, hidden_bytes()); }));
  }
  const float* residual = nullptr;
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    const LlamaLayer& layer = weights_.layers[i];
    norm(residual, layer.attention_norm);
    linear(StepPart::Qkv, layer.qkv, h_, qkv_);
    rotate_and_append(chunks, arena, i);
    // What the model's last layer makes of other rows nobody asks for.
    if (options_.shard.is_last_stage() && i + 1 == weights_.layers.size()) keep_wanted_rows(chunks, arena);
    if (rows_ == 0) break;
    attend(i);
    linear(StepPart::AttentionOutput, layer.attention_output, attended_, delta_);
    TIERCEL_RETURN_IF_ERROR(add_up_ranks());
    norm(delta_, layer.feed_forward_norm);
    gate(layer.gate_up);
    linear(StepPart::Down, layer.down, active_, delta_);
    TIERCEL_RETURN_IF_ERROR(add_up_ranks());
    residual = delta_;
  }
  return {};
}

Status LlamaModel::hand_on(std::size_t first_row, bool exact) {
  if (!weights_.head) {
    add_residual();
    return exchange([&](LlamaRanks& ranks) { return ranks.send_hidden(x_, hidden_bytes()); });
  }
  if (rows_ == 0) return {};
  norm(delta_, weights_.output_norm);
  const PartTimer timer(profile_.get(), StepPart::Head, linear_bound_s(*weights_.head, rows_));
  float* const logits = head_ + first_row * weights_.head->outputs();
  weights_.head->forward(exact ? Arithmetic::Decode : Arithmetic::Any, team_, h_, rows_, logits, rounded_);
  return {};
}

Result<std::span<float>> LlamaModel::step(Chunks chunks, std::byte* arena) try {
  const c10::InferenceMode no_gradients;
  if (step_thread_ != std::this_thread::get_id()) {
    use_one_libtorch_thread();
    step_thread_ = std::this_thread::get_id();
  }
  // Rows whose layers have the same bits in every batch keep that in their logits.
  const bool exact = options_.deterministic || std::ranges::all_of(chunks, [](const SequenceChunk& chunk) {
                       return chunk.logits == Logits::None || chunk.arithmetic == Arithmetic::Decode;
                     });
  std::size_t rows = 0, wanted = 0;
  for (const SequenceChunk& chunk : chunks) rows += chunk.tokens.size();
  for (const Chunks batch : micro_batches_.cut(chunks, count_micro_batches(rows, options_.shard.stages))) {
    TIERCEL_RETURN_IF_ERROR(compute(batch, arena));
    TIERCEL_RETURN_IF_ERROR(hand_on(wanted, exact));
    for (const SequenceChunk& chunk : batch) wanted += chunk.logit_rows();
  }
  TIERCEL_RETURN_IF_ERROR(exchange([&](LlamaRanks& ranks) { return ranks.gather_logits(head_, wanted); }));
  if (!is_first_rank()) return std::span<float>();
  if (logits_ != head_) ranks_->join_logits(head_, wanted, logits_);
  const PartTimer timer(profile_.get(), StepPart::Sample);
  return std::span<float>(logits_, draws_.run(team_, chunks, logits_) * shape_.vocabulary);
} catch (const std::exception& error) {
  return Status::internal(fmt::format("the model's step failed: {}", error.what()));
}

}  // namespace

Result<std::unique_ptr<ModelRunner>> make_llama(std::shared_ptr<const LlamaParameters> parameters,
                                                const LlamaOptions& options) {
  const std::string path = parameters->file.path();
  try {
    const c10::InferenceMode no_gradients;
    std::optional<LlamaRanks> ranks;
    if (options.shard.size > 1) {
      auto joined = LlamaRanks::join(*options.communicator, parameters->config.shape, options.shard);
      if (!joined.ok()) return joined.status();
      TIERCEL_RETURN_IF_ERROR(compare_models(*options.communicator, parameters->whole_fingerprint));
      ranks.emplace(*std::move(joined));
    }
    return std::unique_ptr<ModelRunner>(std::make_unique<LlamaModel>(std::move(parameters), options, std::move(ranks)));
  } catch (const std::exception& error) {
    return Status::unavailable(fmt::format("{}: the model could not be started: {}", path, error.what()));
  }
}

Result<std::unique_ptr<ModelRunner>> load_llama(GgufFile file, const LlamaOptions& options) {
  auto parameters = load_llama_parameters(std::move(file), options);
  if (!parameters.ok()) return parameters.status();
  return make_llama(*std::move(parameters), options);
}

}  // namespace tiercel
