#include "tiercel/engine.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>

#include <fmt/format.h>

#include "base/cpu_affinity.h"
#include "base/logging.h"
#include "base/process_usage.h"
#include "base/step_profile.h"
#include "engine/engine_batch.h"
#include "engine/rank_follower.h"
#include "engine/rank_tiers.h"
#include "engine/ranked_model.h"
#include "engine/request_check.h"
#include "engine/stats_recorder.h"
#include "engine/step_loop.h"
#include "engine/step_time.h"
#include "gguf/gguf_file.h"
#include "kernels/bf16.h"
#include "model/llama_config.h"
#include "model/llama_model.h"
#include "ranks/gloo_communicator.h"
#include "ranks/rank_links.h"
#include "ranks/tcp_communicator.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tiercel {
namespace {

// Rows of logits beyond one for each sequence: prompts that are scored go through them chunk by chunk.
constexpr std::size_t kScoringRows = 64;
// Signs of life between ranks in the time that they wait for each other.
constexpr std::uint64_t kSignsInTimeout = 3;

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(": ") + 2));
  }
  return "unknown";
}

// What tiers of one medium moved.
IoStats io_of(const std::vector<KvTierStats>& tiers, TierMedium medium) {
  IoStats io;
  for (const KvTierStats& tier : tiers) {
    if (tier.medium != medium) continue;
    io.read_bytes += tier.store.read_bytes;
    io.read_blocks += tier.store.read_blocks;
    io.written_bytes += tier.store.written_bytes;
    io.written_blocks += tier.store.written_blocks;
    io.errors += tier.store.errors;
  }
  return io;
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

// What memory_limit_bytes counts besides the hot arena.
std::size_t limited_bytes(const ModelMemory& model, std::size_t memory_tier_bytes) {
  return model.packed_bytes + model.mapped_bytes + model.workspace_bytes + memory_tier_bytes;
}

// The cache's options, with a hot arena as large as the memory limit leaves room for.
Result<KvCacheOptions> fit_memory_limit(const EngineOptions& options, const ModelMemory& model,
                                        const KvLayout& layout) {
  KvCacheOptions cache = options.cache;
  if (options.memory_limit_bytes == 0) return cache;
  const std::size_t others = limited_bytes(model, options.cache.memory_tier_bytes);
  const std::size_t tokens = std::max(options.context_tokens, layout.block_tokens);
  const std::size_t least = layout.blocks_for(tokens) * layout.block_bytes();
  if (options.memory_limit_bytes < others + least) {
    return Status::resource_exhausted(
        fmt::format("memory_limit_bytes is {}, but weights take {}, a step's workspace {}, the memory tier {} and the "
                    "KV of {} tokens "
                    "{}; give at least {}",
                    options.memory_limit_bytes, model.packed_bytes + model.mapped_bytes, model.workspace_bytes,
                    options.cache.memory_tier_bytes, tokens, least, others + least));
  }
  cache.capacity_bytes = std::min(cache.capacity_bytes, options.memory_limit_bytes - others);
  return cache;
}

Result<std::unique_ptr<Communicator>> open_communicator(const RankOptions& ranks) {
  // Ranks load their parts between operations, each at its own pace.
  const CommunicatorOptions options{.address = ranks.address,
                                    .rank = ranks.rank,
                                    .size = ranks.size,
                                    .timeout_ms = ranks.open_timeout_ms,
                                    .open_timeout_ms = ranks.open_timeout_ms};
  return ranks.transport == RankTransport::Gloo ? open_gloo_communicator(options) : open_tcp_communicator(options);
}

// One for each tier of rank 0.
Result<std::vector<std::vector<Socket>>> link_for_tiers(Communicator& communicator, const RankOptions& ranks,
                                                        const RankSettings& settings) {
  return link_with_first(communicator, ranks.address, settings.tiers.count(), ranks.open_timeout_ms);
}

}  // namespace

