#include "engine/scheduler.h"

#include <algorithm>

namespace tiercel {
namespace {

// Prompt tails in one step that get their exact arithmetic, which is slow for many rows, also where that is not
// promised: a prompt answered alone, or beside a few, has the same text with and without the cache.
constexpr std::size_t kExactTailTokens = 64;

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
  admit_waiting(budget, step);
  if (!limits_.deterministic && tail_tokens_ > kExactTailTokens) {
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

void Scheduler::admit_waiting(std::size_t budget, Step& step) {
  while (budget > 0 && !waiting_.empty() && running_.size() < limits_.max_sequences) {
    Sequence& sequence = *waiting_.front();
    // Whole blocks only: the leading tokens of a block may be another prompt's tail, computed with other arithmetic.
    AdmitOptions options{.max_tokens = sequence.most_tokens,
                         .max_matched_tokens = prefill_boundary(sequence),
                         .salt = sequence.request.cache_salt,
                         .partial_blocks = false};
    if (sequence.request.prompt_logprobs) options.max_matched_tokens = 0;
    auto lease = cache_.admit(sequence.tokens, options);
    if (!lease.ok()) {
      if (lease.status().code() == StatusCode::Unavailable) return;  // until a running sequence gives blocks back
      step.refused.emplace_back(std::move(waiting_.front()), lease.status());
      waiting_.pop_front();
      continue;
    }
    sequence.lease = std::move(*lease);
    sequence.computed = sequence.lease.matched_tokens();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    step.admitted.push_back(&sequence);
    budget -= add_parts(sequence, budget, step);
  }
}

std::size_t Scheduler::add_parts(Sequence& sequence, std::size_t budget, Step& step) {
  const bool all_logits = sequence.request.prompt_logprobs && sequence.in_prompt();
  std::size_t room = std::min(sequence.pending(), budget);
  if (all_logits) {
    // Every sequence that is running, or may still be admitted, keeps one row.
    room = std::min(room, limits_.max_logit_rows - limits_.max_sequences -
                              std::min(logit_rows_, limits_.max_logit_rows - limits_.max_sequences));
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
