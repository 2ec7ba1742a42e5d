#include "model/device_llama.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <list>
#include <optional>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda_graph.h"
#include "device/cuda_status.h"
#include "device/cuda_stream.h"
#include "device/current_device.h"
#include "kernels/decode_attention_cuda.h"
#include "kernels/embedding_cuda.h"
#include "kernels/group_linear_cuda.h"
#include "kernels/kv_append_cuda.h"
#include "kernels/prefill_attention_cuda.h"
#include "kernels/row_kernels_cuda.h"
#include "model/device_llama_weights.h"
#include "model/device_ranks.h"
#include "model/device_step_plan.h"
#include "model/device_workspace.h"
#include "model/llama_config.h"
#include "model/llama_tensors.h"
#include "model/model_fingerprint.h"

namespace tiercel {
namespace {

namespace cuda = kernels::cuda;

// Raised when a change of ours changes the KV of a token.
constexpr std::uint32_t kDeviceArithmeticVersion = 1;
// Decoding steps of more rows are launched kernel by kernel: they take the GPU longer than the host.
constexpr std::size_t kMostGraphRows = 256;
constexpr std::size_t kMostGraphs = 64;
// Lengths are rounded up to powers of two from here on, so that a graph serves many steps.
constexpr std::size_t kLeastGraphLength = 512;

// What makes two decoding steps the same launches.
struct GraphKey {
  const std::byte* arena;
  std::size_t rows, wanted, longest, table_stride;  // each row is a sequence's
  bool decode_arithmetic;
  friend bool operator==(const GraphKey&, const GraphKey&) = default;
};

class DeviceLlama final : public ModelRunner {
 public:
  // `config` is that of the whole model.
  DeviceLlama(const LlamaConfig& config, DeviceLlamaWeights weights, const DeviceLlamaOptions& options,
              const DeviceStepLimits& limits, std::size_t multiprocessors, DeviceWorkspace workspace, CudaStream stream,
              CudaEvent done)
      : shape_(config.shape),
        config_(config.part(options.shard)),
        options_(options),
        layout_(device_llama_kv_layout(config.shape, options)),
        weights_(std::move(weights)),
        multiprocessors_(multiprocessors),
        stream_(std::move(stream)),
        done_(std::move(done)),
        plan_(layout_, limits),
        workspace_(std::move(workspace)) {}

  // `whole` is that of the whole model. Waits for the other ranks, where there are any.
  Status join_ranks(const Fingerprint& whole);

  const ModelShape& shape() const override { return shape_; }
  const Fingerprint& fingerprint() const override { return fingerprint_; }
  ModelMemory memory() const override {
    return {.packed_bytes = weights_.memory.bytes(), .workspace_bytes = workspace_.memory.bytes()};
  }
  std::vector<std::pair<std::string, std::string>> kernels() const override;
  std::size_t max_logit_rows() const override { return options_.max_logit_rows; }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override;
  void leave_ranks() override {
    if (ranks_) ranks_->leave();
  }

 private:
  // Everything of a step but the copies, to the stream.
  Status enqueue(std::byte* arena, std::size_t longest_decode);
  Status enqueue_layer(const DeviceLlamaLayer& layer, std::size_t index, std::byte* arena, std::size_t longest_decode);
  Status attend(std::byte* arena, std::size_t layer, std::size_t longest_decode);
  Status linear(const cuda::DeviceWeights& weights, const std::byte* x, std::byte* y);
  Status norm(const std::byte* residual, const float* weight);
  // delta, of which each rank has a part, becomes the sum of all.
  Status add_up_ranks() {
    return ranks_ ? ranks_->add_up(workspace_.delta, plan_.rows() * config_.shape.hidden, layout_.dtype) : Status();
  }
  // The graph of the step that was planned last.
  Result<const CudaGraph*> graph_of(const GraphKey& key);

  const std::uint32_t* planned(std::size_t offset) const { return workspace_.plan + offset; }
  std::size_t row_bytes(std::size_t width) const { return width * size_of(layout_.dtype); }