// Members are destroyed from the last to the first: the loop ends before what it uses.
class EngineState {
 public:
  EngineState(Tokenizer tokenizer_, std::optional<ChatTemplate> chat_template_, std::unique_ptr<ModelRunner> model_,
              RankedModel* ranks_, KvCache cache_, EngineInfo info_, const StepLoopOptions& loop_options,
              const EngineOptions& options)
      : tokenizer(std::move(tokenizer_)),
        chat_template(std::move(chat_template_)),
        model(std::move(model_)),
        ranks(ranks_),
        cache(std::move(cache_)),
        info(std::move(info_)),
        memory_limit_bytes(options.memory_limit_bytes),
        memory_tier_bytes(options.cache.memory_tier_bytes),
        stats({.window_s = static_cast<double>(options.stats_window_ms) / 1e3, .tier_names = loop_options.tier_names}),
        loop(loop_options, *model, cache, tokenizer, stats) {}

  RequestContext request_context() const { return {tokenizer, chat_template, info.vocabulary, info.context_tokens}; }

  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::unique_ptr<ModelRunner> model;
  RankedModel* ranks;  // the same, where ranks share it; else null
  KvCache cache;
  EngineInfo info;
  std::size_t memory_limit_bytes, memory_tier_bytes;
  ProcessUsage process;
  StatsRecorder stats;
  StepLoop loop;
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

