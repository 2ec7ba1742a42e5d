#include "model/device_llama.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <list>
#include <optional>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda_graph.h"
#include "device/cuda_status.h"
#include "device/cuda_stream.h"
#include "device/current_device.h"
#include "device/device_block_memory.h"
#include "model/device_forward.h"
#include "model/device_llama_weights.h"
#include "model/device_ranks.h"
#include "model/device_step_plan.h"
#include "model/device_workspace.h"
#include "model/llama_config.h"
#include "model/llama_tensors.h"
#include "model/micro_batches.h"
#include "model/model_fingerprint.h"

namespace tiercel {
namespace {

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
  std::size_t rows, wanted, drawn, longest, table_stride;  // each row is a sequence's
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
        options_(options),
        stream_(std::move(stream)),
        done_(std::move(done)),
        plan_(device_llama_kv_layout(config.shape, options), limits),
        workspace_(std::move(workspace)),
        forward_(config.part(options.shard), options.shard, device_llama_kv_layout(config.shape, options),
                 std::move(weights), multiprocessors, workspace_, plan_, stream_) {
    if (!options.profile) return;
    profile_ = std::make_unique<DeviceStepProfile>();
    forward_.time_parts(profile_.get());
  }

  // `whole` is that of the whole model. Waits for the other ranks, where there are any.
  Status join_ranks(const Fingerprint& whole);

  const ModelShape& shape() const override { return shape_; }
  const Fingerprint& fingerprint() const override { return fingerprint_; }
  ModelMemory memory() const override {
    return {.packed_bytes = forward_.weight_bytes(), .workspace_bytes = workspace_.memory.bytes()};
  }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return forward_.kernels(); }
  std::size_t max_logit_rows() const override { return options_.max_logit_rows; }
  void compute_over(const BlockMemory& memory) override {
    loads_ = &static_cast<const DeviceBlockMemory&>(memory).loads_for_steps();
  }
  bool draws_tokens() const override { return true; }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override;
  void leave_ranks() override {
    if (ranks_) ranks_->leave();
  }
  StepProfile* profile() override { return profile_ ? &profile_->profile() : nullptr; }
  std::span<const kernels::DrawnToken> drawn() const override {
    return {reinterpret_cast<const kernels::DrawnToken*>(workspace_.host_drawn.start()),
            has_logits() ? plan_.drawn() : 0};
  }

 private:
  bool has_logits() const { return options_.shard.rank == 0; }
  // Tells the GPU of a step, or of one of its micro-batches, the `index`th that it is told of since the last step.
  Status plan(std::span<const SequenceChunk> chunks, std::size_t index);
  // The whole of the step that was planned last.
  Status enqueue_planned(std::byte* arena, std::size_t longest_decode,
                         const DeviceForward::BeforeBlocks& before_blocks);
  Status compute_whole(std::span<const SequenceChunk> chunks, std::byte* arena, std::uint64_t load);
  Status compute_micro_batches(std::span<const SequenceChunk> chunks, std::byte* arena, std::uint64_t load,
                               std::size_t count);
  DeviceForward::BeforeBlocks order_behind(std::uint64_t load) const;
  // Logits that are wanted as they are, and drawn tokens, to the host.
  Status copy_results();
  // The newest load on its way to blocks of these chunks; 0: none.
  std::uint64_t awaited_load(std::span<const SequenceChunk> chunks) const;
  // The graph of the step that was planned last.
  Result<const CudaGraph*> graph_of(const GraphKey& key);

  const ModelShape shape_;  // of the whole model
  const DeviceLlamaOptions options_;
  Fingerprint fingerprint_;
  CudaStream stream_;
  CudaEvent done_;  // the current step
  MicroBatches micro_batches_;
  DeviceStepPlan plan_;
  bool exact_head_ = false;       // of the current step: the head has the same bits in every batch
  DeviceLoads* loads_ = nullptr;  // into the blocks; null: each is through before a step needs it
  Status failure_;                // of a step; the GPU's state is not known after it

  const DeviceWorkspace workspace_;
  DeviceForward forward_;
  std::unique_ptr<DeviceStepProfile> profile_;  // null: nobody asked

  // Over the workspace, so these end before it: freeing memory waits for what ranks have under way.
  std::optional<DeviceRanks> ranks_;  // empty: alone
  // Least recently used last.
  std::list<std::pair<GraphKey, CudaGraph>> graphs_;
};

