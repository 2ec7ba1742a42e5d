#include "tiercel/engine.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>

#include <fmt/format.h>

#include "base/cpu_affinity.h"
#include "base/logging.h"
#include "base/process_usage.h"
#include "engine/engine_batch.h"
#include "engine/engine_stats.h"
#include "engine/model_source.h"
#include "engine/rank_follower.h"
#include "engine/rank_tiers.h"
#include "engine/ranked_model.h"
#include "engine/replica_options.h"
#include "engine/replica_set.h"
#include "engine/request_check.h"
#include "engine/step_time.h"
#include "gguf/gguf_file.h"
#include "kernels/bf16.h"
#include "kv/kv_cache_state.h"
#include "model/llama_config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tiercel {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(": ") + 2));
  }
  return "unknown";
}

// What computing costs, at a prompt's beginning and where many tokens come before, so that the cache knows from the
// first prompt on whether loading is faster.
Status measure_prefill(ModelRunner& model, KvCache& cache, std::size_t most_tokens, std::size_t context_tokens) {
  constexpr std::size_t kTokens = 64, kDeep = 2048;
  const std::vector<TokenId> tokens(std::min({kTokens, most_tokens, context_tokens}), 1);
  auto lease = cache.admit(tokens, {.max_tokens = tokens.size(), .max_matched_tokens = 0, .max_shared_tokens = 0});
  if (!lease.ok()) return {};  // the cache is smaller than that
  TIERCEL_RETURN_IF_ERROR(lease->grow(tokens.size()));
  const std::span<const BlockId> own = lease->block_table();
  const auto compute = [&](std::size_t position) {
    // What comes before is the same few blocks again and again.
    std::vector<BlockId> table;
    while (table.size() < cache.layout().blocks_for(position + tokens.size())) {
      table.push_back(own[table.size() % own.size()]);
    }
    const SequenceChunk chunk{
        .tokens = tokens, .first_position = position, .block_table = table, .arithmetic = Arithmetic::Prefill};
    return model.step({&chunk, 1}, cache.block(0)).status();
  };
  TIERCEL_RETURN_IF_ERROR(compute(0));  // which also reads the weights from their file
  for (const std::size_t position : {std::size_t{0}, std::min(context_tokens, kDeep) - tokens.size()}) {
    const auto start = std::chrono::steady_clock::now();
    TIERCEL_RETURN_IF_ERROR(compute(position));
    cache.report_prefill(tokens.size(), position,
                         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return {};
}

// The cache's options, of all replicas together, with hot arenas as large as the memory limit leaves room for.
Result<KvCacheOptions> fit_memory_limit(const EngineOptions& options, const ModelMemory& model,
                                        const KvLayout& layout) {
  KvCacheOptions cache = options.cache;
  if (options.memory_limit_bytes == 0) return cache;
  const LimitedMemory others = limited_memory(model, options.replicas, options.cache.memory_tier_bytes);
  const std::size_t tokens = std::max(options.context_tokens, layout.block_tokens);
  const std::size_t least = options.replicas * layout.blocks_for(tokens) * layout.block_bytes();
  if (options.memory_limit_bytes < others.sum() + least) {
    return Status::resource_exhausted(
        fmt::format("memory_limit_bytes is {}, but weights take {}, a step's workspace {}, the memory tier {} and the "
                    "KV of {} tokens "
                    "{}; give at least {}",
                    options.memory_limit_bytes, others.weights_bytes + others.mapped_weights_bytes,
                    others.workspace_bytes, others.memory_tier_bytes, tokens, least, others.sum() + least));
  }
  const std::size_t left = options.memory_limit_bytes - others.sum();
  cache.capacity_bytes = cache.capacity_bytes == 0 ? left : std::min(cache.capacity_bytes, left);
  return cache;
}

}  // namespace

// Members are destroyed from the last to the first: the replicas' loops end before what they use.
class EngineState {
 public:
  RequestContext request_context() const { return {*tokenizer, chat_template, info.vocabulary, info.context_tokens}; }

  std::unique_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  RankedModel* ranks;  // the first replica's model, where ranks share it; else null
  EngineInfo info;
  std::size_t memory_limit_bytes, memory_tier_bytes;
  ProcessUsage process;
  std::unique_ptr<ReplicaSet> replicas;
};

Result<Engine> Engine::open(const EngineOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  TIERCEL_RETURN_IF_ERROR(options.validate());
  if (options.ranks.rank > 0) {
    return Status::invalid_argument(
        fmt::format("ranks.rank is {}; the engine is rank 0, and the others are Engine::serve_rank() (tiercel rank)",
                    options.ranks.rank));
  }
  // Every thread of the engine is started below, and stays on these cores.
  const auto affinity = CpuAffinity::set(options.cpus);
  if (!affinity.ok()) return affinity.status();
  auto file = GgufFile::open(options.model);
  if (!file.ok()) return file.status();
  auto config = read_llama_config(*file);
  if (!config.ok()) return config.status();
  auto tokenizer = Tokenizer::from_gguf(*file);
  if (!tokenizer.ok()) return tokenizer.status();
  const ModelShape shape = config->shape;
  if (tokenizer->size() > shape.vocabulary) {
    return Status::invalid_argument(fmt::format("{}: the tokenizer has {} tokens, the embedding {} rows", options.model,
                                                tokenizer->size(), shape.vocabulary));
  }
  std::optional<ChatTemplate> chat_template;
  if (file->find("tokenizer.chat_template")) {
    auto source = file->get_string("tokenizer.chat_template");
    if (!source.ok()) return source.status();
    auto parsed = ChatTemplate::parse(*source);
    if (!parsed.ok()) return Status::invalid_argument(fmt::format("{}: {}", options.model, parsed.status().message()));
    chat_template = std::move(*parsed);
  }
  if (options.context_tokens > shape.context_tokens) {
    return Status::invalid_argument(
        fmt::format("context_tokens is {}; this model was trained for {}, the most it can be", options.context_tokens,
                    shape.context_tokens));
  }

  const std::vector<ReplicaThreads> threads = threads_of_replicas(options);
  auto source = ModelSource::open(options, *std::move(file), shape);
  if (!source.ok()) return source.status();
  const KvLayout layout = source->layout();
  if (options.context_tokens > 0 && options.cache.capacity_bytes > 0) {
    const std::size_t needed = options.replicas * layout.blocks_for(options.context_tokens) * layout.block_bytes();
    if (needed > options.cache.capacity_bytes) {
      return Status::resource_exhausted(
          fmt::format("cache.capacity_bytes is {}, but one sequence of context_tokens {} {}needs {}; raise the one or "
                      "lower the other",
                      options.cache.capacity_bytes, options.context_tokens,
                      options.replicas > 1 ? "in each replica " : "", needed));
    }
  }
  StatsOptions stats_options{.window_s = static_cast<double>(options.stats_window_ms) / 1e3,
                             .opened = StatsOptions::Clock::now(),
                             .labels = std::make_shared<EndpointLabels>()};
  StepLoopOptions loop_options{.limits = {.max_sequences = options.max_batch_sequences,
                                          .max_tokens = options.max_batch_tokens,
                                          .max_logit_rows = source->max_logit_rows(),
                                          .deterministic = options.deterministic,
                                          .target_step_s = options.target_step_ms / 1e3,
                                          .aging_s = static_cast<double>(options.aging_ms) / 1e3},
                               .max_queued_requests = options.max_queued_requests,
                               .max_draft_tokens = options.speculation ? options.max_draft_tokens : 0};
  const std::uint32_t context_tokens = options.context_tokens ? options.context_tokens : shape.context_tokens;
  auto shared_tokenizer = std::make_unique<const Tokenizer>(*std::move(tokenizer));
  std::unique_ptr<SharedTiers> tiers;
  KvCacheOptions cache_options;
  std::vector<std::unique_ptr<Replica>> replicas;
  for (const ReplicaThreads& of_replica : threads) {
    // All its threads are started here.
    const auto cores = CpuAffinity::set(of_replica.cpus);
    if (!cores.ok()) return cores.status();
    auto model = source->make_model(of_replica.threads);
    if (!model.ok()) return model.status();
    if (replicas.empty()) {
      auto fitted = fit_memory_limit(options, (*model)->memory(), layout);
      if (!fitted.ok()) return fitted.status();
      cache_options = cache_of_replica(*std::move(fitted), options.replicas);
    }
    if (replicas.empty() && options.replicas > 1) {
      auto stores = make_tier_stores(options.cache);
      if (!stores.ok()) return stores.status();
      tiers = std::make_unique<SharedTiers>(*std::move(stores));
      cache_options.memory_tier_bytes = 0;
      cache_options.disk_dir.clear();
    }
    if (tiers) cache_options.tiers = tiers->handles();
    TIERCEL_RETURN_IF_ERROR(source->share_tiers(cache_options));
    auto memory = source->reserve_blocks(cache_options.capacity_bytes);
    if (!memory.ok()) return memory.status();
    if (*memory) (*model)->compute_over(**memory);
    auto cache = KvCacheState::open_with_tiers(cache_options, layout, (*model)->fingerprint(), {}, *std::move(memory));
    if (!cache.ok()) return cache.status();
    if (RankedModel* const ranks = source->ranks()) {
      TIERCEL_RETURN_IF_ERROR(ranks->begin(cache->stats().capacity_blocks));
      cache->observe_copies(
          [ranks](BlockId from, BlockId to, std::size_t tokens) { ranks->copy_block(from, to, tokens); });
    }
    stats_options.tier_names.clear();
    for (const KvTierStats& tier : cache->stats().tiers) stats_options.tier_names.push_back(tier.name);
    loop_options.tier_names = stats_options.tier_names;
    if (!loop_options.tier_names.empty()) {
      TIERCEL_RETURN_IF_ERROR(measure_prefill(**model, *cache, options.max_batch_tokens, context_tokens));
    }
    replicas.push_back(std::make_unique<Replica>(*std::move(model), *std::move(cache), *shared_tokenizer, stats_options,
                                                 loop_options));
  }

  EngineInfo info{.model_path = options.model,
                  .model_name = shape.name,
                  .architecture = shape.architecture,
                  .parameters = shape.parameters,
                  .layers = shape.layers,
                  .hidden = shape.hidden,
                  .heads = shape.heads,
                  .kv_heads = shape.kv_heads,
                  .head_dim = shape.head_dim,
                  .vocabulary = shape.vocabulary,
                  .context_tokens = context_tokens,
                  .has_chat_template = chat_template.has_value(),
                  .kv_dtype = std::string(to_string(layout.dtype)),
                  .block_tokens = layout.block_tokens,
                  .kv_token_bytes = layout.token_bytes(),
                  .replicas = options.replicas,
                  .device = source->device(),
                  .cpu = cpu_name(),
                  .simd = kernels::simd_name(),
                  .linear_kernels = replicas.front()->model().kernels()};
  for (const ReplicaThreads& of_replica : threads) info.threads += of_replica.threads;
  info.load_ms = milliseconds(std::chrono::steady_clock::now() - start);
  auto set = std::make_unique<ReplicaSet>(
      std::move(replicas), std::move(tiers),
      ReplicaSetOptions{.limits = loop_options.limits, .prefix_reuse = options.cache.prefix_reuse});
  return Engine(std::unique_ptr<EngineState>(new EngineState{.tokenizer = std::move(shared_tokenizer),
                                                             .chat_template = std::move(chat_template),
                                                             .ranks = source->ranks(),
                                                             .info = std::move(info),
                                                             .memory_limit_bytes = options.memory_limit_bytes,
                                                             .memory_tier_bytes = options.cache.memory_tier_bytes,
                                                             .process = {},
                                                             .replicas = std::move(set)}));
}

Status Engine::serve_rank(const EngineOptions& options) {
  TIERCEL_RETURN_IF_ERROR(options.validate());
  const RankOptions& ranks = options.ranks;
  if (ranks.rank == 0) {
    return Status::invalid_argument(
        fmt::format("ranks.rank is 0; give 1 to {}: rank 0 is Engine::open()", std::max(ranks.size, 2u) - 1));
  }
  const auto affinity = CpuAffinity::set(options.cpus);
  if (!affinity.ok()) return affinity.status();
  auto file = GgufFile::open(options.model);
  if (!file.ok()) return file.status();
  const auto config = read_llama_config(*file);
  if (!config.ok()) return config.status();
  auto source = ModelSource::open(options, *std::move(file), config->shape);
  if (!source.ok()) return source.status();
  const auto model = source->make_model(options.threads ? options.threads : usable_cores());
  if (!model.ok()) return model.status();
  const KvLayout& layout = source->layout();
  RankTierServer tiers(stores_of_rank(options.cache, source->tiers(), layout.block_bytes()), source->take_tier_links(),
                       layout, (*model)->fingerprint());
  const auto reserve = [&](std::size_t blocks) { return source->reserve_blocks(blocks * layout.block_bytes()); };
  const Status status = follow_first_rank(source->communicator(), **model, layout, &tiers, reserve);
  return tiers.opened().ok() ? status : tiers.opened();  // why rank 0 left
}

Engine::Engine(std::unique_ptr<EngineState> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

ResponseFuture Engine::process_request(Request request) {
  const auto arrival = Sequence::Clock::now();
  auto prompt = check_request(request, state_->request_context());
  if (!prompt.ok()) {
    state_->replicas->reject(request);
    auto promise = std::make_shared<ResponsePromise>();
    promise->set(prompt.status());
    return ResponseFuture(std::move(promise));
  }
  auto choices = make_sequences(std::move(request), std::move(*prompt), state_->info.context_tokens, arrival);
  ResponseFuture future(choices.front()->promise);
  state_->replicas->submit(std::move(choices));
  return future;
}

std::vector<Result<Response>> Engine::process_batch(std::span<const Request> requests, const BatchProgress& progress) {
  const std::size_t enough_in_flight = 512 * state_->replicas->size();  // for several batches
  const auto process = [this](Request request) { return process_request(std::move(request)); };
  return tiercel::process_batch(requests, std::min(enough_in_flight, state_->replicas->max_queued_requests()), process,
                                progress);
}

void Engine::close() {
  state_->replicas->close();
  constexpr std::uint64_t kPatience_ms = 5'000;
  if (const Status kept = state_->replicas->flush(kPatience_ms); !kept.ok()) {
    log().warn("not all cached KV was kept: {}", kept.message());
  }
  if (state_->ranks) state_->ranks->end();
}

Status Engine::flush(std::uint64_t timeout_ms) { return state_->replicas->flush(timeout_ms); }

EngineStats Engine::get_stats() const {
  EngineStats stats = collect_stats(*state_->replicas, state_->memory_tier_bytes);
  stats.process = state_->process.stats();
  stats.memory.limit_bytes = state_->memory_limit_bytes;
  stats.memory.resident_bytes = state_->process.resident_bytes();
  return stats;
}

const EngineInfo& Engine::info() const { return state_->info; }

Result<std::vector<TokenId>> Engine::tokenize(std::string_view text, bool parse_special_tokens) const {
  return state_->tokenizer->encode(text, parse_special_tokens);
}

std::string Engine::detokenize(std::span<const TokenId> tokens) const { return state_->tokenizer->decode(tokens); }

Result<std::string> Engine::render_chat(std::span<const ChatMessage> messages) const {
  auto chat = tiercel::render_chat(messages, state_->request_context());
  if (!chat.ok()) return chat.status();
  return std::move(chat->text);
}

std::size_t Engine::lookup(std::span<const TokenId> tokens, std::string_view cache_salt) const {
  return state_->replicas->lookup(tokens, {.salt = cache_salt});
}

Result<std::size_t> Engine::pin(std::span<const TokenId> tokens, std::string_view cache_salt, std::uint64_t ttl_ms) {
  return state_->replicas->pin(tokens, {.salt = cache_salt}, ttl_ms);
}

std::size_t Engine::unpin(std::span<const TokenId> tokens, std::string_view cache_salt) {
  return state_->replicas->unpin(tokens, {.salt = cache_salt});
}

std::size_t Engine::invalidate(std::span<const TokenId> prefix, std::string_view cache_salt) {
  return state_->replicas->invalidate(prefix, {.salt = cache_salt});
}

std::size_t Engine::invalidate_tenant(std::string_view cache_salt) {
  return state_->replicas->invalidate_tenant(cache_salt);
}

std::size_t Engine::invalidate_all() { return state_->replicas->invalidate_all(); }

std::string_view to_string(FinishReason reason) { return reason == FinishReason::Stop ? "stop" : "length"; }

}  // namespace tiercel
