#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace tiercel {
namespace {

// A prompt answered alone, or beside a few, has the same text with and without the cache, also where that is not
// promised: its tail gets its exact arithmetic, which is slow for many rows. Beyond these it takes the fastest.
constexpr std::size_t kExactTailTokens = 64;
constexpr std::size_t kExactTailSequences = 4;

// Waiting requests, from the front of the queue, that the cache knows of and that may overtake each other.
constexpr std::size_t kExpectedPrompts = 64;

}  // namespace

void Scheduler::enqueue(std::unique_ptr<Sequence> sequence) {
  const auto place = std::ranges::upper_bound(waiting_, sequence->request.priority, std::greater(),
                                              [](const auto& waiting) { return waiting->request.priority; });
  waiting_.insert(place, std::move(sequence));
}

std::size_t Scheduler::prefill_boundary(const Sequence& sequence) const {
  const std::size_t block_tokens = cache_.layout().block_tokens;
  return (sequence.prompt_tokens - 1) / block_tokens * block_tokens;
}

Scheduler::Step Scheduler::next_step() {
  Step step;
  std::size_t budget = limits_.max_tokens;
  logit_rows_ = 0;
  tail_tokens_ = 0;
  for (const bool generating : {true, false}) {
    for (auto& sequence : running_) {
      if (budget > 0 && generating == !sequence->in_prompt()) budget -= add_parts(*sequence, budget, step);
    }
  }
  for (std::size_t i = 0; i < std::min(waiting_.size(), kExpectedPrompts); ++i) {
    Sequence& sequence = *waiting_[i];
    if (!std::exchange(sequence.announced, true)) {
      sequence.expected = cache_.expect(sequence.tokens, admit_options(sequence));
    }
  }
  admit_waiting(budget, step);
  const bool few = tail_tokens_ <= kExactTailTokens && running_.size() <= kExactTailSequences;
  if (!limits_.deterministic && !few) {
    for (BatchPart& part : step.parts) {
      if (part.arithmetic == Arithmetic::Decode) part.arithmetic = Arithmetic::Any;
    }
  }
  // One group of rows for each arithmetic: a few matrix products a layer instead of one for each part.
  std::ranges::stable_sort(step.parts, {}, [](const BatchPart& part) {
    return part.arithmetic == Arithmetic::Prefill ? 0 : part.arithmetic == Arithmetic::Decode ? 1 : 2;
  });
  return step;
}

AdmitOptions Scheduler::admit_options(const Sequence& sequence) const {
  const std::size_t boundary = prefill_boundary(sequence);
  return {.max_tokens = sequence.most_tokens,
          .max_matched_tokens = sequence.request.prompt_logprobs ? 0 : boundary,
          .max_shared_tokens = boundary,
          .scope = {.salt = sequence.request.cache_salt},
          .retention = sequence.request.retention};
}

void Scheduler::admit_waiting(std::size_t budget, Step& step) {
  std::size_t passed_over = 0;
  while (budget > 0 && passed_over < std::min(waiting_.size(), kExpectedPrompts) &&
         running_.size() < limits_.max_sequences) {
    const auto place = waiting_.begin() + static_cast<std::ptrdiff_t>(passed_over);
    Sequence& sequence = **place;
    if (sequence.expected.in_flight()) {
      ++passed_over;
      continue;
    }
    auto lease = cache_.admit(sequence.tokens, admit_options(sequence));
    if (lease.status().code() == StatusCode::Unavailable) break;  // until a running sequence gives blocks back
    if (lease.status().code() == StatusCode::Rejected) {
      ++passed_over;
      continue;
    }
    sequence.expected = ExpectedPrompt();
    if (!lease.ok()) {
      step.refused.emplace_back(std::move(*place), lease.status());
      waiting_.erase(place);
      continue;
    }
    sequence.lease = std::move(*lease);
    sequence.computed = sequence.lease.matched_tokens();
    running_.push_back(std::move(*place));
    waiting_.erase(place);
    step.admitted.push_back(&sequence);
    budget -= add_parts(sequence, budget, step);
  }
}

std::size_t Scheduler::add_parts(Sequence& sequence, std::size_t budget, Step& step) {
  const bool all_logits = sequence.request.prompt_logprobs && sequence.in_prompt();
  std::size_t room = std::min(sequence.pending(), budget);
  if (all_logits) {
    // Every sequence that is running, or may still be admitted, keeps one row.
    const std::size_t most_rows = limits_.max_logit_rows - limits_.max_sequences;
    room = std::min(room, most_rows - std::min(logit_rows_, most_rows));
  }
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
    step.parts.push_back(part);
  }
  return room;
}

}  // namespace tiercel
