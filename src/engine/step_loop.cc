#include "engine/step_loop.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"

namespace tiercel {
namespace {

// How often to look whether what waiting requests wait for, a prefix that a tier loads or room that it takes, is there.
constexpr std::chrono::milliseconds kCachePoll{1};

double milliseconds(Sequence::Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

StepLoop::StepLoop(const StepLoopOptions& options, ModelRunner& model, KvCache& cache, const Tokenizer& tokenizer,
                   StatsRecorder& stats)
    : options_(options),
      model_(model),
      cache_(cache),
      tokenizer_(tokenizer),
      stats_(stats),
      scheduler_(options.limits, cache),
      raw_logits_(model.shape().vocabulary) {
  assert(options.limits.max_logit_rows > options.limits.max_sequences &&
         options.limits.max_logit_rows <= model.max_logit_rows());
  thread_ = std::thread([this] { run(); });
}

StepLoop::~StepLoop() { close(); }

void StepLoop::submit(std::unique_ptr<Sequence> sequence) {
  Status refusal;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) {
      refusal = Status::cancelled("the engine is closed");
    } else if (queued_ >= options_.max_queued_requests) {
      refusal = Status::rejected(fmt::format(
          "{} requests are waiting, the most allowed; try again later or raise max_queued_requests", queued_));
    } else {
      ++queued_;
      stats_.on_queued();
      arrivals_.push_back(std::move(sequence));
    }
  }
  if (refusal.ok()) return arrived_.notify_one();
  stats_.on_rejected();
  sequence->promise->set(std::move(refusal));
}

void StepLoop::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  arrived_.notify_one();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void StepLoop::run() {
  while (take_arrivals()) {
    end_cancelled();
    waits_for_cache_ = !run_step();
  }
  for (auto& sequence : scheduler_.take_if([](const Sequence&) { return true; })) {
    const bool was_running = sequence->started != Sequence::Clock::time_point();
    end(std::move(sequence), Status::cancelled("the engine was closed"), was_running);
  }
}

bool StepLoop::take_arrivals() {
  std::vector<std::unique_ptr<Sequence>> arrivals;
  bool go_on;
  {
    std::unique_lock lock(mutex_);
    const auto has_work = [&] { return closing_ || !arrivals_.empty(); };
    if (scheduler_.idle()) {
      arrived_.wait(lock, has_work);
    } else if (waits_for_cache_) {
      arrived_.wait_for(lock, kCachePoll, has_work);
    }
    arrivals.swap(arrivals_);
    go_on = !closing_;
  }
  for (auto& sequence : arrivals) scheduler_.enqueue(std::move(sequence));
  return go_on;
}

void StepLoop::end_cancelled() {
  for (auto& sequence : scheduler_.take_if([](const Sequence& s) { return s.promise->cancel_requested(); })) {
    const bool was_running = sequence->started != Sequence::Clock::time_point();
    end(std::move(sequence), Status::cancelled("cancelled by the caller"), was_running);
  }
}

bool StepLoop::run_step() {
  const auto start = Sequence::Clock::now();
  Scheduler::Step step = scheduler_.next_step();
  for (auto& [sequence, status] : step.refused) end(std::move(sequence), std::move(status), false);
  for (Sequence* sequence : step.admitted) {
    sequence->started = start;
    sequence->response.queue_ms = milliseconds(start - sequence->arrival);
    note_reuse(*sequence);
    stats_.on_started(sequence->computed, sequence->response.queue_ms);
    for (const TokenId token : sequence->tokens) sequence->sampler.observe(token);
    const std::lock_guard lock(mutex_);
    --queued_;
  }
  if (step.parts.empty()) return !step.refused.empty();
  compute(step.parts);
  const double seconds = std::chrono::duration<double>(Sequence::Clock::now() - start).count();
  stats_.on_step(seconds);
  report_prefill(step.parts, seconds);
  return true;
}

void StepLoop::note_reuse(Sequence& sequence) const {
  Response& response = sequence.response;
  response.reused_tokens = static_cast<std::uint32_t>(sequence.computed);
  std::uint32_t hot = response.reused_tokens;
  for (std::size_t tier = 0; tier < options_.tier_names.size(); ++tier) {
    const auto tokens = static_cast<std::uint32_t>(sequence.lease.matched_tokens_from(tier));
    response.reused_by_tier.emplace_back(options_.tier_names[tier], tokens);
    hot -= tokens;
  }
  response.reused_by_tier.emplace(response.reused_by_tier.begin(), "hot", hot);
}

// The cache weighs loading against computing by it. Only steps that do little else say what computing takes.
void StepLoop::report_prefill(const std::vector<BatchPart>& parts, double seconds) {
  constexpr std::size_t kLeastTokens = 64;
  std::size_t tokens = 0, others = 0;
  double positions = 0;
  for (const BatchPart& part : parts) {
    (part.arithmetic == Arithmetic::Prefill ? tokens : others) += part.tokens;
    if (part.arithmetic != Arithmetic::Prefill) continue;
    positions += static_cast<double>(part.tokens) * (static_cast<double>(part.first_token) + part.tokens / 2.0);
  }
  if (tokens < kLeastTokens || tokens < 8 * others) return;
  const auto middle = static_cast<std::size_t>(positions / static_cast<double>(tokens));
  cache_.report_prefill(tokens, middle - std::min(middle, tokens / 2), seconds);
}

void StepLoop::compute(const std::vector<BatchPart>& parts) {
  for (const BatchPart& part : parts) {
    // Within what admission promised, so it cannot fail.
    if (Status grown = part.sequence->lease.grow(part.first_token + part.tokens); !grown.ok())
      return fail_running(grown);
  }
  chunks_.clear();
  for (const BatchPart& part : parts) {
    chunks_.push_back({.tokens = std::span(part.sequence->tokens).subspan(part.first_token, part.tokens),
                       .first_position = part.first_token,
                       .block_table = part.sequence->lease.block_table(),
                       .logits = part.logits,
                       .arithmetic = part.arithmetic});
  }
  Result<std::span<float>> computed = model_.step(chunks_, cache_.block(0));
  if (!computed.ok()) {
    log().error("{}", computed.status().message());
    return fail_running(computed.status());
  }

  std::span<float> logits = *computed;
  const std::size_t vocabulary = model_.shape().vocabulary;
  for (const BatchPart& part : parts) {
    const std::size_t rows = part.logits == Logits::None ? 0 : part.logits == Logits::Last ? 1 : part.tokens;
    advance(part, logits.first(rows * vocabulary));
    logits = logits.subspan(rows * vocabulary);
  }
  for (auto& sequence :
       scheduler_.take_if([&](const Sequence& s) { return std::ranges::find(finished_, &s) != finished_.end(); })) {
    end(std::move(sequence), Status(), true);
  }
  finished_.clear();
}

void StepLoop::advance(const BatchPart& part, std::span<float> logits) {
  Sequence& sequence = *part.sequence;
  const auto computed = std::span<const TokenId>(sequence.tokens).subspan(part.first_token, part.tokens);
  sequence.lease.commit(computed, part.share, /*copyable=*/part.arithmetic == Arithmetic::Prefill);
  sequence.computed += part.tokens;
  if (part.first_token < sequence.prompt_tokens) stats_.on_prompt_tokens_computed(part.tokens);
  if (part.logits == Logits::None) return;

  if (part.logits == Logits::All) record_prompt_logprobs(part, logits);
  if (sequence.computed < sequence.tokens.size()) return;
  if (sequence.request.max_tokens == 0) return finish(sequence, FinishReason::Length);
  draw_token(sequence, logits.last(model_.shape().vocabulary));
}

void StepLoop::record_prompt_logprobs(const BatchPart& part, std::span<const float> logits) {
  Sequence& sequence = *part.sequence;
  const std::size_t vocabulary = model_.shape().vocabulary;
  for (std::size_t i = 0; i < part.tokens; ++i) {
    const std::size_t next = part.first_token + i + 1;
    if (next >= sequence.prompt_tokens) break;
    sequence.response.prompt_logprobs.push_back(
        logprob_of(logits.subspan(i * vocabulary, vocabulary), sequence.tokens[next]));
  }
}

void StepLoop::draw_token(Sequence& sequence, std::span<float> logits) {
  std::ranges::copy(logits, raw_logits_.begin());
  const TokenId token = sequence.sampler.sample(logits);
  const auto now = Sequence::Clock::now();
  if (sequence.response.tokens.empty() && sequence.response.ttft_ms == 0) {
    sequence.response.ttft_ms = milliseconds(now - sequence.arrival);
    stats_.on_first_output_token(sequence.response.ttft_ms);
  } else {
    stats_.on_output_token(milliseconds(now - sequence.last_token));
  }
  sequence.last_token = now;

  if (tokenizer_.is_end(token) && !sequence.request.ignore_end_of_text) return finish(sequence, FinishReason::Stop);
  sequence.tokens.push_back(token);
  sequence.sampler.observe(token);
  const float logprob = logprob_of(raw_logits_, token);
  sequence.response.tokens.push_back(token);
  sequence.response.logprobs.push_back(logprob);

  std::string text = sequence.decoder.push(tokenizer_.bytes_of(token));
  const bool full = sequence.tokens.size() >= sequence.most_tokens;
  if (full && !sequence.decoder.stopped()) text += sequence.decoder.finish();
  const bool stopped = sequence.decoder.stopped();  // finish() may have settled a stop string that was still open
  if (sequence.request.on_token) sequence.request.on_token({.token = token, .text = text, .logprob = logprob});
  sequence.response.text += text;
  if (stopped) return finish(sequence, FinishReason::Stop);
  if (full) finish(sequence, FinishReason::Length);
}

void StepLoop::finish(Sequence& sequence, FinishReason reason) {
  if (!sequence.decoder.stopped()) sequence.response.text += sequence.decoder.finish();
  sequence.response.finish_reason = reason;
  finished_.push_back(&sequence);
}

void StepLoop::fail_running(const Status& status) {
  for (auto& sequence :
       scheduler_.take_if([](const Sequence& s) { return s.started != Sequence::Clock::time_point(); })) {
    end(std::move(sequence), status, true);
  }
}

void StepLoop::end(std::unique_ptr<Sequence> sequence, Status status, bool was_running) {
  if (!was_running) {
    const std::lock_guard lock(mutex_);
    --queued_;
  }
  Response& response = sequence->response;
  response.total_ms = milliseconds(Sequence::Clock::now() - sequence->arrival);
  const Outcome outcome = status.ok()                              ? Outcome::Completed
                          : status.code() == StatusCode::Cancelled ? Outcome::Cancelled
                                                                   : Outcome::Failed;
  // Blocks and counts first: whoever waits for the future finds both settled.
  sequence->lease = Lease();
  stats_.on_ended(outcome, was_running, response.total_ms);
  if (status.ok()) {
    response.prompt_tokens.assign(sequence->tokens.begin(),
                                  sequence->tokens.begin() + static_cast<std::ptrdiff_t>(sequence->prompt_tokens));
    sequence->promise->set(std::move(response));
  } else {
    sequence->promise->set(std::move(status));
  }
}

}  // namespace tiercel
