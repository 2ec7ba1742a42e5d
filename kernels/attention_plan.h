// A step's attention as tasks for a team of threads: each is one KV head of a tile of queries, or of the few queries of
// several sequences whose contexts begin with the same blocks, which are read once for all of them (cascade attention,
// Ye et al. 2024). What would keep one thread busy while others are done, a long context seen by few queries, is cut
// further, into sections of the context.
//
// Results have the same bits however it is cut and put together. Not thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/paged_attention.h"

namespace tiercel::kernels {

class AttentionPlan {
 public:
  // `group`: query heads of a KV head. `kernel` outlives the plan.
  AttentionPlan(const AttentionKernel& kernel, const KvLayout& layout, std::size_t group, std::size_t threads);

  // What run() needs, 64-byte aligned; untouched but where it is used.
  std::size_t workspace_floats() const { return threads_ * (scratch_floats_ + kStateFloats); }
  void set_workspace(float* workspace) { workspace_ = workspace; }

  void clear();
  // A run of queries, all its KV heads: kv_head and what follows `style` are the plan's own.
  void add(const AttentionArgs& run);
  // After the last one.
  void finish();
  // One layer of them all. team.run(count, task) calls task(index, thread) for each index, and returns when all are
  // done.
  template <class Team>
  void run(Team& team, std::size_t layer) const {
    team.run(tasks_.size(), [&](std::size_t i, std::size_t thread) {
      const Task& task = tasks_[i];
      float* const scratch = workspace_ + thread * scratch_floats_;
      const auto call = [&](std::size_t r) {
        AttentionArgs args = calls_[task.first + r];
        args.kv.layer = layer;
        return args;
      };
      if (task.count == 1) return kernel_.attend(call(0), scratch);
      AttentionArgs together[kMostTogether];
      for (std::size_t r = 0; r < task.count; ++r) together[r] = call(r);
      kernel_.attend_together({together, task.count}, task.shared, scratch);
    });
    team.run(cut_.size(), [&](std::size_t i, std::size_t) { kernel_.merge_sections(cut_[i]); });
  }

  const std::vector<AttentionArgs>& runs() const { return runs_; }
  std::size_t tasks() const { return tasks_.size(); }

 private:
  // Most queries of one task: keys are transposed once for all of them. Fewer, where threads would not all have a task.
  static constexpr std::size_t kTile = 128, kSmallTile = 64;
  // A task is cut where it is more than this part of a thread's share.
  static constexpr std::size_t kTasksPerThread = 4;
  // For states of sections, each thread. What does not fit is not cut: it is long enough for all to have work.
  static constexpr std::size_t kStateFloats = 1 << 19;

  // Sequences that share a task, and the most queries that each of them has: more are worth reading the blocks again.
  static constexpr std::size_t kMostTogether = 16, kFewTokens = 8;
  static_assert(kMostTogether * kFewTokens <= kTile);
  // So many tasks for each thread are more important than what they could share.
  static constexpr std::size_t kSharedTasksPerThread = 4;

  struct Task {
    std::size_t first = 0, count = 1;  // of calls_
    std::size_t shared = 0;            // tokens that all their contexts begin with
    std::size_t cost = 0;              // keys, for each query
  };

  void add_tiles(const AttentionArgs& run);
  void add_together(std::span<const AttentionArgs* const> runs, std::size_t shared);
  // Tasks of the runs that have blocks in common; returns the others.
  std::vector<const AttentionArgs*> put_together();
  // Whole spans at the beginning of a context that all queries of a run see, and those that two runs have in common.
  std::size_t spans_of(const AttentionArgs& run) const;
  std::size_t common_spans(const AttentionArgs& a, const AttentionArgs& b) const;

  const AttentionKernel& kernel_;
  KvLayout layout_;
  std::size_t group_, threads_, scratch_floats_;
  float* workspace_ = nullptr;  // [threads] of scratch, then states
  std::vector<AttentionArgs> runs_;
  std::vector<AttentionArgs> calls_;
  std::vector<Task> whole_, tasks_;  // tasks_: as they are run, longest first
  std::vector<AttentionArgs> cut_;   // whose sections are to be merged
};

}  // namespace tiercel::kernels