  const ModelShape shape_;    // of the whole model
  const LlamaConfig config_;  // of this rank
  const DeviceLlamaOptions options_;
  const KvLayout layout_;
  const DeviceLlamaWeights weights_;
  const std::size_t multiprocessors_;
  Fingerprint fingerprint_;
  CudaStream stream_;
  CudaEvent done_;  // the current step
  DeviceStepPlan plan_;
  bool exact_head_ = false;  // of the current step: the head has the same bits in every batch
  Status failure_;           // of a step; the GPU's state is not known after it

  const DeviceWorkspace workspace_;
  std::vector<float> rows_of_all_;  // logits of several ranks

  // Over the workspace, so these end before it: freeing memory waits for what ranks have under way.
  std::optional<DeviceRanks> ranks_;  // empty: alone
  // Least recently used last.
  std::list<std::pair<GraphKey, CudaGraph>> graphs_;
};

std::vector<std::pair<std::string, std::string>> DeviceLlama::kernels() const {
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
  return {{"qkv", name(layer.qkv)},
          {"attention_output", name(layer.attention_output)},
          {"gate_up", name(layer.gate_up)},
          {"down", name(layer.down)},
          {"head", name(weights_.head)}};
}

Status DeviceLlama::linear(const cuda::DeviceWeights& weights, const std::byte* x, std::byte* y) {
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

Status DeviceLlama::norm(const std::byte* residual, const float* weight) {
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

Status DeviceLlama::attend(std::byte* arena, std::size_t layer, std::size_t longest_decode) {
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

Status DeviceLlama::enqueue_layer(const DeviceLlamaLayer& layer, std::size_t index, std::byte* arena,
                                  std::size_t longest_decode) {
  const std::size_t query_width = config_.query_width(), stride = query_width + 2 * config_.kv_width();
  TIERCEL_RETURN_IF_ERROR(norm(index == 0 ? nullptr : workspace_.delta, layer.attention_norm));
  TIERCEL_RETURN_IF_ERROR(linear(layer.qkv, workspace_.h, workspace_.qkv));
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
  TIERCEL_RETURN_IF_ERROR(attend(arena, index, longest_decode));
  TIERCEL_RETURN_IF_ERROR(linear(layer.attention_output, workspace_.attended, workspace_.delta));
  TIERCEL_RETURN_IF_ERROR(add_up_ranks());
  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, layer.feed_forward_norm));
  TIERCEL_RETURN_IF_ERROR(linear(layer.gate_up, workspace_.h, workspace_.gate_up));
  TIERCEL_RETURN_IF_ERROR(cuda_status(cuda::swiglu({.dtype = layout_.dtype,
                                                    .gate_up = workspace_.gate_up,
                                                    .out = workspace_.active,
                                                    .rows = plan_.rows(),
                                                    .width = config_.shape.feed_forward},
                                                   stream_.get()),
                                      "SwiGLU"));
  TIERCEL_RETURN_IF_ERROR(linear(layer.down, workspace_.active, workspace_.delta));
  return add_up_ranks();
}

Status DeviceLlama::enqueue(std::byte* arena, std::size_t longest_decode) {
  const std::size_t hidden = config_.shape.hidden;
  const DeviceStepPlan::Offsets& at = plan_.offsets();
  TIERCEL_RETURN_IF_ERROR(cuda_status(cuda::embed({.dtype = layout_.dtype,
                                                   .table = weights_.embedding,
                                                   .tokens = reinterpret_cast<const TokenId*>(planned(at.tokens)),
                                                   .rows = plan_.rows(),
                                                   .out = workspace_.x,
                                                   .out_stride = hidden},
                                                  stream_.get()),
                                      "the embedding"));
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    TIERCEL_RETURN_IF_ERROR(enqueue_layer(weights_.layers[i], i, arena, longest_decode));
  }
  if (plan_.wanted() == 0) return {};
  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, weights_.output_norm));
  TIERCEL_RETURN_IF_ERROR(cuda_status(cuda::gather_rows({.dtype = layout_.dtype,
                                                         .from = workspace_.h,
                                                         .from_stride = hidden,
                                                         .rows = planned(at.wanted),
                                                         .count = plan_.wanted(),
                                                         .width = hidden,
                                                         .to = workspace_.wanted,
                                                         .to_stride = hidden},
                                                        stream_.get()),
                                      "gathering rows"));
  TIERCEL_RETURN_IF_ERROR(cuda_status(
      cuda::linear({.dtype = layout_.dtype,
                    .w = weights_.head,
                    .x = workspace_.wanted,
                    .x_stride = hidden,
                    .rows = plan_.wanted(),
                    .y = workspace_.logits,
                    .y_stride = weights_.head.outputs,
                    .float_output = true,
                    .arithmetic = exact_head_ ? cuda::LinearArithmetic::Decode : cuda::LinearArithmetic::Any,
                    .multiprocessors = multiprocessors_},
                   stream_.get()),
      "the output head"));
  return ranks_ ? ranks_->gather_logits(workspace_.logits, plan_.wanted()) : Status();
}

