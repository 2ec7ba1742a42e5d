#include "kernels/attention_plan.h"

#include <algorithm>
#include <functional>

namespace tiercel::kernels {

AttentionPlan::AttentionPlan(const AttentionKernel& kernel, const KvLayout& layout, std::size_t group,
                             std::size_t threads)
    : kernel_(kernel),
      layout_(layout),
      group_(group),
      threads_(threads),
      scratch_floats_(kernel.scratch_floats(layout, kTile, group)) {}

void AttentionPlan::clear() {
  runs_.clear();
  whole_.clear();
  tasks_.clear();
  cut_.clear();
}

void AttentionPlan::add(const AttentionArgs& run) {
  runs_.push_back(run);
  const std::size_t most = run.tokens >= kTile * threads_ ? kTile : kSmallTile;
  for (std::size_t first = 0; first < run.tokens; first += most) {
    AttentionArgs tile = run;
    tile.first_position += first;
    tile.tokens = std::min(most, run.tokens - first);
    tile.q += first * run.q_stride;
    tile.out += first * run.out_stride;
    tile.states = nullptr;
    for (tile.kv_head = 0; tile.kv_head < layout_.kv_heads; ++tile.kv_head) {
      whole_.push_back({tile, tile.tokens * (tile.first_position + tile.tokens)});
    }
  }
}

void AttentionPlan::finish() {
  std::size_t total = 0;
  for (const Task& task : whole_) total += task.cost;
  float* states = workspace_ + threads_ * scratch_floats_;
  float* const states_end = states + threads_ * kStateFloats;
  const std::size_t section_tokens = kernel_.section_tokens(layout_);
  for (const Task& task : whole_) {
    AttentionArgs args = task.args;
    const std::size_t positions = args.first_position + args.tokens;
    const std::size_t sections = kernel_.sections(layout_, positions);
    const std::size_t floats = sections * kernel_.state_floats(layout_, args.tokens, group_);
    if (threads_ == 1 || sections == 1 || task.cost * kTasksPerThread * threads_ <= total ||
        floats > static_cast<std::size_t>(states_end - states)) {
      tasks_.push_back(task);
      continue;
    }
    args.states = states;
    states += floats;
    cut_.push_back(args);
    for (args.section = 0; args.section < sections; ++args.section) {
      const std::size_t tokens = std::min(section_tokens, positions - args.section * section_tokens);
      tasks_.push_back({args, args.tokens * tokens});
    }
  }
  std::ranges::sort(tasks_, std::greater(), &Task::cost);
}

}  // namespace tiercel::kernels
