// Who computes what in the next step: iteration-level scheduling (Yu et al., Orca, 2022) with chunked prefill (Agrawal
// et al., Sarathi, 2023) under a token budget.
//
// Running sequences that generate take one token each; what is left of the budget goes to prompts, in order; then
// waiting requests are admitted, higher priority first and otherwise in order of arrival, as long as the cache promises
// every block that they may come to need. So a running sequence never lacks memory, and nothing has to be undone.
//
// The first of the queue are announced to the cache, which keeps the blocks they will reuse. One whose prefix another
// sequence is computing waits for it, so that it is computed once; one whose tenant is at its quota waits too. Those
// behind them go first meanwhile.
//
// A state machine without threads, clock or I/O; the step loop drives it. Not thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "engine/sequence.h"
#include "model/model_runner.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

struct SchedulerLimits {
  std::size_t max_sequences = 128;
  std::size_t max_tokens = 1024;
  std::size_t max_logit_rows = 192;  // above max_sequences
  bool deterministic = false;
};

// A run of one sequence's next tokens in a step.
struct BatchPart {
  Sequence* sequence = nullptr;
  std::size_t first_token = 0;  // = Sequence::computed, or where the sequence's part before ends
  std::size_t tokens = 0;
  Logits logits = Logits::None;
  Arithmetic arithmetic = Arithmetic::Any;
  bool share = true;  // blocks that these tokens fill may be found by other prompts
};

class Scheduler {
 public:
  // `cache` outlives the scheduler.
  Scheduler(const SchedulerLimits& limits, KvCache& cache) : limits_(limits), cache_(cache) {}

  void enqueue(std::unique_ptr<Sequence> sequence);

  struct Step {
    std::vector<BatchPart> parts;
    std::vector<Sequence*> admitted;  // entered the batch in this step; their lease says what was reused
    // Can never run, with the reason; no longer the scheduler's.
    std::vector<std::pair<std::unique_ptr<Sequence>, Status>> refused;
  };
  // The next step. Empty parts only when nothing can run: nothing is here, or (with leases held by others) no memory.
  Step next_step();

  // Takes out every sequence, waiting or running, for which `leaves` is true.
  template <class Predicate>
  std::vector<std::unique_ptr<Sequence>> take_if(const Predicate& leaves);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  std::size_t waiting() const { return waiting_.size(); }
  std::size_t running() const { return running_.size(); }

 private:
  // Gives `sequence` up to `budget` tokens; returns how many it took.
  std::size_t add_parts(Sequence& sequence, std::size_t budget, Step& step);
  void admit_waiting(std::size_t budget, Step& step);
  AdmitOptions admit_options(const Sequence& sequence) const;
  // Leading prompt tokens that every run computes, or reuses, with prefill arithmetic: the prompt's full blocks,
  // without the one that holds its last token. What follows, the prompt's tail, is always computed.
  std::size_t prefill_boundary(const Sequence& sequence) const;

  SchedulerLimits limits_;
  KvCache& cache_;
  std::deque<std::unique_ptr<Sequence>> waiting_;  // by priority, then arrival
  std::vector<std::unique_ptr<Sequence>> running_;
  // Of the step being built.
  std::size_t logit_rows_ = 0;   // asked for
  std::size_t tail_tokens_ = 0;  // of prompt tails with decode arithmetic
};

template <class Predicate>
std::vector<std::unique_ptr<Sequence>> Scheduler::take_if(const Predicate& leaves) {
  std::vector<std::unique_ptr<Sequence>> taken;
  const auto take_from = [&](auto& queue) {
    for (auto& sequence : queue) {
      if (leaves(*sequence)) taken.push_back(std::move(sequence));
    }
    std::erase_if(queue, [](const auto& sequence) { return !sequence; });
  };
  take_from(waiting_);
  take_from(running_);
  return taken;
}

}  // namespace tiercel
