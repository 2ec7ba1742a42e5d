// What must hold of every step that the scheduler makes, whatever it is asked for: limits, promises, order.
#pragma once

#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler.h"

namespace tiercel::sim {

// A history has shown a fault. What it says is for a person.
struct ServingViolation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws ServingViolation where `holds` is false.
inline void demand(bool holds, const std::string& what) {
  if (!holds) throw ServingViolation(what);
}

struct StepRules {
  SchedulerLimits limits;
  std::size_t max_queued_sequences = 0;
  std::size_t quota_blocks = 0;   // of each tenant; 0: none
  bool passes_by_prefix = false;  // one whose prefix is cached may go first
};

class StepCheck {
 public:
  StepCheck(const StepRules& rules, KvCache& cache) : rules_(rules), cache_(cache) {}

  // As StepLoopOptions::on_step.
  void check(const Scheduler& scheduler, const Scheduler::Step& step);

  std::size_t overtakings() const { return overtakings_; }
  std::size_t held() const { return held_; }

 private:
  void check_limits(const Scheduler& scheduler, const Scheduler::Step& step) const;
  void check_parts(const Scheduler& scheduler, const Scheduler::Step& step) const;
  void check_promises(const Scheduler& scheduler);
  void check_order(const Scheduler& scheduler, const Scheduler::Step& step);
  void check_preempted(const Scheduler& scheduler, const Scheduler::Step& step) const;
  // Nobody gives way in vain: who needed the room has it at once, or when tiers have what was there, and before that
  // nobody who gave way goes on.
  void check_gave_way(const Scheduler& scheduler, const Scheduler::Step& step);
  // Of a sequence, also when it is no more.
  using Name = std::pair<const Sequence*, double>;
  static Name name_of(const Sequence& sequence) { return {&sequence, sequence.rank_s}; }
  std::size_t blocks_of(const Sequence& sequence) const { return cache_.layout().blocks_for(sequence.most_tokens); }

  const StepRules rules_;
  KvCache& cache_;
  const Sequence* first_ = nullptr;  // of those that waited for nothing but room, after the step before
  std::map<const Sequence*, std::size_t> passed_;
  std::map<Name, std::size_t> computed_;        // by each that ran, after the step before
  std::set<Name> ready_;                        // who waited for nothing that others compute, after the step before
  std::map<Name, std::vector<Name>> gave_way_;  // and for whom, as far as can be seen, until one of these is in
  std::size_t others_ = 0, others_before_ = 0;  // blocks held besides the running sequences' now, a step ago
  std::size_t overtakings_ = 0, held_ = 0;
};

}  // namespace tiercel::sim
