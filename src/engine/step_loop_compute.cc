#include <algorithm>
#include <utility>

#include "base/logging.h"
#include "base/process_usage.h"
#include "engine/step_loop.h"
#include "engine/step_time.h"

namespace tiercel {
namespace {

// Of logits.
std::size_t rows_of(const BatchPart& part) {
  switch (part.logits) {
    case Logits::None: return 0;
    case Logits::Last: return 1;
    case Logits::All: break;
  }
  return part.tokens + part.drafted;
}

}  // namespace

bool StepLoop::run_step() {
  const auto start_time = options_.now();
  Scheduler::Step& step = scheduler_.next_step();
  drafter_.add_drafts(step);
  if (options_.on_step) options_.on_step(scheduler_, step);
  for (auto& [sequence, status] : step.refused) end(std::move(sequence), std::move(status));
  for (const Sequence* sequence : step.preempted) {
    log().debug("a request of priority {} gives its place to one of higher priority", sequence->request.priority);
    stats_.on_preempted(sequence->endpoint);
  }
  for (const Sequence* sequence : step.demoted) stats_.on_demoted(sequence->endpoint);
  for (Sequence* sequence : step.admitted) {
    if (!sequence->was_admitted()) start(*sequence, start_time);
  }
  for (const BatchPart& part : step.parts) note_found(*part.sequence);
  if (step.parts.empty()) return !step.refused.empty() || !step.preempted.empty();
  const PrefillWork prefill = prefill_work(step.parts);
  if (Status computed = compute(step.parts); !computed.ok()) {
    if (options_.on_computed) options_.on_computed(computed, 0, 0);
    return true;  // what did not end says nothing of its time, and its sequences are gone
  }
  const double seconds = std::chrono::duration<double>(options_.now() - start_time).count();
  scheduler_.measured(step, seconds);
  drafter_.measured(step, seconds);
  stats_.on_step(seconds, thread_cpu_s() + model_.workers_cpu_s());
  if (prefill.tokens > 0) cache_.report_prefill(prefill.tokens, prefill.position, seconds);
  if (options_.on_computed) options_.on_computed({}, prefill.tokens, seconds);
  return true;
}

void StepLoop::start(Sequence& sequence, Sequence::Clock::time_point now) {
  sequence.start(now, model_.shape().vocabulary);
  drafter_.begin(sequence);
  sequence.response.queue_ms = milliseconds(now - sequence.arrival);
  note_reuse(sequence);
  const bool counts = !sequence.group || !std::exchange(sequence.group->started, true);
  if (sequence.choice == 0) sequence.accounted = sequence.computed;
  tell_prompt_left(sequence);
  const ReusedByTier reused = sequence.choice == 0 ? ReusedByTier(sequence.response.reused_by_tier) : ReusedByTier();
  if (counts) stats_.on_started(sequence.endpoint, reused, sequence.response.queue_ms);
  const std::lock_guard lock(mutex_);
  if (last_start_) {
    constexpr std::size_t kRemembered = 16;
    start_intervals_ = std::min(start_intervals_ + 1, kRemembered);
    const double interval_s = std::chrono::duration<double>(now - *last_start_).count();
    start_interval_s_ += (interval_s - start_interval_s_) / static_cast<double>(start_intervals_);
  }
  last_start_ = now;
  rejected_since_ = 0;
  leave_queue();
}

// Under mutex_.
void StepLoop::leave_queue() {
  if (--queued_ == 0) last_start_.reset();
}

void StepLoop::note_found(Sequence& sequence) {
  if (sequence.computed <= sequence.accounted) return;
  const std::size_t first = std::exchange(sequence.accounted, sequence.computed);
  const bool counts = sequence.choice == 0;
  Response& response = sequence.response;
  if (sequence.preempted()) {  // what it had reused before is not of this lease
    const std::size_t end = std::min(sequence.computed, sequence.prompt_tokens);
    const std::size_t found = end - std::min(end, first);
    response.reused_tokens += static_cast<std::uint32_t>(found);
    response.reused_by_tier.front().second += static_cast<std::uint32_t>(found);
    if (counts) stats_.on_prompt_tokens_found(sequence.endpoint, 0, found);
    return;
  }
  const auto before = response.reused_by_tier;
  note_reuse(sequence);
  for (std::size_t place = 0; counts && place < before.size(); ++place) {
    const std::size_t tokens = response.reused_by_tier[place].second - before[place].second;
    stats_.on_prompt_tokens_found(sequence.endpoint, place, tokens);
  }
}

void StepLoop::note_reuse(Sequence& sequence) const {
  Response& response = sequence.response;
  response.reused_tokens = static_cast<std::uint32_t>(sequence.lease.matched_tokens());
  response.reused_by_tier.clear();
  std::uint32_t hot = response.reused_tokens;
  for (std::size_t tier = 0; tier < options_.tier_names.size(); ++tier) {
    const auto tokens = static_cast<std::uint32_t>(sequence.lease.matched_tokens_from(tier));
    response.reused_by_tier.emplace_back(options_.tier_names[tier], tokens);
    hot -= tokens;
  }
  response.reused_by_tier.emplace(response.reused_by_tier.begin(), "hot", hot);
}

// The cache weighs loading against computing by it. Only steps that do little else say what computing takes.
StepLoop::PrefillWork StepLoop::prefill_work(const std::vector<BatchPart>& parts) {
  constexpr std::size_t kLeastTokens = 64;
  std::size_t tokens = 0, others = 0;
  double positions = 0;
  for (const BatchPart& part : parts) {
    const bool is_prefill = part.arithmetic == Arithmetic::Prefill && part.first_token < part.sequence->prompt_tokens;
    (is_prefill ? tokens : others) += part.tokens;
    if (!is_prefill) continue;
    positions += static_cast<double>(part.tokens) * (static_cast<double>(part.first_token) + part.tokens / 2.0);
  }
  if (tokens < kLeastTokens || tokens < 8 * others) return {};
  const auto middle = static_cast<std::size_t>(positions / static_cast<double>(tokens));
  return {.tokens = tokens, .position = middle - std::min(middle, tokens / 2)};
}

bool StepLoop::is_drawn_by_model(const BatchPart& part) const {
  const Sequence& sequence = *part.sequence;
  const bool forks = sequence.group && !sequence.group->forked;  // all choices draw from its logits
  const bool scores = part.logits == Logits::All && part.drafted == 0;
  return model_.draws_tokens() && part.logits != Logits::None && !scores && !forks && sequence.request.max_tokens > 0 &&
         sequence.sampler->can_draw_elsewhere();
}

void StepLoop::make_chunks(const std::vector<BatchPart>& parts) {
  chunks_.clear();
  draws_.clear();
  for (const BatchPart& part : parts) {
    const std::size_t first_draw = draws_.size(), rows = is_drawn_by_model(part) ? rows_of(part) : 0;
    // Within the room that was reserved: chunks look into it.
    for (std::size_t i = 0; i < rows; ++i) draws_.push_back(part.sequence->sampler->next_draw(i));
    const auto own = std::span<const TokenId>(part.sequence->tokens).subspan(part.first_token, part.tokens);
    chunks_.push_back({.tokens = part.drafted > 0 ? part.sequence->draft->chunk(part.drafted) : own,
                       .first_position = part.first_token,
                       .block_table = part.sequence->lease.block_table(),
                       .logits = part.logits,
                       .arithmetic = part.arithmetic,
                       .any_attention = part.any_attention,
                       .draws = std::span(draws_).subspan(first_draw)});
  }
}

Status StepLoop::compute(const std::vector<BatchPart>& parts) {
  const PartTimer timer(profile_, StepPart::Answer);
  for (const BatchPart& part : parts) {
    const PartTimer growing(profile_, StepPart::Cache);
    // Within what admission promised, so it cannot fail.
    if (Status grown = part.sequence->lease.grow(part.first_token + part.tokens + part.drafted); !grown.ok()) {
      fail_running(grown);
      return grown;
    }
  }
  make_chunks(parts);
  Result<std::span<float>> computed = model_.step(chunks_, cache_.block(0));
  if (!computed.ok()) {
    log().error("{}", computed.status().message());
    fail_running(computed.status());
    return computed.status();
  }

  std::span<float> logits = *computed;
  std::span<const kernels::DrawnToken> drawn = model_.drawn();
  const std::size_t vocabulary = model_.shape().vocabulary;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t draws = chunks_[i].draws.size(), floats = draws > 0 ? 0 : rows_of(parts[i]) * vocabulary;
    advance(parts[i], {.logits = logits.first(floats), .drawn = drawn.first(draws)});
    logits = logits.subspan(floats);
    drawn = drawn.subspan(draws);
  }
  if (finished_.empty()) return {};
  for (auto& sequence :
       scheduler_.take_if([&](const Sequence& s) { return std::ranges::find(finished_, &s) != finished_.end(); })) {
    end(std::move(sequence), Status());
  }
  finished_.clear();
  return {};
}

