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
  calls_.clear();
  whole_.clear();
  tasks_.clear();
  cut_.clear();
}

void AttentionPlan::add(const AttentionArgs& run) { runs_.push_back(run); }

void AttentionPlan::add_tiles(const AttentionArgs& run) {
  const std::size_t most = run.tokens >= kTile * threads_ ? kTile : kSmallTile;
  for (std::size_t first = 0; first < run.tokens; first += most) {
    AttentionArgs tile = run;
    tile.first_position += first;
    tile.tokens = std::min(most, run.tokens - first);
    tile.q += first * run.q_stride;
    tile.out += first * run.out_stride;
    tile.states = nullptr;
    for (tile.kv_head = 0; tile.kv_head < layout_.kv_heads; ++tile.kv_head) {
      whole_.push_back({.first = calls_.size(), .cost = tile.tokens * (tile.first_position + tile.tokens)});
      calls_.push_back(tile);
    }
  }
}

void AttentionPlan::add_together(std::span<const AttentionArgs* const> runs, std::size_t shared) {
  for (std::size_t kv_head = 0; kv_head < layout_.kv_heads; ++kv_head) {
    Task task{.first = calls_.size(), .count = runs.size(), .shared = shared};
    for (const AttentionArgs* run : runs) {
      task.cost += run->tokens * (run->first_position + run->tokens);
      calls_.push_back(*run);
      calls_.back().kv_head = kv_head;
    }
    whole_.push_back(task);
  }
}

std::size_t AttentionPlan::spans_of(const AttentionArgs& run) const {
  return (run.first_position + 1) / kernel_.span_tokens;
}

std::size_t AttentionPlan::common_spans(const AttentionArgs& a, const AttentionArgs& b) const {
  const std::size_t blocks = kernel_.span_tokens / layout_.block_tokens,
                    most = std::min(spans_of(a), spans_of(b)) * blocks;
  const auto different = std::mismatch(a.block_table, a.block_table + most, b.block_table).first;
  return static_cast<std::size_t>(different - a.block_table) / blocks;
}

std::vector<const AttentionArgs*> AttentionPlan::put_together() {
  std::vector<const AttentionArgs*> few, others;
  const bool can_share = kernel_.attend_together != nullptr && kernel_.span_tokens % layout_.block_tokens == 0;
  for (const AttentionArgs& run : runs_) {
    const bool is_few = run.style == AttentionStyle::Decode && run.tokens <= kFewTokens;
    (can_share && is_few && spans_of(run) > 0 ? few : others).push_back(&run);
  }
  const std::size_t most = std::min(kMostTogether, few.size() * layout_.kv_heads / (threads_ * kSharedTasksPerThread));
  if (most < 2) {
    others.insert(others.end(), few.begin(), few.end());
    return others;
  }
  // Contexts that begin alike come to lie beside each other.
  std::ranges::sort(few, [&](const AttentionArgs* a, const AttentionArgs* b) {
    const std::size_t blocks = kernel_.span_tokens / layout_.block_tokens;
    return std::lexicographical_compare(a->block_table, a->block_table + spans_of(*a) * blocks, b->block_table,
                                        b->block_table + spans_of(*b) * blocks);
  });
  for (std::size_t first = 0, end = 0; first < few.size(); first = end) {
    // One more, unless the others lose more by what they no longer share than it wins.
    std::size_t spans = spans_of(*few[first]);
    for (end = first + 1; end < few.size() && end - first < most; ++end) {
      const std::size_t count = end - first, left = std::min(spans, common_spans(*few[first], *few[end]));
      if (left == 0 || count * left < (count - 1) * spans) break;
      spans = left;
    }
    if (end == first + 1) {
      others.push_back(few[first]);
    } else {
      add_together(std::span(few).subspan(first, end - first), spans * kernel_.span_tokens);
    }
  }
  return others;
}

void AttentionPlan::finish() {
  for (const AttentionArgs* run : put_together()) add_tiles(*run);
  std::size_t total = 0;
  for (const Task& task : whole_) total += task.cost;
  float* states = workspace_ + threads_ * scratch_floats_;
  float* const states_end = states + threads_ * kStateFloats;
  const std::size_t section_tokens = kernel_.section_tokens(layout_);
  for (const Task& task : whole_) {
    if (task.count > 1) {
      tasks_.push_back(task);
      continue;
    }
    AttentionArgs args = calls_[task.first];
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
      tasks_.push_back({.first = calls_.size(), .cost = args.tokens * tokens});
      calls_.push_back(args);
    }
  }
  std::ranges::sort(tasks_, std::greater(), &Task::cost);
}

}  // namespace tiercel::kernels
