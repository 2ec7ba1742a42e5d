#include "engine/replica.h"

#include <algorithm>
#include <utility>

namespace tiercel {

void ReplicaHealth::on_step_begin(double now_s) {
  const std::lock_guard lock(mutex_);
  began_s_ = now_s;
  breaker_.on_begin(now_s);
}

void ReplicaHealth::on_step_end(bool ok, double now_s) {
  const std::lock_guard lock(mutex_);
  began_s_.reset();
  if (ok) {
    breaker_.on_success();
  } else {
    breaker_.on_failure(now_s);
  }
}

bool ReplicaHealth::is_available(double now_s) const {
  const std::lock_guard lock(mutex_);
  return breaker_.allows(now_s) && (!began_s_ || now_s - *began_s_ <= kLongestStep_s);
}

void ReplicaPace::measured(std::size_t prompt_tokens, double seconds) {
  if (prompt_tokens == 0 || seconds <= 0) return;
  const double last_s = seconds / static_cast<double>(prompt_tokens);
  least_s_ = samples_ == 0 ? last_s : std::min(last_s, kForgetting * least_s_);
  if (++samples_ < kLeastSamples) return;
  samples_ = kLeastSamples;
  known_s_.store(least_s_, std::memory_order_relaxed);
}

Replica::Replica(std::unique_ptr<ModelRunner> model, KvCache cache, const Tokenizer& tokenizer,
                 StatsOptions stats_options, StepLoopOptions loop_options)
    : now_(loop_options.now),
      model_(std::move(model)),
      cache_(std::move(cache)),
      stats_(std::move(stats_options)),
      loop_(watched(std::move(loop_options)), *model_, cache_, tokenizer, stats_) {}

StepLoopOptions Replica::watched(StepLoopOptions options) {
  options.on_step = [this, on_step = std::move(options.on_step)](const Scheduler& scheduler,
                                                                 const Scheduler::Step& step) {
    if (!step.parts.empty()) health_.on_step_begin(now_s());
    if (on_step) on_step(scheduler, step);
  };
  options.on_computed = [this, on_computed = std::move(options.on_computed)](
                            const Status& status, std::size_t prompt_tokens, double seconds) {
    health_.on_step_end(status.ok(), now_s());
    pace_.measured(prompt_tokens, seconds);
    if (on_computed) on_computed(status, prompt_tokens, seconds);
  };
  return options;
}

bool Replica::is_available() const { return health_.is_available(now_s()); }

}  // namespace tiercel
