#include "base/thread_team.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/process_usage.h"

namespace tiercel {
namespace {

constexpr std::uint32_t kMembers = 0x1ff;  // up to 511 at one job
constexpr std::uint32_t kOpen = 0x200;
constexpr std::uint32_t kOneJob = 0x400;

// Looks this often before it sleeps: some tens of microseconds, the usual gap between two loops of a step.
constexpr int kLooks = 2000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `done(state)`, and returns that state.
template <class Done>
std::uint32_t wait_until(std::atomic<std::uint32_t>& state, const Done& done) {
  for (int look = 0; look < kLooks; ++look) {
    const std::uint32_t seen = state.load(std::memory_order_acquire);
    if (done(seen)) return seen;
    pause();
  }
  for (;;) {
    const std::uint32_t seen = state.load(std::memory_order_acquire);
    if (done(seen)) return seen;
    state.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace

ThreadTeam::ThreadTeam(std::size_t threads, std::function<void()> on_start) {
  threads = std::clamp<std::size_t>(threads, 1, kMembers);
  for (std::size_t i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i, on_start] {
      on_start();
      work(i);
    });
  }
}

ThreadTeam::~ThreadTeam() {
  ending_.store(true, std::memory_order_relaxed);
  state_.fetch_add(kOneJob, std::memory_order_release);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

double ThreadTeam::workers_cpu_s() {
  double seconds = 0;
  for (std::thread& worker : workers_) seconds += thread_cpu_s(worker.native_handle());
  return seconds;
}

void ThreadTeam::run_job(const Job& job) {
  if (workers_.empty() || job.count <= 1) {
    for (std::size_t i = 0; i < job.count; ++i) job.call(job.task, i, 0);
    return;
  }
  job_ = job;
  next_.store(0, std::memory_order_relaxed);
  state_.fetch_add(kOneJob + kOpen, std::memory_order_release);
  state_.notify_all();
  take_part(0);
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  wait_until(state_, [](std::uint32_t state) { return (state & kMembers) == 0; });
}

void ThreadTeam::take_part(std::size_t thread) {
  for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job_.count;)
    job_.call(job_.task, i, thread);
}

void ThreadTeam::work(std::size_t thread) {
  std::uint32_t last = 0;  // the job this member has done
  for (;;) {
    std::uint32_t state = wait_until(state_, [&](std::uint32_t s) {
      return ((s & kOpen) && s / kOneJob != last) || ending_.load(std::memory_order_relaxed);
    });
    if (ending_.load(std::memory_order_relaxed)) return;
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
    last = state / kOneJob;
    take_part(thread);
    state_.fetch_sub(1, std::memory_order_acq_rel);
    state_.notify_all();
  }
}

}  // namespace tiercel
