#include "engine/scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tiercel {
namespace {

// A prompt answered alone, or beside a few, has the same text with and without the cache, also where that is not
// promised: its tail gets its exact arithmetic, which is slow for many rows. Beyond these it takes the fastest.
constexpr std::size_t kExactTailTokens = 64;
constexpr std::size_t kExactTailSequences = 4;

// Waiting requests, from the front of the queue, that the cache knows of and that may overtake each other.
constexpr std::size_t kExpectedPrompts = 64;
// How often a request lets others pass whose prefix is cached.
constexpr std::uint32_t kMostOvertaken = 16;

constexpr auto rank_of = [](const std::unique_ptr<Sequence>& sequence) { return sequence->rank_s; };

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, KvCache& cache)
    : limits_(limits), cache_(cache), budget_(limits.target_step_s) {
  running_.reserve(limits.max_sequences);
  // A prompt and its tail for each sequence.
  step_.parts.reserve(2 * limits.max_sequences);
  sorted_parts_.reserve(2 * limits.max_sequences);
}

void Scheduler::enqueue(std::unique_ptr<Sequence> sequence) {
  sequence->rank_s = std::chrono::duration<double>(sequence->arrival.time_since_epoch()).count() -
                     sequence->request.priority * limits_.aging_s;
  const auto place = std::ranges::upper_bound(waiting_, sequence->rank_s, {}, rank_of);
  waiting_.insert(place, std::move(sequence));
}

void Scheduler::add_running(std::unique_ptr<Sequence> sequence) { running_.push_back(std::move(sequence)); }

std::size_t Scheduler::prefill_boundary(const Sequence& sequence) const {
  const std::size_t block_tokens = cache_.layout().block_tokens;
  return (sequence.prompt_tokens - 1) / block_tokens * block_tokens;
}

std::size_t Scheduler::blocks_of(const Sequence& sequence) const {
  return cache_.layout().blocks_for(sequence.most_tokens);
}

Scheduler::Step& Scheduler::next_step() {
  step_.parts.clear();
  step_.admitted.clear();
  step_.preempted.clear();
  step_.refused.clear();
  step_.streams = step_.prompt_tokens = 0;
  logit_rows_ = tail_tokens_ = 0;
  announce_waiting();
  while (!waiting_.empty() && preempt_for(*waiting_.front())) {
    if (admit(waiting_.begin()) == StatusCode::Rejected) break;
  }
  add_streams();
  add_prompts();
  admit_waiting();
  settle_arithmetic();
  return step_;
}

void Scheduler::measured(const Step& step, double seconds) {
  budget_.measured(step.streams, step.prompt_tokens, seconds);
}

// ---- Running sequences

void Scheduler::add_streams() {
  const auto is_stream = [](const auto& sequence) { return sequence->is_stream(); };
  step_.streams = static_cast<std::size_t>(std::ranges::count_if(running_, is_stream));
  const bool prompts = step_.streams < running_.size() || !waiting_.empty();
  const std::size_t room = limits_.max_tokens - std::min(limits_.max_tokens, step_.streams);
  prompt_budget_ = prompts ? budget_.prompt_tokens(step_.streams, room) : 0;
  for (const auto& sequence : running_) {
    if (sequence->is_stream()) add_parts(*sequence, 1);
  }
}

void Scheduler::add_prompts() {
  for (const auto& sequence : running_) {
    if (prompt_budget_ == 0) return;
    if (!sequence->is_stream()) prompt_budget_ -= add_parts(*sequence, prompt_budget_);
  }
}