void StepLoop::advance(const BatchPart& part, const Positions& positions) {
  Sequence& sequence = *part.sequence;
  const auto computed = std::span<const TokenId>(sequence.tokens).subspan(part.first_token, part.tokens);
  {
    const PartTimer timer(profile_, StepPart::Cache);
    const bool copyable = part.arithmetic == Arithmetic::Prefill && !part.any_attention;
    sequence.lease.commit(computed, part.share, copyable);
  }
  sequence.computed += part.tokens;
  account(sequence);
  if (part.logits == Logits::None) return;

  if (part.logits == Logits::All && part.drafted == 0) record_prompt_logprobs(part, positions.logits);
  if (sequence.computed < sequence.tokens.size()) return;
  if (sequence.request.max_tokens == 0) return finish(sequence, FinishReason::Length);
  // The first one to draw from, behind those of prompt tokens that are scored.
  const std::size_t vocabulary = model_.shape().vocabulary, first = rows_of(part) - 1 - part.drafted;
  const Positions last{
      .logits = positions.drawn.empty() ? positions.logits.subspan(first * vocabulary) : std::span<float>(),
      .drawn = positions.drawn};
  if (sequence.group && !sequence.group->forked) fork_choices(sequence, last.logits);
  draw_token(sequence, last, 0);
  if (part.drafted > 0) accept_drafted(part, last);
}

