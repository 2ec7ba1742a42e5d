// One request on its way through the engine. Owned by the scheduler from arrival to its end; touched by the step thread
// only, except for the promise, which the future shares.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "engine/choice_group.h"
#include "engine/draft.h"
#include "engine/response_promise.h"
#include "engine/routed_request.h"
#include "engine/sampler.h"
#include "engine/stats_recorder.h"
#include "text/stream_decoder.h"
#include "tiercel/kv_cache.h"
#include "tiercel/request.h"

namespace tiercel {

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
  void start(Clock::time_point now, std::size_t vocabulary);

  // Tokens whose KV is not computed yet.
  std::size_t pending() const { return tokens.size() - computed; }
  bool in_prompt() const { return computed < prompt_tokens; }
  // It takes one token in a step, and gives one. (With several it computes its prompt, or, after a preemption, what it
  // had.)
  bool is_stream() const { return pending() == 1 && !in_prompt(); }
  bool waits_for_choice() const { return group && choice > 0 && !group->forked; }
  bool preempted() const { return response.preemptions > 0; }
  // Tokens that a tier gave since the last step need no computing. Returns how many it pays to compute now.
  std::size_t join_loaded() {
    const std::size_t end = lease.extend();
    computed = std::max(computed, lease.committed_tokens());
    return end - std::min(end, computed);
  }
  void set_times(Clock::time_point arrived);  // and the deadline
  bool was_admitted() const { return started != Clock::time_point(); }

  Request request;
  std::vector<TokenId> tokens;  // prompt, then output
  std::size_t prompt_tokens;
  std::size_t most_tokens;   // prompt and output together
  std::size_t computed = 0;  // leading tokens whose KV is in the blocks
  // Leading tokens that were counted as computed or reused: more than `computed` after a preemption.
  std::size_t accounted = 0;
  // Leading prompt tokens that loads were to bring before it was admitted.
  std::size_t awaited_tokens = 0;
  double rank_s = 0;                // Scheduler: who has the least goes first
  bool held_by_quota = false;       // its tenant's, when last tried: room that others give does not help
  bool given_room = false;          // by those that gave way to it: it takes it first, and waits for no tier
  std::uint32_t overtaken = 0;      // by later ones whose prefix was cached
  bool announced = false;           // to the cache: it came near the front of the queue
  ExpectedPrompt expected;          // from then on, while it waits
  std::size_t expected_tokens = 0;  // of these, cached when it was announced
  Lease lease;
  std::optional<Sampler> sampler;  // once started
  std::optional<Draft> draft;      // the same; empty: it is never to have one
  StreamDecoder decoder;
  Response response;
  std::shared_ptr<ResponsePromise> promise;
  std::shared_ptr<ChoiceGroup> group;     // null: the only choice
  std::shared_ptr<RoutedRequest> routed;  // shared by the choices; null: nobody chose among replicas
  std::uint32_t choice = 0;
  EndpointId endpoint = kNoEndpoint;

  Clock::time_point arrival;
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point started;  // entered the batch
  Clock::time_point last_token;
};

// The sequences of a request that has passed check_request(): one for each choice to draw, with one promise.
std::vector<std::unique_ptr<Sequence>> make_sequences(Request request, std::vector<TokenId> prompt,
                                                      std::size_t context_tokens, Sequence::Clock::time_point arrival);

}  // namespace tiercel
