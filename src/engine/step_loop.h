// The engine's one working thread: takes arrivals, asks the scheduler for a step, lets the model compute it, draws
// tokens and ends what is done. Sleeps when there is nothing to do.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/scheduler.h"
#include "engine/stats_recorder.h"
#include "model/model_runner.h"
#include "text/tokenizer.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

struct StepLoopOptions {
  SchedulerLimits limits;
  std::size_t max_queued_requests = 4096;
  std::vector<std::string> tier_names = {};  // of the cache
};

class StepLoop {
 public:
  // All references outlive the loop. Starts the thread.
  StepLoop(const StepLoopOptions& options, ModelRunner& model, KvCache& cache, const Tokenizer& tokenizer,
           StatsRecorder& stats);
  // close()
  ~StepLoop();

  // Takes the sequence in, or ends it at once: Rejected when the queue is full, Cancelled after close(). Any thread.
  void submit(std::unique_ptr<Sequence> sequence);

  // Ends everything with Cancelled and joins the thread. Idempotent; any thread but the loop's own.
  void close();

 private:
  void run();
  // False if there was nothing to compute.
  bool run_step();
  bool take_arrivals();  // waits for work; false when closing
  void end_cancelled();
  void note_reuse(Sequence& sequence) const;
  void compute(const std::vector<BatchPart>& parts);
  void report_prefill(const std::vector<BatchPart>& parts, double seconds);
  void advance(const BatchPart& part, std::span<float> logits);
  void record_prompt_logprobs(const BatchPart& part, std::span<const float> logits);
  void draw_token(Sequence& sequence, std::span<float> logits);
  void finish(Sequence& sequence, FinishReason reason);
  void fail_running(const Status& status);
  void end(std::unique_ptr<Sequence> sequence, Status status, bool was_running);

  const StepLoopOptions options_;
  ModelRunner& model_;
  KvCache& cache_;
  const Tokenizer& tokenizer_;
  StatsRecorder& stats_;

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::unique_ptr<Sequence>> arrivals_;
  std::size_t queued_ = 0;  // arrivals and the scheduler's waiting ones
  bool closing_ = false;

  // The thread's own.
  Scheduler scheduler_;
  std::vector<SequenceChunk> chunks_;
  std::vector<float> raw_logits_;
  std::vector<Sequence*> finished_;
  bool waits_for_cache_ = false;  // requests are here, and the last step had nothing to compute

  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace tiercel
