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

// Waiting requests, from the front of the queue, that the cache knows of and that may overtake each other. Those that
// are held do not count.
constexpr std::size_t kExpectedPrompts = 64;
// How often a request lets others pass whose prefix is cached.
constexpr std::uint32_t kMostOvertaken = 16;

constexpr auto rank_of = [](const std::unique_ptr<Sequence>& sequence) { return sequence->rank_s; };

// Its turn does not come now, whatever room there is.
bool is_held(const Sequence& sequence) { return sequence.held_by_quota || sequence.waits_for_choice(); }

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, KvCache& cache)
    : limits_(limits), cache_(cache), budget_(limits.target_step_s) {
  running_.reserve(limits.max_sequences + 1);  // one more for a moment, while another gives it its place
  giving_way_.reserve(limits.max_sequences);
  ended_.reserve(limits.max_sequences);
  // A prompt and its tail for each sequence.
  step_.parts.reserve(2 * limits.max_sequences);
  sorted_parts_.reserve(2 * limits.max_sequences);
}

void Scheduler::enqueue(std::unique_ptr<Sequence> sequence) {
  sequence->rank_s = std::chrono::duration<double>(sequence->arrival.time_since_epoch()).count() -
                     sequence->request.priority * limits_.aging_s;
  const auto place = std::ranges::upper_bound(waiting_, sequence->rank_s, {}, rank_of);
  // Who is held keeps its place before later ones of its tenant.
  sequence->held_by_quota = std::any_of(waiting_.begin(), place, [&](const auto& other) {
    return other->held_by_quota && other->request.cache_salt == sequence->request.cache_salt;
  });
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
  step_.demoted.clear();
  step_.refused.clear();
  step_.streams = step_.prompt_tokens = step_.drafted_tokens = 0;
  logit_rows_ = tail_tokens_ = 0;
  announce_waiting();
  preempt_for_waiting();
  add_streams();
  add_prompts();
  admit_waiting();
  settle_arithmetic();
  return step_;
}

void Scheduler::measured(const Step& step, double seconds) {
  if (step.drafted_tokens == 0) budget_.measured(step.streams, step.prompt_tokens, seconds);
}

// ---- Running sequences

