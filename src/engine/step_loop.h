// The engine's one working thread: takes arrivals, asks the scheduler for a step, lets the model compute it, draws
// tokens and ends what is done. Sleeps when there is nothing to do.
//
// step_loop.cc has arrivals and endings, step_loop_compute.cc what happens in a step.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/step_profile.h"
#include "engine/drafter.h"
#include "engine/scheduler.h"
#include "engine/stats_recorder.h"
#include "model/model_runner.h"
#include "text/tokenizer.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

struct StepLoopOptions {
  SchedulerLimits limits;
  std::size_t max_queued_requests = 4096;
  std::size_t max_draft_tokens = 0;          // Drafter
  std::vector<std::string> tier_names = {};  // of the cache
  // For simulations: no thread, run_one() is called by hand; and a clock of their own.
  bool by_hand = false;
  std::function<Sequence::Clock::time_point()> now = Sequence::Clock::now;
  // Sees every step before it is computed; what the scheduler has is as the step leaves it.
  std::function<void(const Scheduler&, const Scheduler::Step&)> on_step = {};
  // Told what became of a step that computes something, and how many tokens of prompts it was that took so long; 0: the
  // step says nothing of that.
  std::function<void(const Status&, std::size_t prompt_tokens, double seconds)> on_computed = {};
};

// What waits at other step loops behind the same door.
struct QueueElsewhere {
  std::size_t queued = 0;  // sequences, which count against max_queued_requests
  std::size_t loops = 0;   // that take from there, too
};

class StepLoop {
 public:
  // All references outlive the loop. Starts the thread.
  StepLoop(const StepLoopOptions& options, ModelRunner& model, KvCache& cache, const Tokenizer& tokenizer,
           StatsRecorder& stats);
  // close()
  ~StepLoop();

  // Takes one request's sequences in (several for several choices), or ends the request at once: Rejected when the
  // queue is full, InvalidArgument when even an empty one could not take it, Cancelled after close(). Any thread.
  void submit(std::vector<std::unique_ptr<Sequence>> choices, const QueueElsewhere& elsewhere = {});
  std::size_t max_queued_requests() const { return options_.max_queued_requests; }
  // Sequences that have not entered the batch. Any thread.
  std::size_t queued() const {
    const std::lock_guard lock(mutex_);
    return queued_;
  }

  // Ends everything with Cancelled and joins the thread. Idempotent; any thread but the loop's own.
  void close();
  // Asks for the same and does not wait for it.
  void begin_close();

  // Takes arrivals, ends what is to end, runs one step. False: there was nothing to compute.
  bool run_one();
  // By hand only. Nothing is here, or has arrived.
  bool idle() const {
    const std::lock_guard lock(mutex_);
    return arrivals_.empty() && scheduler_.idle();
  }

 private:
  void run();
  // First waits for work where it `waits`. False when closing.
  bool take_arrivals(bool waits);
  // Makes use of a moment without work; `lock`, of mutex_, is open meanwhile. False: there is nothing left to do.
  bool prefaults(std::unique_lock<std::mutex>& lock);
  void end_cancelled();
  void end_all();
  // False if there was nothing to compute.
  bool run_step();
  void start(Sequence& sequence, Sequence::Clock::time_point now);
  void note_reuse(Sequence& sequence) const;
  // Prompt tokens found since it started: a tier gave them while others were computed, or, after a preemption, others
  // computed them.
  void note_found(Sequence& sequence);
  // Not Ok: it failed, and everything that ran has ended with it.
  Status compute(const std::vector<BatchPart>& parts);
  struct PrefillWork {
    std::size_t tokens = 0;  // 0: the step says nothing of it
    std::size_t position = 0;
  };
  static PrefillWork prefill_work(const std::vector<BatchPart>& parts);
  void account(Sequence& sequence);
  // Whoever routed the request to this loop.
  static void tell_prompt_left(const Sequence& sequence);
  // Whether the model is to draw the part's tokens: nothing else is wanted of its logits.
  bool is_drawn_by_model(const BatchPart& part) const;
  void make_chunks(const std::vector<BatchPart>& parts);
  // What a step left of positions that tokens are drawn from: their logits, or the tokens.
  struct Positions {
    std::span<float> logits;
    std::span<const kernels::DrawnToken> drawn;
  };
  void advance(const BatchPart& part, const Positions& positions);
  void record_prompt_logprobs(const BatchPart& part, std::span<const float> logits);
  // Every other choice goes on from the prompt that `first` has computed.
  void fork_choices(Sequence& first, std::span<const float> logits);
  // The sequence's next token is drawn, from the position at `place`.
  void draw_token(Sequence& sequence, const Positions& positions, std::size_t place);
  kernels::DrawnToken sample(Sequence& sequence, std::span<float> logits);
  void add_token(Sequence& sequence, const kernels::DrawnToken& drawn);
  // Draws on as long as what is drawn is what was drafted: the first position is that before the drafted tokens.
  void accept_drafted(const BatchPart& part, const Positions& positions);
  bool has_finished(const Sequence& sequence) const { return !finished_.empty() && finished_.back() == &sequence; }
  void finish(Sequence& sequence, FinishReason reason);
  void fail_running(const Status& status);
  void leave_queue();
  void end(std::unique_ptr<Sequence> sequence, Status status);

  const StepLoopOptions options_;
  ModelRunner& model_;
  KvCache& cache_;
  const Tokenizer& tokenizer_;
  StatsRecorder& stats_;
  StepProfile* const profile_;  // null: nobody asked

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::unique_ptr<Sequence>> arrivals_;
  std::size_t queued_ = 0;  // sequences that have not entered the batch: arrivals and waiting ones
  bool closing_ = false;
  bool transferred_ = false;  // a tier has, since the last step
  // When the last one entered the batch; empty where none has waited since. What passes while nobody waits says when
  // requests come, not how soon there is room.
  std::optional<Sequence::Clock::time_point> last_start_;
  double start_interval_s_ = 0;      // between two that enter the batch, lately; 0: not known
  std::size_t start_intervals_ = 0;  // it is the mean of
  std::size_t rejected_since_ = 0;   // the last one entered

  // The thread's own.
  Scheduler scheduler_;
  Drafter drafter_;
  std::vector<std::unique_ptr<Sequence>> taken_;  // arrivals
  std::vector<SequenceChunk> chunks_;
  std::vector<kernels::SamplingRow> draws_;  // of the chunks
  std::vector<float> raw_logits_;
  std::vector<float> choice_logits_;
  std::vector<Sequence*> finished_;
  bool waits_for_cache_ = false;  // requests are here, and the last step had nothing to compute

  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace tiercel