  LlamaOptions model_options{.compute = options.compute,
                             .deterministic = options.deterministic,
                             .threads = options.threads ? options.threads : usable_cores(),
                             .max_batch_tokens = options.max_batch_tokens,
                             .max_logit_rows = options.max_batch_sequences + kScoringRows,
                             .block_tokens = options.cache.block_tokens,
                             .profile = options.profile_steps};
  std::unique_ptr<Communicator> communicator;
  std::vector<std::vector<Socket>> tier_links;
  if (options.ranks.size > 1) {
    auto shard = shard_model(shape, 0, options.ranks.size);
    if (!shard.ok()) return shard.status();
    auto opened = open_communicator(options.ranks);
    if (!opened.ok()) return opened.status();
    communicator = *std::move(opened);
    model_options.shard = *shard;
    model_options.communicator = communicator.get();
    RankSettings settings{
        .timeout_ms = options.ranks.timeout_ms,
        .max_batch_tokens = model_options.max_batch_tokens,
        .max_logit_rows = model_options.max_logit_rows,
        .block_tokens = model_options.block_tokens,
        .compute = model_options.compute,
        .deterministic = model_options.deterministic,
        .tiers = tier_settings_of(options.cache, llama_kv_layout(shape, model_options).block_bytes())};
    TIERCEL_RETURN_IF_ERROR(share_settings(*communicator, settings));
    auto links = link_for_tiers(*communicator, options.ranks, settings);
    if (!links.ok()) return links.status();
    tier_links = *std::move(links);
  }
  const KvLayout layout = llama_kv_layout(shape, model_options);
  if (options.context_tokens > 0) {
    const std::size_t needed = layout.blocks_for(options.context_tokens) * layout.block_bytes();
    if (needed > options.cache.capacity_bytes) {
      return Status::resource_exhausted(
          fmt::format("cache.capacity_bytes is {}, but one sequence of context_tokens {} needs {}; raise the one or "
                      "lower the other",
                      options.cache.capacity_bytes, options.context_tokens, needed));
    }
  }
  auto model = load_llama(std::move(*file), model_options);
  if (!model.ok()) return model.status();
  RankedModel* ranks = nullptr;
  if (communicator) {
    communicator->set_timeout_ms(options.ranks.timeout_ms);
    auto ranked = std::make_unique<RankedModel>(std::move(communicator), *std::move(model),
                                                std::max<std::uint64_t>(1, options.ranks.timeout_ms / kSignsInTimeout));
    ranks = ranked.get();
    model = std::unique_ptr<ModelRunner>(std::move(ranked));
  }
  auto cache_options = fit_memory_limit(options, (*model)->memory(), layout);
  if (!cache_options.ok()) return cache_options.status();
  if (ranks) TIERCEL_RETURN_IF_ERROR(share_tiers(*cache_options, std::move(tier_links), ranks->progress()));
  auto cache = KvCache::open(*cache_options, layout, (*model)->fingerprint());
  if (!cache.ok()) return cache.status();
  if (ranks) {
    TIERCEL_RETURN_IF_ERROR(ranks->begin(cache->stats().capacity_blocks));
    cache->observe_copies(
        [ranks](BlockId from, BlockId to, std::size_t tokens) { ranks->copy_block(from, to, tokens); });
  }
  std::vector<std::string> tier_names;
  for (const KvTierStats& tier : cache->stats().tiers) tier_names.push_back(tier.name);
  const std::uint32_t context_tokens = options.context_tokens ? options.context_tokens : shape.context_tokens;
  if (!tier_names.empty()) {
    TIERCEL_RETURN_IF_ERROR(measure_prefill(**model, *cache, options.max_batch_tokens, context_tokens));
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
                  .threads = model_options.threads,
                  .cpu = cpu_name(),
                  .simd = kernels::simd_name(),
                  .linear_kernels = (*model)->kernels()};
  info.load_ms = milliseconds(std::chrono::steady_clock::now() - start);
  const StepLoopOptions loop_options{.limits = {.max_sequences = options.max_batch_sequences,
                                                .max_tokens = options.max_batch_tokens,
                                                .max_logit_rows = model_options.max_logit_rows,
                                                .deterministic = options.deterministic,
                                                .target_step_s = options.target_step_ms / 1e3,
                                                .aging_s = static_cast<double>(options.aging_ms) / 1e3},
                                     .max_queued_requests = options.max_queued_requests,
                                     .max_draft_tokens = options.speculation ? options.max_draft_tokens : 0,
                                     .tier_names = std::move(tier_names)};
  return Engine(std::make_unique<EngineState>(std::move(*tokenizer), std::move(chat_template), std::move(*model), ranks,
                                              std::move(*cache), std::move(info), loop_options, options));
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
  const auto shard = shard_model(config->shape, ranks.rank, ranks.size);
  if (!shard.ok()) return shard.status();
  const auto communicator = open_communicator(ranks);
  if (!communicator.ok()) return communicator.status();
  RankSettings settings;
  TIERCEL_RETURN_IF_ERROR(share_settings(**communicator, settings));
  auto tier_links = link_for_tiers(**communicator, ranks, settings);
  if (!tier_links.ok()) return tier_links.status();
  const LlamaOptions model_options{.compute = settings.compute,
                                   .deterministic = settings.deterministic,
                                   .threads = options.threads ? options.threads : usable_cores(),
                                   .max_batch_tokens = static_cast<std::size_t>(settings.max_batch_tokens),
                                   .max_logit_rows = static_cast<std::size_t>(settings.max_logit_rows),
                                   .block_tokens = settings.block_tokens,
                                   .communicator = communicator->get(),
                                   .shard = *shard};
  const auto model = load_llama(*std::move(file), model_options);
  if (!model.ok()) return model.status();
  (*communicator)->set_timeout_ms(settings.timeout_ms);
  const KvLayout layout = llama_kv_layout(config->shape, model_options);
  RankTierServer tiers(stores_of_rank(options.cache, settings.tiers, layout.block_bytes()),
                       std::move(tier_links->front()), layout, (*model)->fingerprint());
  const Status status = follow_first_rank(**communicator, **model, layout, &tiers);
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
    state_->stats.on_rejected(state_->stats.endpoint(request.endpoint), request.attempt);
    auto promise = std::make_shared<ResponsePromise>();
    promise->set(prompt.status());
    return ResponseFuture(std::move(promise));
  }
  auto choices = make_sequences(std::move(request), std::move(*prompt), state_->info.context_tokens, arrival);
  ResponseFuture future(choices.front()->promise);
  state_->loop.submit(std::move(choices));
  return future;
}

std::vector<Result<Response>> Engine::process_batch(std::span<const Request> requests, const BatchProgress& progress) {
  constexpr std::size_t kEnoughInFlight = 512;  // for several batches
  const auto process = [this](Request request) { return process_request(std::move(request)); };
  return tiercel::process_batch(requests, std::min(kEnoughInFlight, state_->loop.max_queued_requests()), process,
                                progress);
}

