// One of the engine's copies of what runs the model: a model runner, a hot arena, the step loop that drives them, its
// statistics, and whether it is well.
//
// Thread-safety: any.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "engine/stats_recorder.h"
#include "engine/step_loop.h"
#include "kv/circuit_breaker.h"
#include "model/model_runner.h"
#include "text/tokenizer.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

// Whether a replica's steps end, and end well. Synchronised; times are the caller's.
class ReplicaHealth {
 public:
  // A step that takes longer hangs, as far as others know.
  static constexpr double kLongestStep_s = 10;

  void on_step_begin(double now_s);
  void on_step_end(bool ok, double now_s);
  bool is_available(double now_s) const;

 private:
  mutable std::mutex mutex_;
  CircuitBreaker breaker_;  // of steps that failed in a row
  std::optional<double> began_s_;
};

// How long a replica computes a token of a prompt, undisturbed: the least of what was measured, which is forgotten
// slowly. What others do to the machine makes single steps longer, never shorter. One thread measures, any reads.
class ReplicaPace {
 public:
  static constexpr int kLeastSamples = 4;
  static constexpr double kForgetting = 1.05;  // with each sample

  void measured(std::size_t prompt_tokens, double seconds);
  // For a token; 0: not known.
  double seconds() const { return known_s_.load(std::memory_order_relaxed); }

 private:
  int samples_ = 0;
  double least_s_ = 0;
  std::atomic<double> known_s_ = 0;
};

class Replica {
 public:
  // Starts the loop, whose thread may run where the calling one may. `tokenizer` outlives the replica. on_step and
  // on_computed of the loop's options are called too.
  Replica(std::unique_ptr<ModelRunner> model, KvCache cache, const Tokenizer& tokenizer, StatsOptions stats_options,
          StepLoopOptions loop_options);

  ModelRunner& model() const { return *model_; }
  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  StatsRecorder& stats() { return stats_; }
  const StatsRecorder& stats() const { return stats_; }
  StepLoop& loop() { return loop_; }
  const StepLoop& loop() const { return loop_; }

  // False: new requests are better off elsewhere for now.
  bool is_available() const;
  // For a token of a prompt, lately; 0: not known.
  double pace_s() const { return pace_.seconds(); }

 private:
  StepLoopOptions watched(StepLoopOptions options);
  double now_s() const { return std::chrono::duration<double>(now_().time_since_epoch()).count(); }

  // Members are destroyed from the last to the first: the loop ends before what it uses.
  const std::function<Sequence::Clock::time_point()> now_;
  const std::unique_ptr<ModelRunner> model_;
  KvCache cache_;
  StatsRecorder stats_;
  ReplicaHealth health_;
  ReplicaPace pace_;
  StepLoop loop_;
};

}  // namespace tiercel
