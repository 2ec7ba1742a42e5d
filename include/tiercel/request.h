// What an engine is asked for, and what it answers.
#pragma once

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

struct ChatMessage {
  std::string role = {};  // "system", "user", "assistant", or another that the model's template knows
  std::string content = {};
};

struct LogitBias {
  TokenId token = 0;
  float bias = 0.0f;  // added to the logit; -infinity forbids the token
};

// How the next token is drawn. Steps in order: logit bias, repetition penalty, temperature, top-k, top-p, min-p, draw.
struct SamplingOptions {
  float temperature = 0.0f;         // 0: always the likeliest token (greedy). Finite, at least 0
  std::uint32_t top_k = 0;          // keep the k likeliest. 0: off
  float top_p = 1.0f;               // keep the smallest set whose probability reaches p. (0, 1]
  float min_p = 0.0f;               // drop tokens below min_p times the likeliest one's probability. [0, 1)
  float repetition_penalty = 1.0f;  // divides (multiplies, where negative) logits of tokens seen so far. (0, 10]
  std::uint64_t seed = 0;           // draws of one request depend on this and the logits alone
  std::vector<LogitBias> logit_bias = {};
};

enum class FinishReason : std::uint8_t {
  Stop,    // the model's end-of-text token, or one of the stop strings
  Length,  // max_tokens, or the end of the context
};
std::string_view to_string(FinishReason reason);  // "stop", "length"

inline constexpr TokenId kNoToken = -1;

// One piece of output as it streams.
struct TokenEvent {
  // kNoToken once at the end, where text was held back until then.
  TokenId token = 0;
  // Text that became certain with this token: valid UTF-8 wherever the model's output is, never half a character, never
  // the start of a stop string. May be empty. The pieces of a request join to Response::text.
  std::string_view text = {};
  float logprob = 0.0f;      // natural log of the token's probability before sampling options
  std::uint32_t choice = 0;  // of Request::n
};

struct Request {
  // The prompt: exactly one of `text` (as it is), `messages` (through the model's chat template) or `tokens`.
  std::string text = {};
  // Higher goes first among waiting requests, and takes the place of running ones of lower priority where there is no
  // room for both; those go on later. Waiting as long as EngineOptions::aging_ms counts as much as one level, so
  // nobody waits forever. Equal ones go in order of arrival; where room is scarce, one whose prefix is cached before
  // one that would evict it.
  int priority = 0;
  std::vector<ChatMessage> messages = {};
  std::vector<TokenId> tokens = {};

  // Most tokens to produce. 0: only compute the prompt, to score it (prompt_logprobs) or to have its KV in the cache
  // when the first real request comes. The prompt and one token must fit the context; output ends at the context's end
  // with FinishReason::Length.
  std::uint32_t max_tokens = 256;
  SamplingOptions sampling = {};
  // Output ends before the first of these; none may be empty.
  std::vector<std::string> stop = {};
  // Output ends before any of these tokens.
  std::vector<TokenId> stop_tokens = {};
  // Go on past the model's end-of-text token.
  bool ignore_end_of_text = false;
  // Also answer with the log-probability of each prompt token. Computes the whole prompt: nothing is reused.
  bool prompt_logprobs = false;
  // Let text such as "<|im_end|>" in `text` or in a message's content become the special token. Off: users cannot
  // inject one. The chat template's own markers are always special.
  bool parse_special_tokens = false;
  // Requests of different salts share no KV and cannot learn of each other's.
  std::string cache_salt = {};
  // Whom the statistics count it for (EngineStats::endpoints), up to 64 bytes: "chat", "batch". The engine keeps 16
  // labels; requests with further ones count as "other". Empty: for nobody.
  std::string endpoint = {};
  // How often the same was asked for before, for the statistics (tiercel/retry.h).
  std::uint32_t attempt = 0;
  // How long and how badly to keep the KV of this request.
  Retention retention = {};
  // Choices to draw from one prompt, which is computed once; each has a seed of its own. 1 .. 64; above 1 with a
  // temperature above 0 only. Default 1.
  std::uint32_t n = 1;
  // Draw so many, and answer with the n whose tokens are the likeliest on average. At least n. 0: n.
  std::uint32_t best_of = 0;
  // Longest time from arrival to the end, and the moment by which it must have ended; the earlier one holds. Past it
  // the request ends at its next step with DeadlineExceeded. 0 and empty: none.
  std::uint64_t timeout_ms = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline = {};
  // Dropping the future before the response is there cancels the request.
  bool cancel_when_dropped = false;
  // Called on the engine's thread for every output token, in order, before the future is ready. Keep it short: the
  // whole batch waits. Must not throw or call close().
  std::function<void(const TokenEvent&)> on_token = {};
};

