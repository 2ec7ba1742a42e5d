// Speculative decoding without a second model (after Leviathan et al., "Fast inference from transformers via
// speculative decoding", 2023): drafts are appended to the streams of a step, the model computes them as rows of the
// same step, and each is taken while it is what the sequence draws anyway.
//
// Exact, in distribution and in bits: at each position the token is drawn from the model's own logits with the
// sequence's own sampler, as it would be without a draft: the same logits (a token has the same bits in every batch:
// "A cached answer equals a computed one" in docs/architecture.md), the same penalties, the same random number, drawn
// for this position and for none behind it. A draft only decides whether the logits of the next position are there
// already. Where it was wrong, the KV behind it is overwritten by the next step, and nothing of it is ever committed.
// So a sequence's tokens, log-probabilities, events and end do not depend on drafts, nor on what they were guessed
// from.
//
// Belongs to the step loop, and to its thread. Allocates nothing after its construction, but for begin().
#pragma once

#include <cstddef>
#include <vector>

#include "engine/draft.h"
#include "engine/draft_budget.h"
#include "engine/scheduler.h"

namespace tiercel {

class Drafter {
 public:
  // `most_drafted`: of one sequence in a step; 0: never any.
  Drafter(const SchedulerLimits& limits, std::size_t most_drafted);

  // The sequence enters the batch.
  void begin(Sequence& sequence) const;
  // Gives the streams of `step` drafts as far as that pays and as the limits of a step leave room: in steps without
  // prompts only, whose pieces are cut to leave streams in time.
  void add_drafts(Scheduler::Step& step);
  // How long the step took.
  void measured(const Scheduler::Step& step, double seconds);

 private:
  // The next token of a part's draft, if it is taken.
  struct Candidate {
    std::size_t part = 0;
    double likelihood = 0;  // that it is accepted, and all before it
  };

  const SchedulerLimits limits_;
  const std::size_t most_drafted_;
  DraftBudget budget_;
  DraftRecord record_;
  std::vector<Candidate> candidates_;
  std::vector<double> likelihoods_;
};

}  // namespace tiercel