Status DeviceLlama::copy_results() {
  const std::size_t rows = plan_.wanted() - plan_.drawn();
  if (rows > 0) {
    TIERCEL_RETURN_IF_ERROR(
        cuda_status(cudaMemcpyAsync(workspace_.host_logits.start(), workspace_.logits,
                                    rows * shape_.vocabulary * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                    "copying logits from the GPU"));
  }
  if (plan_.drawn() == 0) return {};
  return cuda_status(
      cudaMemcpyAsync(workspace_.host_drawn.start(), workspace_.drawn, plan_.drawn() * sizeof(kernels::DrawnToken),
                      cudaMemcpyDeviceToHost, stream_.get()),
      "copying drawn tokens from the GPU");
}

Status DeviceLlama::join_ranks(const Fingerprint& whole) {
  fingerprint_ = shard_fingerprint(whole, options_.shard);
  if (options_.shard.size == 1) return {};
  auto joined = DeviceRanks::join(shape_, options_.shard, options_.open_communicator, stream_, whole);
  if (!joined.ok()) return joined.status();
  ranks_.emplace(*std::move(joined));
  forward_.share(&*ranks_);
  return {};
}

std::uint64_t DeviceLlama::awaited_load(std::span<const SequenceChunk> chunks) const {
  std::uint64_t newest = 0;
  for (const SequenceChunk& chunk : chunks) newest = std::max(newest, loads_->newest_to(chunk.block_table));
  return newest;
}

Result<const CudaGraph*> DeviceLlama::graph_of(const GraphKey& key) {
  const auto found = std::ranges::find(graphs_, key, &std::pair<GraphKey, CudaGraph>::first);
  if (found != graphs_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found);
  } else {
    auto graph = CudaGraph::capture(
        stream_, [&] { return enqueue_planned(const_cast<std::byte*>(key.arena), key.longest, {}); });
    if (!graph.ok()) return graph.status();
    graphs_.emplace_front(key, *std::move(graph));
    if (graphs_.size() > kMostGraphs) graphs_.pop_back();
  }
  return &graphs_.front().second;
}

Status DeviceLlama::plan(std::span<const SequenceChunk> chunks, std::size_t index) {
  auto* const words = reinterpret_cast<std::uint32_t*>(workspace_.host_plan.start()) + index * plan_.offsets().words;
  plan_.build(chunks, words);
  return cuda_status(cudaMemcpyAsync(workspace_.plan, words, plan_.words_used() * sizeof(std::uint32_t),
                                     cudaMemcpyHostToDevice, stream_.get()),
                     "copying what a step is told");
}

DeviceForward::BeforeBlocks DeviceLlama::order_behind(std::uint64_t load) const {
  if (load == 0) return {};
  return [this, load](std::size_t layer) { return loads_->order(stream_, load, layer); };
}

Status DeviceLlama::compute_whole(std::span<const SequenceChunk> chunks, std::byte* arena, std::uint64_t load) {
  TIERCEL_RETURN_IF_ERROR(plan(chunks, 0));
  // What ranks say to each other is no part of a graph, and neither are events that are timed.
  const bool decodes =
      !ranks_ && !profile_ && plan_.decode_rows() == plan_.rows() && plan_.rows() <= kMostGraphRows &&
      plan_.rows() == plan_.decode_sequences() &&
      (plan_.of(Arithmetic::Any).count() == plan_.rows() || plan_.of(Arithmetic::Decode).count() == plan_.rows());
  if (decodes) {
    const auto graph = graph_of({.arena = arena,
                                 .rows = plan_.rows(),
                                 .wanted = plan_.wanted(),
                                 .drawn = plan_.drawn(),
                                 .longest = std::bit_ceil(std::max(plan_.longest_decode(), kLeastGraphLength)),
                                 .table_stride = plan_.table_stride(),
                                 .decode_arithmetic = plan_.of(Arithmetic::Decode).count() > 0});
    if (!graph.ok()) return graph.status();
    // A graph has no waits: all layers at once.
    if (load > 0) TIERCEL_RETURN_IF_ERROR(loads_->order(stream_, load, shape_.layers - 1));
    return (*graph)->launch(stream_);
  }
  return enqueue_planned(arena, plan_.longest_decode(), order_behind(load));
}

Status DeviceLlama::compute_micro_batches(std::span<const SequenceChunk> chunks, std::byte* arena, std::uint64_t load,
                                          std::size_t count) {
  DeviceForward::WantedRows next;
  for (const SequenceChunk& chunk : chunks) next.drawn += chunk.draws.empty() ? chunk.logit_rows() : 0;
  std::size_t index = 0;
  for (const auto batch : micro_batches_.cut(chunks, count)) {
    TIERCEL_RETURN_IF_ERROR(plan(batch, index++));
    TIERCEL_RETURN_IF_ERROR(forward_.enqueue_layers(arena, plan_.longest_decode(), next, order_behind(load)));
    next.returned += plan_.wanted() - plan_.drawn();
    next.drawn += plan_.drawn();
  }
  TIERCEL_RETURN_IF_ERROR(plan(chunks, index));
  return forward_.enqueue_end(exact_head_);
}

