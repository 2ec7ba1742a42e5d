#include "engine/drafter.h"

#include <algorithm>

namespace tiercel {

Drafter::Drafter(const SchedulerLimits& limits, std::size_t most_drafted)
    : limits_(limits), most_drafted_(most_drafted), budget_(limits.target_step_s) {
  const std::size_t most = most_drafted * std::min(limits.max_sequences, DraftBudget::kMostStreams);
  candidates_.reserve(most);
  likelihoods_.reserve(most);
}

void Drafter::begin(Sequence& sequence) const {
  if (most_drafted_ > 0 && sequence.most_tokens > sequence.prompt_tokens + 1) {
    sequence.draft.emplace(sequence.most_tokens, most_drafted_);
  }
}

void Drafter::add_drafts(Scheduler::Step& step) {
  if (most_drafted_ == 0 || step.prompt_tokens > 0 || step.measures_streams) return;
  if (!budget_.considers(step.streams)) return;
  candidates_.clear();
  for (std::size_t i = 0; i < step.parts.size(); ++i) {
    Sequence& sequence = *step.parts[i].sequence;
    if (!sequence.draft) continue;
    // Its last token is drawn and never computed.
    const std::size_t room = sequence.most_tokens - std::min(sequence.most_tokens, sequence.tokens.size() + 1);
    if (room == 0) continue;
    sequence.draft->guess(sequence.tokens, sequence.lease, record_);
    double likelihood = 1;
    for (std::size_t token = std::min(room, sequence.draft->tokens().size()); token > 0; --token) {
      likelihood *= sequence.draft->likelihood();
      candidates_.push_back({.part = i, .likelihood = likelihood});
    }
  }
  // A part's tokens keep their order: each is less likely than the one before, or as likely.
  std::ranges::sort(candidates_, [](const Candidate& a, const Candidate& b) {
    return a.likelihood != b.likelihood ? a.likelihood > b.likelihood : a.part < b.part;
  });
  // Every other sequence that may be admitted keeps its row of logits. Parts are of one token each, those of sequences
  // that came back in this step, which are not among `streams`, too.
  const std::size_t room = std::min(limits_.max_logit_rows - limits_.max_sequences,
                                    limits_.max_tokens - std::min(limits_.max_tokens, step.parts.size()));
  candidates_.resize(std::min(candidates_.size(), room));
  likelihoods_.clear();
  for (const Candidate& candidate : candidates_) likelihoods_.push_back(candidate.likelihood);
  step.drafted_tokens = budget_.tokens(step.streams, likelihoods_);
  for (std::size_t i = 0; i < step.drafted_tokens; ++i) ++step.parts[candidates_[i].part].drafted;
  if (step.drafted_tokens == 0) return;
  for (BatchPart& part : step.parts) {
    if (part.drafted > 0) part.logits = Logits::All;
    // What gives a row the same bits beside others, and one for all, so that weights are read once.
    part.arithmetic = Arithmetic::Decode;
    part.any_attention = false;
  }
}

void Drafter::measured(const Scheduler::Step& step, double seconds) {
  if (most_drafted_ > 0 && step.prompt_tokens == 0) budget_.measured(step.streams, step.drafted_tokens, seconds);
}

}  // namespace tiercel
