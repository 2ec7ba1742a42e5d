// A few threads that share one job at a time: the parallel loops of a step.
//
// Built for thousands of short loops a second on a machine that has other work too. A member that waits looks for work
// for some microseconds, then sleeps. A loop never waits for a member that has not begun: if the system gives its core
// to another process, the others do the work. (A barrier that counts every thread, as OpenMP's, loses milliseconds each
// time; measured here: 10 ms a step alone, over 200 ms beside one busy process.)
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace tiercel {

class ThreadTeam {
 public:
  // `threads` in all, at least 1: the caller of run() is one of them. Each other one calls `on_start` first.
  explicit ThreadTeam(
      std::size_t threads, std::function<void()> on_start = [] {});
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  std::size_t threads() const { return workers_.size() + 1; }
  // That all but the caller of run() have had.
  double workers_cpu_s();

  // Calls task(index, thread) for index 0 .. count - 1, each once, in this order, on whichever member is free; thread
  // is 0 .. threads() - 1. Returns when all are done. One caller at a time; a task must not call run() or throw.
  template <class Task>
  void run(std::size_t count, const Task& task) {
    run_job({count, &task,
             [](const void* t, std::size_t i, std::size_t thread) { (*static_cast<const Task*>(t))(i, thread); }});
  }

  // Calls part(begin, end) on parts of 0 .. count whose bounds are multiples of `grain`: more parts than threads, so
  // that a slow member does less.
  template <class Part>
  void run_parts(std::size_t count, std::size_t grain, const Part& part) {
    const std::size_t grains = (count + grain - 1) / grain, wanted = threads() == 1 ? 1 : kPartsPerThread * threads();
    const std::size_t size = (grains + wanted - 1) / wanted * grain;
    run(size == 0 ? 0 : (count + size - 1) / size,
        [&](std::size_t i, std::size_t) { part(i * size, i * size + size < count ? i * size + size : count); });
  }

 private:
  static constexpr std::size_t kPartsPerThread = 3;

  struct Job {
    std::size_t count = 0;
    const void* task = nullptr;
    void (*call)(const void* task, std::size_t index, std::size_t thread) = nullptr;
  };
  void run_job(const Job& job);
  void take_part(std::size_t thread);
  void work(std::size_t thread);

  Job job_;
  std::atomic<std::size_t> next_ = 0;
  // Jobs so far, then whether the current one still takes members, then how many are at it: one word, so that joining
  // and closing cannot cross.
  std::atomic<std::uint32_t> state_ = 0;
  std::atomic<bool> ending_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace tiercel
