// The engine: one model, one KV cache, one batch that requests join and leave at every step; or several caches and
// batches behind the same door (EngineOptions::replicas).
//
//   auto engine = tiercel::Engine::open({.model = "model.gguf"}).value();
//   auto answer = engine.process_request({.text = "Once upon a time"}).get();
//   if (answer.ok()) std::puts(answer->text.c_str());
//
// Thread-safety: every method may be called from any thread. Ownership: the engine owns its threads, memory and model;
// destroying it (or close()) ends requests in flight with Cancelled and joins every thread. Futures may outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tiercel/options.h"
#include "tiercel/request.h"
#include "tiercel/stats.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class EngineState;  // internal

// Told now and then, on the thread that called, how many of how many requests have been answered.
using BatchProgress = std::function<void(std::size_t done, std::size_t total)>;

class Engine {
 public:
  // Maps the model, measures and packs its weights, reserves the KV arena, starts the step thread.
  //   InvalidArgument    an option out of range; a file that is not a usable GGUF model (says what and where)
  //   NotFound           no such model file
  //   ResourceExhausted  context_tokens was asked for, and cache.capacity_bytes cannot hold one sequence of it (says
  //                      how much it needs)
  //   Unavailable        the system gives no memory
  //   Unavailable        also: a rank was lost, or cannot be reached (RankOptions)
  //   DeadlineExceeded   a rank did not come
  // With ranks, a rank that is lost later ends what runs, and every later request, with one of these two.
  static Result<Engine> open(const EngineOptions& options);

  // Is one of the ranks that share a model, but the first, for the engine that options.ranks.address leads to: loads
  // this rank's part and computes on the calling thread, also of the process that has rank 0: a GPU each. Of the
  // options it takes `model`, `device`, `threads`, `cpus`, `ranks`, and for tiers that rank 0 has `cache.disk_dir` and
  // `cache.tiers`; the others are rank 0's. Returns when that engine ends (Ok) or a rank is lost, as open() would.
  static Status serve_rank(const EngineOptions& options);

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  // Queues a request and returns at once. A request that cannot be run is answered through the future:
  //   InvalidArgument    the prompt, a sampling option or a limit cannot be used; the message says what to change
  //   Rejected           max_queued_requests are waiting; Status::retry_after_ms() says when there may be room
  //                      (tiercel/retry.h)
  //   ResourceExhausted  the KV cache could not hold prompt and max_tokens even if it were empty
  //   DeadlineExceeded   it did not end within its timeout_ms, or by its deadline
  //   Cancelled          cancel() or the engine's end came first
  ResponseFuture process_request(Request request);

  // Answers many prompts at full throughput, and returns when all are answered, in their order. Waits where the queue
  // is full instead of being Rejected. For the most tokens per second set EngineOptions::target_step_ms high.
  std::vector<Result<Response>> process_batch(std::span<const Request> requests, const BatchProgress& progress = {});

  // Ends every request in flight with Cancelled, joins the step thread, and keeps what is cached in the durable tiers.
  // Later requests are answered Cancelled. Idempotent.
  void close();
  // Writes what is cached to the durable tiers, to survive the loss of power. As KvCache::flush().
  Status flush(std::uint64_t timeout_ms = 60'000);

  EngineStats get_stats() const;
  const EngineInfo& info() const;

  // Text <-> tokens of this model. InvalidArgument for text that is not UTF-8.
  Result<std::vector<TokenId>> tokenize(std::string_view text, bool parse_special_tokens = false) const;
  std::string detokenize(std::span<const TokenId> tokens) const;
  // The prompt that `messages` become, with the assistant's turn opened. InvalidArgument where the model has no chat
  // template or the template refuses them.
  Result<std::string> render_chat(std::span<const ChatMessage> messages) const;

  // Leading tokens of `tokens` whose KV is cached now under `cache_salt`; of several replicas, where most are.
  std::size_t lookup(std::span<const TokenId> tokens, std::string_view cache_salt = {}) const;
  // Keeps the cached whole blocks of `tokens` until unpin(), or for `ttl_ms`; forgets cached prefixes. As the methods
  // of KvCache with these names. To compute what is to be pinned, send it as a request with max_tokens 0. With several
  // replicas: pin() keeps what each has now, returns the most and fails only where all do; the others add up.
  Result<std::size_t> pin(std::span<const TokenId> tokens, std::string_view cache_salt = {}, std::uint64_t ttl_ms = 0);
  std::size_t unpin(std::span<const TokenId> tokens, std::string_view cache_salt = {});
  std::size_t invalidate(std::span<const TokenId> prefix, std::string_view cache_salt = {});
  std::size_t invalidate_tenant(std::string_view cache_salt);
  std::size_t invalidate_all();

 private:
  explicit Engine(std::unique_ptr<EngineState> state);
  std::unique_ptr<EngineState> state_;
};

}  // namespace tiercel