Status DeviceLlama::join_ranks(const Fingerprint& whole) {
  fingerprint_ = shard_fingerprint(whole, options_.shard);
  if (options_.shard.size == 1) return {};
  auto joined = DeviceRanks::join(shape_, options_.shard, options_.open_communicator, stream_, whole);
  if (!joined.ok()) return joined.status();
  ranks_.emplace(*std::move(joined));
  return {};
}

Result<const CudaGraph*> DeviceLlama::graph_of(const GraphKey& key) {
  const auto found = std::ranges::find(graphs_, key, &std::pair<GraphKey, CudaGraph>::first);
  if (found != graphs_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found);
  } else {
    auto graph = CudaGraph::capture(stream_, [&] { return enqueue(const_cast<std::byte*>(key.arena), key.longest); });
    if (!graph.ok()) return graph.status();
    graphs_.emplace_front(key, *std::move(graph));
    if (graphs_.size() > kMostGraphs) graphs_.pop_back();
  }
  return &graphs_.front().second;
}

Result<std::span<float>> DeviceLlama::step(std::span<const SequenceChunk> chunks, std::byte* arena) {
  if (!failure_.ok()) return failure_;
  const CurrentDevice current(options_.device);
  plan_.build(chunks, reinterpret_cast<std::uint32_t*>(workspace_.host_plan.start()));
  // Rows whose layers have the same bits in every batch keep that in their logits.
  exact_head_ = options_.deterministic || std::ranges::all_of(chunks, [](const SequenceChunk& chunk) {
                  return chunk.logits == Logits::None || chunk.arithmetic == Arithmetic::Decode;
                });
  const std::size_t wanted = plan_.wanted(), vocabulary = config_.shape.vocabulary;
  const auto compute = [&]() -> Status {
    TIERCEL_RETURN_IF_ERROR(
        cuda_status(cudaMemcpyAsync(workspace_.plan, workspace_.host_plan.start(),
                                    plan_.words_used() * sizeof(std::uint32_t), cudaMemcpyHostToDevice, stream_.get()),
                    "copying what a step is told"));
    // What ranks say to each other is no part of a graph.
    const bool decodes =
        !ranks_ && plan_.decode_rows() == plan_.rows() && plan_.rows() <= kMostGraphRows &&
        plan_.rows() == plan_.decode_sequences() &&
        (plan_.of(Arithmetic::Any).count() == plan_.rows() || plan_.of(Arithmetic::Decode).count() == plan_.rows());
    if (decodes) {
      const auto graph = graph_of({.arena = arena,
                                   .rows = plan_.rows(),
                                   .wanted = wanted,
                                   .longest = std::bit_ceil(std::max(plan_.longest_decode(), kLeastGraphLength)),
                                   .table_stride = plan_.table_stride(),
                                   .decode_arithmetic = plan_.of(Arithmetic::Decode).count() > 0});
      if (!graph.ok()) return graph.status();
      TIERCEL_RETURN_IF_ERROR((*graph)->launch(stream_));
    } else {
      TIERCEL_RETURN_IF_ERROR(enqueue(arena, plan_.longest_decode()));
    }
    if (wanted > 0 && options_.shard.rank == 0) {
      TIERCEL_RETURN_IF_ERROR(
          cuda_status(cudaMemcpyAsync(workspace_.host_logits.start(), workspace_.logits,
                                      wanted * vocabulary * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                      "copying logits from the GPU"));
    }
    if (ranks_) TIERCEL_RETURN_IF_ERROR(ranks_->wait());  // which has deadlines
    TIERCEL_RETURN_IF_ERROR(done_.record(stream_));
    return done_.synchronize();
  };
  failure_ = compute();
  if (!failure_.ok()) {
    // What of it is in the stream already ends first: blocks and workspace may be freed when this returns.
    leave_ranks();
    static_cast<void>(stream_.synchronize());
    return failure_;
  }
  auto* const logits = reinterpret_cast<float*>(workspace_.host_logits.start());
  if (options_.shard.rank > 0) return std::span<float>();
  if (!ranks_) return std::span<float>(logits, wanted * vocabulary);
  rows_of_all_.resize(wanted * vocabulary);
  ranks_->join_parts(logits, wanted, rows_of_all_.data());
  return std::span<float>(rows_of_all_);
}

// What the kernels are made for.
Status check_limits(const GgufFile& file, const ModelShape& shape, const DeviceLlamaOptions& options) {
  constexpr std::size_t kMostRows = 65535;
  if (options.max_batch_tokens > kMostRows) {
    return Status::invalid_argument(
        fmt::format("max_batch_tokens is {}; on a GPU give at most {}", options.max_batch_tokens, kMostRows));
  }
  constexpr std::uint32_t kHeadSizes[] = {64, 80, 96, 128, 256};
  if (std::ranges::find(kHeadSizes, shape.head_dim) != std::end(kHeadSizes)) return {};
  return Status::invalid_argument(fmt::format(
      "{}: heads have {} dimensions; GPUs compute 64, 80, 96, 128 and 256: use the CPU", file.path(), shape.head_dim));
}

}  // namespace