// One of several answers to a prompt.
struct Choice {
  std::string text = {};
  std::vector<TokenId> tokens = {};
  std::vector<float> logprobs = {};
  FinishReason finish_reason = FinishReason::Length;
};

struct Response {
  std::string text = {};
  std::vector<TokenId> tokens = {};  // output tokens; an end-of-text token that ended it is not among them
  std::vector<float> logprobs = {};  // one per output token, as in TokenEvent
  std::vector<TokenId> prompt_tokens = {};
  std::vector<float> prompt_logprobs = {};  // [i] = log P(prompt_tokens[i + 1] | prompt_tokens[..i]), if asked for
  std::uint32_t reused_tokens = 0;          // prompt tokens whose KV came from the cache; the rest was computed
  // Of these, by where they were when the request came: "hot", then the tiers by name. Add up to reused_tokens.
  std::vector<std::pair<std::string, std::uint32_t>> reused_by_tier = {};
  // Output tokens that were guessed ahead, and those of them that were right (EngineOptions::speculation).
  std::uint32_t drafted_tokens = 0;
  std::uint32_t accepted_tokens = 0;
  FinishReason finish_reason = FinishReason::Length;
  // Where more than one was asked for: all n, in order, or likeliest first with best_of. The fields above that a choice
  // has are the first one's.
  std::vector<Choice> choices = {};
  std::uint32_t preemptions = 0;  // how often it gave its place to a request of higher priority
  double queue_ms = 0;            // arrival to the first step it took part in
  double ttft_ms = 0;             // arrival to the first output token; 0 if there is none
  double total_ms = 0;            // arrival to the end
};

namespace internal {
// Shared by a Future and the engine that fulfils it.
class ResponseState {
 public:
  virtual ~ResponseState() = default;
  virtual void wait() = 0;
  virtual bool wait_for(std::chrono::milliseconds timeout) = 0;
  virtual void cancel() = 0;
  virtual void abandon() = 0;                                 // nobody will take the response
  virtual void on_ready(std::function<void()> callback) = 0;  // runs at once where it is ready already
  virtual bool ready() const = 0;
  virtual Result<Response> take() = 0;
};
}  // namespace internal

// The answer to come. Movable; every method may be called from any thread, one taker in all: get(), then() or co_await
// once. Dropping a Future does not stop the request, unless it asked for that (Request::cancel_when_dropped); cancel()
// does.
class ResponseFuture {
 public:
  ResponseFuture() = default;
  explicit ResponseFuture(std::shared_ptr<internal::ResponseState> state) : state_(std::move(state)) {}
  ResponseFuture(ResponseFuture&&) noexcept = default;
  ResponseFuture& operator=(ResponseFuture&& other) noexcept {
    if (state_ && state_ != other.state_) state_->abandon();
    state_ = std::move(other.state_);
    return *this;
  }
  ~ResponseFuture() {
    if (state_) state_->abandon();
  }

  bool valid() const { return state_ != nullptr; }
  bool ready() const { return state_->ready(); }
  void wait() const { state_->wait(); }
  bool wait_for(std::chrono::milliseconds timeout) const { return state_->wait_for(timeout); }

  // Waits and takes the response. The future is invalid afterwards.
  Result<Response> get() {
    state_->wait();
    return std::exchange(state_, nullptr)->take();
  }

  // Ends the request at its next step with Cancelled; no-op when it is done.
  void cancel() { state_->cancel(); }

  // Calls `done` with the response, on the engine's thread (or at once, on this one, if it is there already). The
  // future is invalid afterwards. Do not block in it.
  void then(std::function<void(Result<Response>)> done) {
    auto state = std::exchange(state_, nullptr);
    auto* raw = state.get();
    raw->on_ready([state = std::move(state), done = std::move(done)]() mutable {
      auto kept = std::move(state);
      done(kept->take());
    });
  }

  // co_await future: resumes on the engine's thread. (GCC 12 miscompiles a Request written as a braced temporary inside
  // the co_await expression itself; give it a name first.)
  bool await_ready() const { return state_->ready(); }
  void await_suspend(std::coroutine_handle<> waiter) {
    state_->on_ready([waiter] { waiter.resume(); });
  }
  Result<Response> await_resume() { return std::exchange(state_, nullptr)->take(); }

 private:
  std::shared_ptr<internal::ResponseState> state_;
};

}  // namespace tiercel