void Scheduler::add_streams() {
  const auto is_stream = [](const auto& sequence) { return sequence->is_stream(); };
  step_.streams = static_cast<std::size_t>(std::ranges::count_if(running_, is_stream));
  const std::size_t prompts = running_.size() - step_.streams + waiting_.size();
  const std::size_t room = limits_.max_tokens - std::min(limits_.max_tokens, step_.streams);
  prompt_budget_ = prompts > 0 ? budget_.prompt_tokens(step_.streams, prompts, room) : 0;
  step_.measures_streams = prompts > 0 && room > 0 && prompt_budget_ == 0;
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
      part.any_attention = part.arithmetic == Arithmetic::Any;
      if (part.any_attention && prefill) part.arithmetic = Arithmetic::Prefill;
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

std::size_t Scheduler::first_ready() const {
  std::size_t tried = 0;
  for (std::size_t i = 0; i < waiting_.size() && tried < kExpectedPrompts; ++i) {
    if (is_held(*waiting_[i])) continue;
    if (!waiting_[i]->expected.in_flight()) return i;
    ++tried;
  }
  return waiting_.size();
}

void Scheduler::announce_waiting() {
  std::size_t announced = 0;
  for (const auto& sequence : waiting_) {
    if (announced == kExpectedPrompts) return;
    if (is_held(*sequence)) continue;
    ++announced;
    if (!sequence->announced) announce(*sequence);
  }
}

void Scheduler::announce(Sequence& sequence) {
  sequence.announced = true;
  sequence.expected = cache_.expect(sequence.tokens, admit_options(sequence));
  sequence.expected_tokens = sequence.expected.cached_tokens();
}

bool Scheduler::fetches_again(Sequence& sequence) {
  if (sequence.given_room || sequence.expected.cached_tokens() >= sequence.expected_tokens) return false;
  if (cache_.room().grantable_blocks < blocks_of(sequence)) return false;  // it would come in vain
  announce(sequence);
  return sequence.expected.in_flight();
}

void Scheduler::admit_waiting() {
  hold_nobody();
  std::size_t tried = 0;
  for (std::size_t i = 0; i < waiting_.size() && tried < kExpectedPrompts && prompt_budget_ > 0 && has_room();) {
    const Place place = waiting_.begin() + static_cast<std::ptrdiff_t>(i);
    Sequence& first = **place;
    if (is_held(first)) {
      ++i;
      continue;
    }
    if (first.expected.in_flight() || fetches_again(first)) {
      ++i;
      ++tried;
      continue;
    }
    const StatusCode code = admit_best(place);
    if (code == StatusCode::Ok) prompt_budget_ -= add_parts(*running_.back(), prompt_budget_);
    if (code != StatusCode::Unavailable) continue;  // it left the queue, or is held
    const KvRoom room = cache_.room();
    const bool waits_for_pins =
        running_.empty() && room.demoting_blocks == 0 && blocks_of(first) > room.unpinned_blocks;
    if (!waits_for_pins) return;  // until a running sequence gives blocks back
    ++i;
    ++tried;
  }
}

StatusCode Scheduler::admit_best(Place place) {
  const Place best = with_most_cached(place);
  if (best == place) return admit(place);
  Sequence& first = **place;
  const StatusCode code = admit(best);
  if (code == StatusCode::Ok) ++first.overtaken;
  return code == StatusCode::Unavailable ? admit(place) : code;
}

StatusCode Scheduler::admit(Place place) {
  Sequence& sequence = **place;
  auto lease = cache_.admit(sequence.tokens, admit_options(sequence), &sequence.expected);
  const StatusCode code = lease.status().code();
  if (code == StatusCode::Rejected) hold_tenant(place);
  if (code == StatusCode::Unavailable || code == StatusCode::Rejected) return code;
  if (!sequence.was_admitted()) sequence.awaited_tokens = sequence.expected.awaited_tokens();
  sequence.expected = ExpectedPrompt();
  if (lease.ok()) {
    sequence.lease = std::move(*lease);
    sequence.computed = sequence.lease.matched_tokens();
    sequence.given_room = false;
    step_.admitted.push_back(&sequence);
    running_.push_back(std::move(*place));
  } else {
    step_.refused.emplace_back(std::move(*place), lease.status());
  }
  waiting_.erase(place);
  return code;
}

void Scheduler::hold_tenant(Place place) {
  const std::string& tenant = (*place)->request.cache_salt;
  const auto is_its = [&](const auto& sequence) { return sequence->request.cache_salt == tenant; };
  (*place)->held_by_quota = true;
  // Where none of its sequences runs, and none of what gave way is still being written, pins hold the quota: who needs
  // less may go on.
  if (std::ranges::none_of(running_, is_its) && cache_.room().demoting_blocks == 0) return;
  for (Place other = place + 1; other != waiting_.end(); ++other) {
    if (is_its(*other)) (*other)->held_by_quota = true;
  }
}

void Scheduler::hold_nobody() {
  for (const auto& sequence : waiting_) sequence->held_by_quota = false;
}

Scheduler::Place Scheduler::with_most_cached(Place place) {
  Sequence& first = **place;
  if (first.given_room || first.overtaken >= kMostOvertaken) return place;
  const std::size_t cached = first.expected.cached_tokens(), block_tokens = cache_.layout().block_tokens;
  if (blocks_of(first) - cached / block_tokens <= cache_.room().free_blocks) return place;
  Place best = place;
  std::size_t most_cached = cached, tried = 0;
  for (Place other = place + 1; other != waiting_.end() && tried < kExpectedPrompts; ++other) {
    if ((*other)->request.priority != first.request.priority) break;
    if (is_held(**other)) continue;
    ++tried;
    if ((*other)->expected.in_flight()) continue;
    const std::size_t tokens = (*other)->expected.cached_tokens();
    if (tokens <= most_cached) continue;
    most_cached = tokens;
    best = other;
  }
  return best;
}

// ---- Preemption

void Scheduler::preempt_for_waiting() {
  for (std::size_t i = first_ready(); i < waiting_.size(); i = first_ready()) {
    find_giving_way(*waiting_[i]);
    if (giving_way_.empty()) return;
    const bool full = !has_room();
    const StatusCode code = admit(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    if (code == StatusCode::Ok && full) preempt(*giving_way_.front());
    // Who is at its quota has no use for another's place, and is held from now on.
    if (code != StatusCode::Unavailable) continue;
    waiting_[i]->given_room = true;
    for (const Sequence* sequence : giving_way_) preempt(*sequence);
    // Now, or when tiers have what those had. They stand behind it.
    if (admit(waiting_.begin() + static_cast<std::ptrdiff_t>(i)) == StatusCode::Unavailable) return;
  }
}

void Scheduler::find_giving_way(const Sequence& waiting) {
  giving_way_.clear();
  for (const auto& running : running_) {
    const bool gives_way = running->request.priority < waiting.request.priority && running->rank_s > waiting.rank_s;
    if (gives_way) giving_way_.push_back(running.get());
  }
  if (giving_way_.empty()) return;
  std::ranges::sort(giving_way_, [](const Sequence* a, const Sequence* b) {
    return a->request.priority != b->request.priority ? a->request.priority < b->request.priority
                                                      : a->rank_s > b->rank_s;
  });
  const auto suffices = [&](std::size_t count, const Sequence* without = nullptr) {
    ended_.clear();
    for (std::size_t i = 0; i < count; ++i) {
      if (giving_way_[i] != without) ended_.push_back(&giving_way_[i]->lease);
    }
    return cache_.missing_blocks(waiting.expected, waiting.most_tokens, ended_) == 0;
  };
  if (suffices(0)) {  // it needs a place at most
    giving_way_.resize(has_room() ? 0 : 1);
    return;
  }
  if (!suffices(giving_way_.size())) return giving_way_.clear();
  std::size_t enough = 1;
  while (!suffices(enough)) ++enough;
  giving_way_.resize(enough);
  // The last one is needed. Of the others those stay whose priority is the highest, if it does without them.
  for (std::size_t i = enough - 1; i-- > 0;) {
    if (suffices(giving_way_.size(), giving_way_[i]))
      giving_way_.erase(giving_way_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Scheduler::preempt(const Sequence& sequence) {
  const auto place = std::ranges::find(running_, &sequence, &std::unique_ptr<Sequence>::get);
  std::unique_ptr<Sequence> preempted = std::move(*place);
  running_.erase(place);
  hold_nobody();
  if (std::erase(step_.admitted, preempted.get()) > 0) {
    preempted->lease = Lease();  // it has computed nothing yet
  } else {
    if (cache_.demote(std::move(preempted->lease)) > 0) step_.demoted.push_back(preempted.get());
    ++preempted->response.preemptions;
    step_.preempted.push_back(preempted.get());
  }
  preempted->computed = 0;
  // At once, before its blocks are taken.
  announce(*preempted);
  // Before its equals: it was among them first.
  waiting_.insert(std::ranges::lower_bound(waiting_, preempted->rank_s, {}, rank_of), std::move(preempted));
}

}  // namespace tiercel
