// One request on its way through the engine. Owned by the scheduler from arrival to its end; touched by the step thread
// only, except for the promise, which the future shares.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "engine/response_promise.h"
#include "engine/sampler.h"
#include "text/stream_decoder.h"
#include "tiercel/kv_cache.h"
#include "tiercel/request.h"

namespace tiercel {

struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(Request request_, std::vector<TokenId> prompt, std::size_t vocabulary, std::size_t context_tokens)
      : request(std::move(request_)),
        tokens(std::move(prompt)),
        prompt_tokens(tokens.size()),
        most_tokens(std::min(context_tokens, prompt_tokens + request.max_tokens)),
        sampler(request.sampling, vocabulary),
        decoder(request.stop),
        promise(std::make_shared<ResponsePromise>()) {}

  // Tokens whose KV is not computed yet.
  std::size_t pending() const { return tokens.size() - computed; }
  bool in_prompt() const { return computed < prompt_tokens; }
  std::size_t output_tokens() const { return tokens.size() - prompt_tokens; }

  Request request;
  std::vector<TokenId> tokens;  // prompt, then output
  std::size_t prompt_tokens;
  std::size_t most_tokens;   // prompt and output together
  std::size_t computed = 0;  // leading tokens whose KV is in the blocks
  bool announced = false;    // to the cache: it came near the front of the queue
  ExpectedPrompt expected;   // from then on, while it waits
  Lease lease;
  Sampler sampler;
  StreamDecoder decoder;
  Response response;
  std::shared_ptr<ResponsePromise> promise;

  Clock::time_point arrival;
  Clock::time_point started;  // entered the batch
  Clock::time_point first_token;
  Clock::time_point last_token;
};

}  // namespace tiercel