void StepLoop::accept_drafted(const BatchPart& part, const Positions& positions) {
  Sequence& sequence = *part.sequence;
  const std::span<const TokenId> drafted = sequence.draft->tokens().first(part.drafted);
  std::size_t accepted = 0;
  while (accepted < drafted.size() && !has_finished(sequence) && sequence.tokens.back() == drafted[accepted]) {
    sequence.lease.commit(drafted.subspan(accepted, 1), part.share, /*copyable=*/false);
    ++sequence.computed;
    draw_token(sequence, positions, ++accepted);
  }
  account(sequence);
  sequence.response.drafted_tokens += static_cast<std::uint32_t>(drafted.size());
  sequence.response.accepted_tokens += static_cast<std::uint32_t>(accepted);
  stats_.on_drafted(sequence.endpoint, part.drafted, accepted);
}

// Every token of a prompt is computed or reused once, whatever its sequence went through.
void StepLoop::account(Sequence& sequence) {
  const std::size_t first = sequence.accounted;
  if (sequence.computed <= first) return;
  tell_prompt_left(sequence);
  sequence.accounted = sequence.computed;
  if (first >= sequence.prompt_tokens || sequence.choice > 0) return;
  const std::size_t end = std::min(sequence.computed, sequence.prompt_tokens);
  const std::size_t recomputed = std::min(end, sequence.awaited_tokens) - std::min(first, sequence.awaited_tokens);
  stats_.on_prompt_tokens_computed(sequence.endpoint, end - first - recomputed, recomputed);
}

void StepLoop::tell_prompt_left(const Sequence& sequence) {
  if (!sequence.routed || sequence.choice > 0) return;
  sequence.routed->set_prompt_left(sequence.prompt_tokens - std::min(sequence.computed, sequence.prompt_tokens));
}