Result<std::unique_ptr<ModelRunner>> load_device_llama(const GgufFile& file, const DeviceLlamaOptions& asked) {
  auto config = read_llama_config(file);
  if (!config.ok()) return config.status();
  TIERCEL_RETURN_IF_ERROR(check_limits(file, config->shape, asked));
  auto tensors = read_llama_tensors(file, *config, asked.shard);
  if (!tensors.ok()) return tensors.status();
  DeviceLlamaOptions options = asked;
  if (options.context_tokens == 0) options.context_tokens = config->shape.context_tokens;
  const CurrentDevice current(options.device);
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaSetDevice(options.device), fmt::format("using GPU {}", options.device)));
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    return cuda_status(cudaDeviceGetAttribute(&value, attribute, options.device), "asking for the GPU's kind");
  };
  int major = 0, minor = 0, multiprocessors = 0;
  TIERCEL_RETURN_IF_ERROR(ask(cudaDevAttrComputeCapabilityMajor, major));
  TIERCEL_RETURN_IF_ERROR(ask(cudaDevAttrComputeCapabilityMinor, minor));
  TIERCEL_RETURN_IF_ERROR(ask(cudaDevAttrMultiProcessorCount, multiprocessors));
  const KvLayout layout = device_llama_kv_layout(config->shape, options);
  auto weights = upload_llama_weights(*tensors, *config, options.context_tokens, layout.dtype);
  if (!weights.ok()) return weights.status();
  const DeviceStepLimits limits{.rows = options.max_batch_tokens,
                                .sequences = options.max_sequences,
                                .logit_rows = options.max_logit_rows,
                                .context_tokens = options.context_tokens,
                                .has_prefill_attention = layout.dtype != DType::F32};
  auto workspace =
      DeviceWorkspace::allocate(config->part(options.shard), options, DeviceStepPlan(layout, limits).offsets().words);
  if (!workspace.ok()) return workspace.status();
  auto stream = CudaStream::create();
  if (!stream.ok()) return stream.status();
  auto done = CudaEvent::create();
  if (!done.ok()) return done.status();
  auto model = std::make_unique<DeviceLlama>(*config, *std::move(weights), options, limits,
                                             static_cast<std::size_t>(multiprocessors), *std::move(workspace),
                                             *std::move(stream), *std::move(done));
  KvLayout whole = layout;
  whole.kv_heads = config->shape.kv_heads;
  TIERCEL_RETURN_IF_ERROR(
      model->join_ranks(model_fingerprint(file, *config, whole,
                                          {{~kDeviceArithmeticVersion, options.deterministic,
                                            static_cast<std::uint32_t>(major), static_cast<std::uint32_t>(minor)}})));
  return std::unique_ptr<ModelRunner>(std::move(model));
}

}  // namespace tiercel