Status DeviceLlama::enqueue_planned(std::byte* arena, std::size_t longest_decode,
                                    const DeviceForward::BeforeBlocks& before_blocks) {
  const DeviceForward::WantedRows all{.returned = 0, .drawn = plan_.wanted() - plan_.drawn()};
  TIERCEL_RETURN_IF_ERROR(forward_.enqueue_layers(arena, longest_decode, all, before_blocks));
  return forward_.enqueue_end(exact_head_);
}

Result<std::span<float>> DeviceLlama::step(std::span<const SequenceChunk> chunks, std::byte* arena) {
  if (!failure_.ok()) return failure_;
  const CurrentDevice current(options_.device);
  // Rows whose layers have the same bits in every batch keep that in their logits.
  exact_head_ = options_.deterministic || std::ranges::all_of(chunks, [](const SequenceChunk& chunk) {
                  return chunk.logits == Logits::None || chunk.arithmetic == Arithmetic::Decode;
                });
  const std::uint64_t load = loads_ ? awaited_load(chunks) : 0;
  std::size_t rows = 0;
  for (const SequenceChunk& chunk : chunks) rows += chunk.tokens.size();
  const std::size_t batches = count_device_micro_batches(rows, options_.shard.stages);
  const auto compute_all = [&]() -> Status {
    TIERCEL_RETURN_IF_ERROR(batches == 1 ? compute_whole(chunks, arena, load)
                                         : compute_micro_batches(chunks, arena, load, batches));
    if (profile_) TIERCEL_RETURN_IF_ERROR(profile_->enter(StepPart::Copy, stream_));
    if (has_logits()) TIERCEL_RETURN_IF_ERROR(copy_results());
    if (ranks_) TIERCEL_RETURN_IF_ERROR(ranks_->wait());  // which has deadlines
    TIERCEL_RETURN_IF_ERROR(done_.record(stream_));
    return done_.synchronize();
  };
  if (profile_) profile_->begin();
  failure_ = compute_all();
  if (profile_) {
    const Status divided = profile_->divide();
    if (failure_.ok()) failure_ = divided;
  }
  if (!failure_.ok()) {
    // What of it is in the stream already ends first: blocks and workspace may be freed when this returns.
    leave_ranks();
    static_cast<void>(stream_.synchronize());
    return failure_;
  }
  const std::size_t returned = has_logits() ? plan_.wanted() - plan_.drawn() : 0;
  return std::span(reinterpret_cast<float*>(workspace_.host_logits.start()), returned * shape_.vocabulary);
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
  auto weights = upload_llama_weights(*tensors, *config, options.shard, options.context_tokens, layout.dtype);
  if (!weights.ok()) return weights.status();
  const DeviceStepLimits limits{.rows = options.max_batch_tokens,
                                .sequences = options.max_sequences,
                                .logit_rows = options.max_logit_rows,
                                .context_tokens = options.context_tokens,
                                .has_prefill_attention = layout.dtype != DType::F32};
  auto workspace =
      DeviceWorkspace::allocate(config->part(options.shard), options, DeviceStepPlan(layout, limits).offsets().words,
                                count_device_micro_batches(options.max_batch_tokens, options.shard.stages) + 1);
  if (!workspace.ok()) return workspace.status();
  auto stream = CudaStream::create();
  if (!stream.ok()) return stream.status();
  auto done = CudaEvent::create();
  if (!done.ok()) return done.status();
  auto model = std::make_unique<DeviceLlama>(*config, *std::move(weights), options, limits,
                                             static_cast<std::size_t>(multiprocessors), *std::move(workspace),
                                             *std::move(stream), *std::move(done));
  KvLayout whole = layout;
  whole.layers = config->shape.layers;
  whole.kv_heads = config->shape.kv_heads;
  TIERCEL_RETURN_IF_ERROR(
      model->join_ranks(model_fingerprint(file, *config, whole,
                                          {{~kDeviceArithmeticVersion, options.deterministic,
                                            static_cast<std::uint32_t>(major), static_cast<std::uint32_t>(minor)}})));
  return std::unique_ptr<ModelRunner>(std::move(model));
}

}  // namespace tiercel