void Engine::close() {
  state_->loop.close();
  constexpr std::uint64_t kPatience_ms = 5'000;
  if (const Status kept = state_->cache.flush(kPatience_ms); !kept.ok()) {
    log().warn("not all cached KV was kept: {}", kept.message());
  }
  if (state_->ranks) state_->ranks->end();
}

Status Engine::flush(std::uint64_t timeout_ms) { return state_->cache.flush(timeout_ms); }

EngineStats Engine::get_stats() const {
  EngineStats stats = state_->stats.snapshot();
  KvCacheStats cache = state_->cache.stats();
  const ModelMemory model = state_->model->memory();
  stats.evicted_blocks = cache.evicted_blocks;
  stats.prefetched_useful_blocks = cache.prefetched_useful_blocks;
  stats.prefetched_wasted_blocks = cache.prefetched_wasted_blocks;
  stats.disk = io_of(cache.tiers, TierMedium::Disk);
  stats.network = io_of(cache.tiers, TierMedium::Network);
  stats.tiers = std::move(cache.tiers);
  stats.process = state_->process.stats();
  if (const StepProfile* profile = state_->model->profile()) stats.profile = profile->parts();
  const std::size_t kv_bytes = cache.capacity_blocks * cache.block_bytes;
  stats.memory = {.limit_bytes = state_->memory_limit_bytes,
                  .limited_bytes = kv_bytes + limited_bytes(model, state_->memory_tier_bytes),
                  .weights_bytes = model.packed_bytes,
                  .mapped_weights_bytes = model.mapped_bytes,
                  .kv_capacity_bytes = kv_bytes,
                  .kv_leased_bytes = cache.leased_blocks * cache.block_bytes,
                  .kv_cached_bytes = cache.cached_blocks * cache.block_bytes,
                  .kv_free_bytes = cache.free_blocks * cache.block_bytes,
                  .kv_metadata_bytes = cache.metadata_bytes,
                  .workspace_bytes = model.workspace_bytes,
                  .resident_bytes = state_->process.resident_bytes()};
  return stats;
}

const EngineInfo& Engine::info() const { return state_->info; }

Result<std::vector<TokenId>> Engine::tokenize(std::string_view text, bool parse_special_tokens) const {
  return state_->tokenizer.encode(text, parse_special_tokens);
}

std::string Engine::detokenize(std::span<const TokenId> tokens) const { return state_->tokenizer.decode(tokens); }

Result<std::string> Engine::render_chat(std::span<const ChatMessage> messages) const {
  auto chat = tiercel::render_chat(messages, state_->request_context());
  if (!chat.ok()) return chat.status();
  return std::move(chat->text);
}

std::size_t Engine::lookup(std::span<const TokenId> tokens, std::string_view cache_salt) const {
  return state_->cache.lookup(tokens, {.max_tokens = tokens.size(), .scope = {.salt = cache_salt}});
}

Result<std::size_t> Engine::pin(std::span<const TokenId> tokens, std::string_view cache_salt, std::uint64_t ttl_ms) {
  return state_->cache.pin(tokens, {.salt = cache_salt}, ttl_ms);
}

std::size_t Engine::unpin(std::span<const TokenId> tokens, std::string_view cache_salt) {
  return state_->cache.unpin(tokens, {.salt = cache_salt});
}

std::size_t Engine::invalidate(std::span<const TokenId> prefix, std::string_view cache_salt) {
  return state_->cache.invalidate(prefix, {.salt = cache_salt});
}

std::size_t Engine::invalidate_tenant(std::string_view cache_salt) {
  return state_->cache.invalidate_tenant(cache_salt);
}

std::size_t Engine::invalidate_all() { return state_->cache.invalidate_all(); }

std::string_view to_string(FinishReason reason) { return reason == FinishReason::Stop ? "stop" : "length"; }

}  // namespace tiercel