std::size_t Scheduler::add_parts(Sequence& sequence, std::size_t budget) {
  const bool all_logits = sequence.request.prompt_logprobs && sequence.in_prompt();
  if (sequence.in_prompt()) budget = std::min(budget, sequence.join_loaded());
  std::size_t room = std::min(sequence.pending(), budget);
  if (all_logits) {
    // Every sequence that is running, or may still be admitted, keeps one row.
    const std::size_t most_rows = limits_.max_logit_rows - limits_.max_sequences;
    room = std::min(room, most_rows - std::min(logit_rows_, most_rows));
  }
  if (!sequence.is_stream()) step_.prompt_tokens += room;
  const std::size_t boundary = prefill_boundary(sequence);
  std::size_t first = sequence.computed;
  const std::size_t end = first + room;
  while (first < end) {
    BatchPart part{.sequence = &sequence, .first_token = first, .tokens = end - first};
    // A block of a prompt's tail alone would meet longer prompts, whose own arithmetic for it is another. One that ends
    // with generated tokens can only meet the next turn of a conversation.
    part.share =
        first < boundary || (!limits_.deterministic && sequence.prompt_tokens % cache_.layout().block_tokens != 0);
    if (first < boundary) {
      part.arithmetic = Arithmetic::Prefill;
      part.tokens = std::min(end, boundary) - first;
    } else if (limits_.deterministic) {
      part.arithmetic = Arithmetic::Decode;
    } else if (first < sequence.prompt_tokens) {
      part.arithmetic = Arithmetic::Decode;
      tail_tokens_ += part.tokens;
    }
    first += part.tokens;
    if (all_logits) {
      part.logits = Logits::All;
      logit_rows_ += part.tokens;
    } else if (first == sequence.tokens.size()) {
      part.logits = Logits::Last;
    }
    step_.parts.push_back(part);
  }
  return room;
}

void Scheduler::settle_arithmetic() {
  if (!limits_.deterministic) {
    const bool few = tail_tokens_ <= kExactTailTokens && running_.size() <= kExactTailSequences;
    const bool prefill =
        std::ranges::any_of(step_.parts, [](const BatchPart& part) { return part.arithmetic == Arithmetic::Prefill; });
    for (BatchPart& part : step_.parts) {
      if (part.arithmetic == Arithmetic::Decode && !few) part.arithmetic = Arithmetic::Any;
      // Beside prompts the weights are read once for all: streams cost little more then.
      if (part.arithmetic == Arithmetic::Any && prefill) part.arithmetic = Arithmetic::Prefill;
    }
  }
  // One group of rows for each arithmetic: a few matrix products a layer instead of one for each part.
  sorted_parts_.clear();
  for (const Arithmetic arithmetic : {Arithmetic::Prefill, Arithmetic::Decode, Arithmetic::Any}) {
    std::ranges::copy_if(step_.parts, std::back_inserter(sorted_parts_),
                         [&](const BatchPart& part) { return part.arithmetic == arithmetic; });
  }
  step_.parts.swap(sorted_parts_);
}

// ---- Waiting requests

AdmitOptions Scheduler::admit_options(const Sequence& sequence) const {
  const std::size_t boundary = prefill_boundary(sequence);
  std::size_t matched = sequence.request.prompt_logprobs ? 0 : boundary;
  // One that was preempted also finds what it had generated, where those blocks are shared.
  if (matched > 0 && sequence.preempted() && !limits_.deterministic) matched = sequence.tokens.size() - 1;
  return {.max_tokens = sequence.most_tokens,
          .max_matched_tokens = matched,
          .max_shared_tokens = boundary,
          .scope = {.salt = sequence.request.cache_salt},
          .splits = true,
          .retention = sequence.request.retention};
}

void Scheduler::announce_waiting() {
  for (std::size_t i = 0; i < std::min(waiting_.size(), kExpectedPrompts); ++i) {
    Sequence& sequence = *waiting_[i];
    if (sequence.waits_for_choice()) continue;
    if (!std::exchange(sequence.announced, true)) {
      sequence.expected = cache_.expect(sequence.tokens, admit_options(sequence));
    }
  }
}

