#include "engine/step_loop.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "engine/step_time.h"

namespace tiercel {
namespace {

// How often to look whether what a tier reads or takes is still worth waiting for. When it is done, the cache says so.
constexpr std::chrono::milliseconds kCachePoll{1};

}  // namespace

StepLoop::StepLoop(const StepLoopOptions& options, ModelRunner& model, KvCache& cache, const Tokenizer& tokenizer,
                   StatsRecorder& stats)
    : options_(options),
      model_(model),
      cache_(cache),
      tokenizer_(tokenizer),
      stats_(stats),
      profile_(model.profile()),
      scheduler_(options.limits, cache),
      drafter_(options.limits, options.max_draft_tokens),
      raw_logits_(model.shape().vocabulary),
      choice_logits_(model.shape().vocabulary) {
  assert(options.limits.max_logit_rows > options.limits.max_sequences &&
         options.limits.max_logit_rows <= model.max_logit_rows());
  chunks_.reserve(2 * options.limits.max_sequences);
  draws_.reserve(options.limits.max_logit_rows);
  finished_.reserve(options.limits.max_sequences);
  if (options_.by_hand) return;
  cache_.notify_transfers([this] {
    {
      const std::lock_guard lock(mutex_);
      transferred_ = true;
    }
    arrived_.notify_one();
  });
  thread_ = std::thread([this] { run(); });
}

StepLoop::~StepLoop() {
  close();
  if (!options_.by_hand) cache_.notify_transfers({});
}

void StepLoop::submit(std::vector<std::unique_ptr<Sequence>> choices, const QueueElsewhere& elsewhere) {
  const EndpointId endpoint = stats_.endpoint(choices.front()->request.endpoint);
  const std::uint32_t attempt = choices.front()->request.attempt;
  for (auto& choice : choices) choice->endpoint = endpoint;
  Status refusal;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) {
      refusal = Status::cancelled("the engine is closed");
    } else if (choices.size() > options_.max_queued_requests) {
      refusal = Status::invalid_argument(
          fmt::format("{} choices wait until they are drawn, and max_queued_requests is {}; ask for fewer or raise it",
                      choices.size(), options_.max_queued_requests));
    } else if (queued_ + elsewhere.queued + choices.size() > options_.max_queued_requests) {
      const double wait_s =
          start_interval_s_ * static_cast<double>(++rejected_since_) / static_cast<double>(1 + elsewhere.loops);
      refusal = Status::rejected(
          fmt::format("{} requests are waiting, and {} may at most; try again later or raise max_queued_requests",
                      queued_ + elsewhere.queued, options_.max_queued_requests),
          static_cast<std::uint64_t>(std::ceil(std::min(wait_s, 3600.) * 1e3)));
    } else {
      queued_ += choices.size();
      stats_.on_queued(endpoint, attempt);
      std::ranges::move(choices, std::back_inserter(arrivals_));
    }
  }
  if (refusal.ok()) return arrived_.notify_one();
  stats_.on_rejected(endpoint, attempt);
  choices.front()->promise->set(std::move(refusal));
}

void StepLoop::begin_close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  arrived_.notify_one();
}

void StepLoop::close() {
  begin_close();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
  if (options_.by_hand) {
    take_arrivals(false);
    end_all();
  }
}

void StepLoop::run() {
  const PartTimer timer(profile_, StepPart::Schedule);
  while (take_arrivals(true)) {
    end_cancelled();
    waits_for_cache_ = !run_step();
    if (profile_) profile_->publish();
  }
  end_all();
}

bool StepLoop::run_one() {
  take_arrivals(false);
  end_cancelled();
  return run_step();
}

bool StepLoop::take_arrivals(bool waits) {
  bool go_on;
  {
    const PartTimer timer(profile_, StepPart::Idle);
    std::unique_lock lock(mutex_);
    const auto has_work = [&] { return closing_ || !arrivals_.empty(); };
    if (waits && scheduler_.idle()) {
      while (!has_work() && prefaults(lock)) {
      }
      arrived_.wait(lock, has_work);
    } else if (waits && waits_for_cache_) {
      arrived_.wait_for(lock, kCachePoll, [&] { return has_work() || transferred_; });
    }
    transferred_ = false;
    taken_.swap(arrivals_);
    go_on = !closing_;
  }
  stats_.begin();
  for (auto& sequence : taken_) scheduler_.enqueue(std::move(sequence));
  taken_.clear();
  return go_on;
}

bool StepLoop::prefaults(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const bool more = cache_.prefault();
  lock.lock();
  return more;
}

void StepLoop::end_cancelled() {
  const auto now = options_.now();
  const auto is_over = [&](const Sequence& s) { return s.promise->cancel_requested() || now >= s.deadline; };
  for (auto& sequence : scheduler_.take_if(is_over)) {
    const bool cancelled = sequence->promise->cancel_requested();
    Status status = cancelled ? Status::cancelled("cancelled by the caller")
                              : Status::deadline_exceeded(fmt::format(
                                    "the request did not end in time: {} of {} prompt tokens computed, {} tokens drawn",
                                    std::min(sequence->computed, sequence->prompt_tokens), sequence->prompt_tokens,
                                    sequence->response.tokens.size()));
    end(std::move(sequence), std::move(status));
  }
}

void StepLoop::end_all() {
  for (auto& sequence : scheduler_.take_if([](const Sequence&) { return true; })) {
    end(std::move(sequence), Status::cancelled("the engine was closed"));
  }
}

void StepLoop::fail_running(const Status& status) {
  finished_.clear();
  for (auto& sequence : scheduler_.take_running()) end(std::move(sequence), status);
}

void StepLoop::end(std::unique_ptr<Sequence> sequence, Status status) {
  if (!sequence->was_admitted()) {
    const std::lock_guard lock(mutex_);
    leave_queue();
  }
  // Blocks first: whoever waits for the future finds them given back.
  sequence->lease = Lease();
  Response& response = sequence->response;
  response.total_ms = milliseconds(options_.now() - sequence->arrival);
  if (status.ok()) {
    response.prompt_tokens.assign(sequence->tokens.begin(),
                                  sequence->tokens.begin() + static_cast<std::ptrdiff_t>(sequence->prompt_tokens));
  }
  bool was_running = sequence->was_admitted();
  if (const auto& group = sequence->group) {
    if (!group->collect(sequence->choice, std::move(response), status)) return;
    was_running = group->started;
    status = group->failure;
    if (status.ok()) response = group->answer();
  }
  const Outcome outcome = status.ok()                                     ? Outcome::Completed
                          : status.code() == StatusCode::Cancelled        ? Outcome::Cancelled
                          : status.code() == StatusCode::DeadlineExceeded ? Outcome::TimedOut
                                                                          : Outcome::Failed;
  stats_.on_ended(sequence->endpoint, outcome, was_running, response.total_ms);
  sequence->routed.reset();           // whoever has the answer finds the load of this loop without it
  if (profile_) profile_->publish();  // whoever has the answer finds in it what the answer took
  if (status.ok()) {
    sequence->promise->set(std::move(response));
  } else {
    sequence->promise->set(std::move(status));
  }
}

}  // namespace tiercel