void StepLoop::fork_choices(Sequence& first, std::span<const float> logits) {
  first.group->forked = true;
  const auto waits = [&](const Sequence& s) { return s.group == first.group && !s.was_admitted(); };
  for (auto& choice : scheduler_.take_if(waits)) {
    auto lease = scheduler_.has_room() ? first.lease.fork(choice->most_tokens) : Result<Lease>(Status::unavailable({}));
    if (!lease.ok()) {
      scheduler_.enqueue(std::move(choice));  // as a request of its own, whose prompt is in the cache
      continue;
    }
    Sequence& forked = *choice;
    forked.lease = std::move(*lease);
    forked.computed = forked.accounted = first.computed;
    scheduler_.add_running(std::move(choice));
    start(forked, options_.now());
    std::ranges::copy(logits, choice_logits_.begin());
    add_token(forked, sample(forked, choice_logits_));
  }
}

void StepLoop::record_prompt_logprobs(const BatchPart& part, std::span<const float> logits) {
  Sequence& sequence = *part.sequence;
  const std::size_t vocabulary = model_.shape().vocabulary;
  for (std::size_t i = 0; i < part.tokens; ++i) {
    const std::size_t next = part.first_token + i + 1;
    if (next >= sequence.prompt_tokens) break;
    if (next <= sequence.response.prompt_logprobs.size()) continue;  // known from before a preemption
    sequence.response.prompt_logprobs.push_back(
        kernels::logprob_of(logits.subspan(i * vocabulary, vocabulary), sequence.tokens[next]));
  }
}

void StepLoop::draw_token(Sequence& sequence, const Positions& positions, std::size_t place) {
  if (positions.drawn.empty()) {
    const std::size_t vocabulary = model_.shape().vocabulary;
    return add_token(sequence, sample(sequence, positions.logits.subspan(place * vocabulary, vocabulary)));
  }
  sequence.sampler->drew_elsewhere();
  add_token(sequence, positions.drawn[place]);
}

kernels::DrawnToken StepLoop::sample(Sequence& sequence, std::span<float> logits) {
  const PartTimer timer(profile_, StepPart::Sample);
  const bool kept = sequence.sampler->keeps_logits();
  if (!kept) std::ranges::copy(logits, raw_logits_.begin());
  const TokenId token = sequence.sampler->sample(logits);
  return {.token = token, .logprob = kernels::logprob_of(kept ? logits : std::span<const float>(raw_logits_), token)};
}

void StepLoop::add_token(Sequence& sequence, const kernels::DrawnToken& drawn) {
  const TokenId token = drawn.token;
  const auto now = options_.now();
  if (sequence.response.tokens.empty() && sequence.response.ttft_ms == 0) {
    sequence.response.ttft_ms = milliseconds(now - sequence.arrival);
    stats_.on_first_output_token(sequence.endpoint, sequence.response.ttft_ms);
  } else {
    stats_.on_output_token(sequence.endpoint, milliseconds(now - sequence.last_token));
  }
  sequence.last_token = now;

  const Request& request = sequence.request;
  const bool ends = (tokenizer_.is_end(token) && !request.ignore_end_of_text) ||
                    std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end();
  if (ends) return finish(sequence, FinishReason::Stop);
  sequence.tokens.push_back(token);
  sequence.sampler->observe(token);
  sequence.response.tokens.push_back(token);
  sequence.response.logprobs.push_back(drawn.logprob);

  std::string text = sequence.decoder.push(tokenizer_.bytes_of(token));
  const bool full = sequence.tokens.size() >= sequence.most_tokens;
  if (full && !sequence.decoder.stopped()) text += sequence.decoder.finish();
  const bool stopped = sequence.decoder.stopped();  // finish() may have settled a stop string that was still open
  if (request.on_token) {
    request.on_token({.token = token, .text = text, .logprob = drawn.logprob, .choice = sequence.choice});
  }
  sequence.response.text += text;
  if (stopped) return finish(sequence, FinishReason::Stop);
  if (full) finish(sequence, FinishReason::Length);
}

void StepLoop::finish(Sequence& sequence, FinishReason reason) {
  const std::string held_back = sequence.decoder.finish();
  if (!held_back.empty()) {
    if (sequence.request.on_token) {
      sequence.request.on_token({.token = kNoToken, .text = held_back, .choice = sequence.choice});
    }
    sequence.response.text += held_back;
  }
  sequence.response.finish_reason = reason;
  finished_.push_back(&sequence);
}

}  // namespace tiercel
