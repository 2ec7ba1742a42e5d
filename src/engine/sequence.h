// One request on its way through the engine. Owned by the scheduler from arrival to its end; touched by the step thread
// only, except for the promise, which the future shares.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "engine/choice_group.h"
#include "engine/response_promise.h"
#include "engine/sampler.h"
#include "text/stream_decoder.h"
#include "tiercel/kv_cache.h"
#include "tiercel/request.h"

namespace tiercel {

// Between the seeds of a request's choices; the first has the request's own.
inline constexpr std::uint64_t kSeedStride = 0x9e3779b97f4a7c15u;

struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(Request request_, std::vector<TokenId> prompt, std::size_t context_tokens)
      : request(std::move(request_)),
        tokens(std::move(prompt)),
        prompt_tokens(tokens.size()),
        most_tokens(std::min(context_tokens, prompt_tokens + request.max_tokens)),
        decoder(request.stop),
        promise(std::make_shared<ResponsePromise>(request.cancel_when_dropped)) {}

  // It enters the batch for the first time. A sequence that waits holds little; one that runs grows no more.
  void start(Clock::time_point now, std::size_t vocabulary) {
    started = now;
    sampler.emplace(request.sampling, vocabulary);
    for (const TokenId token : tokens) sampler->observe(token);
    tokens.reserve(most_tokens);
    response.tokens.reserve(most_tokens - prompt_tokens);
    response.logprobs.reserve(most_tokens - prompt_tokens);
    response.text.reserve(kUsualTokenBytes * (most_tokens - prompt_tokens));
  }

  // Tokens whose KV is not computed yet.
  std::size_t pending() const { return tokens.size() - computed; }
  bool in_prompt() const { return computed < prompt_tokens; }
  // It takes one token in a step, and gives one. (With several it computes its prompt, or, after a preemption, what it
  // had.)
  bool is_stream() const { return pending() == 1 && !in_prompt(); }
  bool waits_for_choice() const { return group && choice > 0 && !group->forked; }
  bool preempted() const { return response.preemptions > 0; }
  // It gives its place to another and waits; its blocks are the cache's.
  void preempt() {
    lease = Lease();
    computed = 0;
    announced = false;
    ++response.preemptions;
  }
  void set_times(Clock::time_point arrived) {
    arrival = arrived;
    constexpr std::uint64_t kForever_ms = 1'000ull * 3600 * 24 * 365;
    if (request.timeout_ms > 0) {
      deadline = arrival + std::chrono::milliseconds(std::min(request.timeout_ms, kForever_ms));
    }
    if (request.deadline) deadline = std::min(deadline, *request.deadline);
  }
  bool was_admitted() const { return started != Clock::time_point(); }

  Request request;
  std::vector<TokenId> tokens;  // prompt, then output
  std::size_t prompt_tokens;
  std::size_t most_tokens;   // prompt and output together
  std::size_t computed = 0;  // leading tokens whose KV is in the blocks
  std::size_t accounted =
      0;              // leading tokens that were counted as computed or reused; more than computed after a preemption
  double rank_s = 0;  // Scheduler: who has the least goes first
  bool held_by_quota = false;   // when it was last tried: room that others give does not help
  std::uint32_t overtaken = 0;  // by later ones whose prefix was cached
  bool announced = false;       // to the cache: it came near the front of the queue
  ExpectedPrompt expected;      // from then on, while it waits
  Lease lease;
  std::optional<Sampler> sampler;  // once started
  StreamDecoder decoder;
  Response response;
  std::shared_ptr<ResponsePromise> promise;
  std::shared_ptr<ChoiceGroup> group;  // null: the only choice
  std::uint32_t choice = 0;

  Clock::time_point arrival;
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point started;  // entered the batch
  Clock::time_point last_token;

 private:
  static constexpr std::size_t kUsualTokenBytes = 6;
};

// The sequences of a request that has passed check_request(): one for each choice to draw, with one promise.
inline std::vector<std::unique_ptr<Sequence>> make_sequences(Request request, std::vector<TokenId> prompt,
                                                             std::size_t context_tokens,
                                                             Sequence::Clock::time_point arrival) {
  const std::uint32_t drawn = std::max(request.n, request.best_of);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (std::uint32_t choice = 0; choice < drawn; ++choice) {
    const bool last = choice + 1 == drawn;
    sequences.push_back(std::make_unique<Sequence>(last ? std::move(request) : request,
                                                   last ? std::move(prompt) : prompt, context_tokens));
    Sequence& sequence = *sequences.back();
    sequence.choice = choice;
    sequence.request.sampling.seed += choice * kSeedStride;
    sequence.set_times(arrival);
    if (drawn == 1) continue;
    sequence.promise = sequences.front()->promise;
    sequence.group = choice == 0 ? std::make_shared<ChoiceGroup>() : sequences.front()->group;
  }
  if (drawn > 1) {
    ChoiceGroup& group = *sequences.front()->group;
    group.n = sequences.front()->request.n;
    group.unended = drawn;
    group.ended.resize(drawn);
  }
  return sequences;
}

}  // namespace tiercel
