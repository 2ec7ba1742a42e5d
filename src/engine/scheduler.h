// Who computes what in the next step: iteration-level scheduling (Yu et al., Orca, 2022) with chunked prefill (Agrawal
// et al., Sarathi-Serve, 2024) under a token budget.
//
//   streams    Running sequences that generate take one token each.
//   prompts    What is left of the budget, as far as the streams' next tokens come in time (StepBudget), goes to
//              prompts, in order. One whose end a tier is giving meanwhile is computed as far as that pays.
//   waiting    Then waiting requests are admitted, as long as the cache promises every block that they may come to
//              need. So a running sequence never lacks memory.
//   preempted  A request of higher priority that has no room takes the place of running ones of lower priority, except
//              those that have waited so long that they rank before: of the lowest, the last to arrive, and of no more
//              than give it its room (blocks that others share too are no room). What they computed goes to a tier,
//              where it is worth that (KvCache::demote()); they wait where they stood and go on when there is room
//              again.
//
// Who goes first: by priority and arrival, where waiting `aging_s` makes up for one level of priority. The difference
// of two ranks never changes, so the queue stays sorted and nobody starves. Where room is scarce, a request whose
// prefix is cached may overtake some of its own priority that would evict it.
//
// Those in front are announced to the cache, which keeps the blocks they will reuse. One whose prefix another sequence
// is computing, or a tier is loading, waits for it, so that it is computed once. One whose tenant is at its quota
// waits too, and with it all of that tenant behind it, as all wait behind one that the whole cache has no room for.
// Those behind them go first meanwhile.
//
// A state machine without threads, clock or I/O; the step loop drives it. No step allocates memory where no request
// comes or goes. Not thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "engine/sequence.h"
#include "engine/step_budget.h"
#include "model/model_runner.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

struct SchedulerLimits {
  std::size_t max_sequences = 128;
  std::size_t max_tokens = 1024;
  std::size_t max_logit_rows = 192;  // above max_sequences
  bool deterministic = false;
  double target_step_s = 0;  // StepBudget
  double aging_s = 10;
};

// A run of one sequence's next tokens in a step.
struct BatchPart {
  Sequence* sequence = nullptr;
  std::size_t first_token = 0;  // = Sequence::computed, or where the sequence's part before ends
  std::size_t tokens = 0;
  std::size_t drafted = 0;  // behind a stream's token: the first of Sequence::draft
  Logits logits = Logits::None;
  Arithmetic arithmetic = Arithmetic::Any;
  bool any_attention = false;  // SequenceChunk has it
  bool share = true;  // blocks that these tokens fill may be found by other prompts
};

class Scheduler {
 public:
  // `cache` outlives the scheduler.
  Scheduler(const SchedulerLimits& limits, KvCache& cache);

  void enqueue(std::unique_ptr<Sequence> sequence);
  // Takes in a sequence that has its lease already. There must be a place: running() below max_sequences.
  void add_running(std::unique_ptr<Sequence> sequence);

  struct Step {
    std::vector<BatchPart> parts;
    std::size_t streams = 0;           // sequences that take one token and give one
    std::size_t prompt_tokens = 0;     // of all others
    std::size_t drafted_tokens = 0;    // Drafter
    bool measures_streams = false;     // prompts wait until it is known what streams take alone
    std::vector<Sequence*> admitted;   // entered the batch in this step; their lease says what was reused
    std::vector<Sequence*> preempted;  // left it
    std::vector<Sequence*> demoted;    // of these: their blocks are on their way to a tier
    // Can never run, with the reason; no longer the scheduler's.
    std::vector<std::pair<std::unique_ptr<Sequence>, Status>> refused;
  };
  // The next step; valid until the next call. Empty parts only when nothing can run: nothing is here, or (with leases
  // held by others) no memory.
  Step& next_step();
  // How long the step took.
  void measured(const Step& step, double seconds);

  // Takes out every sequence, waiting or running, for which `leaves` is true.
  template <class Predicate>
  std::vector<std::unique_ptr<Sequence>> take_if(const Predicate& leaves);

  std::vector<std::unique_ptr<Sequence>> take_running() { return std::exchange(running_, {}); }

  bool idle() const { return waiting_.empty() && running_.empty(); }
  std::size_t waiting() const { return waiting_.size(); }
  std::size_t running() const { return running_.size(); }
  const std::deque<std::unique_ptr<Sequence>>& waiting_sequences() const { return waiting_; }  // by rank
  const std::vector<std::unique_ptr<Sequence>>& running_sequences() const { return running_; }
  bool has_room() const { return running_.size() < limits_.max_sequences; }

 private:
  using Place = std::deque<std::unique_ptr<Sequence>>::iterator;

  void add_streams();
  void add_prompts();
  // The first of the waiting ones that could go now, as far as only they know; waiting_.size() if there is none.
  std::size_t first_ready() const;
  void announce_waiting();
  void announce(Sequence& sequence);
  // Announces it again where it lost cached blocks while it waited. True: a tier gives them back.
  bool fetches_again(Sequence& sequence);
  void admit_waiting();
  // Admits the waiting one at `place`, or says why not; refuses it where it can never be admitted.
  StatusCode admit(Place place);
  // Admits the one at `place`, or one that goes before it.
  StatusCode admit_best(Place place);
  // Which of the waiting ones goes before the one at `place`, itself if none does.
  Place with_most_cached(Place place);
  // Until a running sequence of its tenant ends, or admit_waiting() comes to it again.
  void hold_tenant(Place place);
  void hold_nobody();
  void preempt_for_waiting();
  // The running sequences of lower priority that, together, give `waiting` a place and room, none of them in vain.
  // None: that is not needed, or would not help.
  void find_giving_way(const Sequence& waiting);
  void preempt(const Sequence& sequence);
  // Gives `sequence` up to `budget` tokens; returns how many it took.
  std::size_t add_parts(Sequence& sequence, std::size_t budget);
  void settle_arithmetic();
  AdmitOptions admit_options(const Sequence& sequence) const;
  // Leading prompt tokens that every run computes, or reuses, with prefill arithmetic: the prompt's full blocks,
  // without the one that holds its last token. What follows, the prompt's tail, is always computed.
  std::size_t prefill_boundary(const Sequence& sequence) const;
  std::size_t blocks_of(const Sequence& sequence) const;

  SchedulerLimits limits_;
  KvCache& cache_;
  StepBudget budget_;
  std::deque<std::unique_ptr<Sequence>> waiting_;  // by rank
  std::vector<std::unique_ptr<Sequence>> running_;
  std::vector<Sequence*> giving_way_;  // find_giving_way(): the lowest, the last to arrive, first
  std::vector<const Lease*> ended_;    // their leases
  // The step being built.
  Step step_;
  std::vector<BatchPart> sorted_parts_;
  std::size_t prompt_budget_ = 0;  // tokens that prompts may still take
  std::size_t logit_rows_ = 0;     // asked for
  std::size_t tail_tokens_ = 0;    // of prompt tails with decode arithmetic
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
  const std::size_t running = running_.size();
  take_from(running_);
  if (running_.size() < running) hold_nobody();
  return taken;
}

}  // namespace tiercel