void Scheduler::admit_waiting() {
  std::size_t passed_over = 0;
  while (prompt_budget_ > 0 && passed_over < std::min(waiting_.size(), kExpectedPrompts) && has_room()) {
    const auto place = waiting_.begin() + static_cast<std::ptrdiff_t>(passed_over);
    if ((*place)->waits_for_choice() || (*place)->expected.in_flight()) {
      ++passed_over;
      continue;
    }
    const StatusCode code = admit(with_most_cached(place));
    if (code == StatusCode::Unavailable) break;  // until a running sequence gives blocks back
    if (code == StatusCode::Rejected) {
      ++passed_over;
    } else if (code == StatusCode::Ok) {
      prompt_budget_ -= add_parts(*running_.back(), prompt_budget_);
    }
  }
}

StatusCode Scheduler::admit(Place place) {
  Sequence& sequence = **place;
  auto lease = cache_.admit(sequence.tokens, admit_options(sequence), &sequence.expected);
  const StatusCode code = lease.status().code();
  sequence.held_by_quota = code == StatusCode::Rejected;
  if (code == StatusCode::Unavailable || code == StatusCode::Rejected) return code;
  sequence.expected = ExpectedPrompt();
  if (lease.ok()) {
    sequence.lease = std::move(*lease);
    sequence.computed = sequence.lease.matched_tokens();
    step_.admitted.push_back(&sequence);
    running_.push_back(std::move(*place));
  } else {
    step_.refused.emplace_back(std::move(*place), lease.status());
  }
  waiting_.erase(place);
  return code;
}

Scheduler::Place Scheduler::with_most_cached(Place place) {
  Sequence& first = **place;
  if (first.overtaken >= kMostOvertaken) return place;
  const std::size_t cached = first.expected.cached_tokens(), block_tokens = cache_.layout().block_tokens;
  if (blocks_of(first) - cached / block_tokens <= cache_.room().free_blocks) return place;
  Place best = place;
  std::size_t most_cached = cached;
  const auto end = waiting_.begin() + static_cast<std::ptrdiff_t>(std::min(waiting_.size(), kExpectedPrompts));
  for (Place other = place + 1; other < end && (*other)->request.priority == first.request.priority; ++other) {
    if ((*other)->waits_for_choice() || (*other)->expected.in_flight()) continue;
    const std::size_t tokens = (*other)->expected.cached_tokens();
    if (tokens <= most_cached) continue;
    most_cached = tokens;
    best = other;
  }
  if (best != place) ++first.overtaken;
  return best;
}

bool Scheduler::preempt_for(const Sequence& waiting) {
  if (waiting.waits_for_choice() || waiting.held_by_quota) return false;
  const auto gives_way = [&](const Sequence& running) {
    return running.request.priority < waiting.request.priority && running.rank_s > waiting.rank_s;
  };
  const auto comes_first = [](const Sequence& a, const Sequence& b) {
    return a.request.priority != b.request.priority ? a.request.priority < b.request.priority : a.started > b.started;
  };
  auto lowest = running_.end();
  std::size_t held_blocks = 0;  // by all that give way
  for (auto place = running_.begin(); place != running_.end(); ++place) {
    if (!gives_way(**place)) continue;
    held_blocks += blocks_of(**place);
    if (lowest == running_.end() || comes_first(**place, **lowest)) lowest = place;
  }
  if (lowest == running_.end()) return false;
  const std::size_t needed = blocks_of(waiting), grantable = cache_.room().grantable_blocks;
  if (grantable + held_blocks < needed) return false;
  if (has_room() && grantable >= needed) return false;  // it will be admitted as any other
  if (waiting.expected.in_flight()) return false;
  std::unique_ptr<Sequence> preempted = std::move(*lowest);
  running_.erase(lowest);
  preempted->preempt();
  step_.preempted.push_back(preempted.get());
  // Before its equals: it was among them first.
  const auto place = std::ranges::lower_bound(waiting_, preempted->rank_s, {}, rank_of);
  waiting_.insert(place, std::move(preempted));
  return true;
}

}  // namespace tiercel
