#include "tests/engine/step_check.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace tiercel::sim {
namespace {

constexpr std::size_t kMostOvertaken = 16;  // as the documentation of the scheduler says: some, not any number

}  // namespace

void StepCheck::check(const Scheduler& scheduler, const Scheduler::Step& step) {
  check_limits(scheduler, step);
  check_parts(scheduler, step);
  check_promises(scheduler);
  check_preempted(scheduler, step);
  check_gave_way(scheduler, step);
  check_order(scheduler, step);
  computed_.clear();
  for (const auto& sequence : scheduler.running_sequences()) computed_[name_of(*sequence)] = sequence->computed;
  for (const BatchPart& part : step.parts) computed_[name_of(*part.sequence)] += part.tokens;
}

void StepCheck::check_limits(const Scheduler& scheduler, const Scheduler::Step& step) const {
  std::size_t tokens = 0, rows = 0;
  for (const BatchPart& part : step.parts) {
    tokens += part.tokens + part.drafted;
    rows += part.logits == Logits::All ? part.tokens + part.drafted : part.logits == Logits::Last;
  }
  demand(tokens <= rules_.limits.max_tokens,
         fmt::format("a step of {} tokens, where {} are the most", tokens, rules_.limits.max_tokens));
  demand(rows <= rules_.limits.max_logit_rows, fmt::format("{} rows of logits", rows));
  demand(scheduler.running() <= rules_.limits.max_sequences, fmt::format("{} sequences run", scheduler.running()));
  const auto queued =
      std::ranges::count_if(scheduler.waiting_sequences(), [](const auto& s) { return !s->was_admitted(); });
  demand(static_cast<std::size_t>(queued) <= rules_.max_queued_sequences, fmt::format("{} sequences wait", queued));
}

void StepCheck::check_parts(const Scheduler& scheduler, const Scheduler::Step& step) const {
  std::map<const Sequence*, std::size_t> next;
  for (const BatchPart& part : step.parts) {
    demand(part.tokens > 0, "a part without tokens");
    const auto [place, is_first] = next.emplace(part.sequence, part.sequence->computed);
    demand(part.first_token == place->second, "tokens of a sequence are left out, or computed twice");
    place->second += part.tokens;
    demand(place->second <= part.sequence->tokens.size(), "tokens that are not there yet");
    demand(part.drafted == 0 || (part.sequence->is_stream() && part.logits == Logits::All), "a prompt with a draft");
    demand(part.drafted == 0 || part.sequence->tokens.size() + part.drafted < part.sequence->most_tokens,
           "a draft behind the end");
    demand(part.arithmetic != Arithmetic::Any || !rules_.limits.deterministic, "arithmetic that depends on the batch");
    const auto boundary =
        (part.sequence->prompt_tokens - 1) / cache_.layout().block_tokens * cache_.layout().block_tokens;
    demand(part.first_token >= boundary || part.arithmetic == Arithmetic::Prefill, "a prompt without its arithmetic");
    demand(!part.any_attention || part.arithmetic != Arithmetic::Decode, "bits that depend on how many are drafted");
    demand(!part.any_attention || (part.first_token >= boundary && !rules_.limits.deterministic),
           "a prompt whose attention depends on the batch");
    demand(!part.share || !rules_.limits.deterministic || place->second <= boundary,
           "what has arithmetic of its own is shared");
  }
  for (const auto& sequence : scheduler.running_sequences()) {
    if (!sequence->is_stream()) continue;
    const auto taken = next.find(sequence.get());
    demand(taken != next.end() || std::ranges::find(step.admitted, sequence.get()) != step.admitted.end(),
           "a stream is left out");
    if (taken != next.end()) demand(taken->second == sequence->computed + 1, "a stream takes several tokens");
  }
}

void StepCheck::check_promises(const Scheduler& scheduler) {
  std::size_t promised = 0;
  std::set<BlockId> held;
  for (const auto& sequence : scheduler.running_sequences()) {
    const auto table = sequence->lease.block_table();
    demand(table.size() <= blocks_of(*sequence), "a sequence has more blocks than it was promised");
    promised += blocks_of(*sequence) - table.size();
    held.insert(table.begin(), table.end());
  }
  const KvCacheStats stats = cache_.stats();
  demand(
      stats.promised_blocks == promised,
      fmt::format("{} blocks are promised, and the running ones may come to need {}", stats.promised_blocks, promised));
  demand(stats.promised_blocks <= stats.free_blocks + stats.cached_blocks, "more is promised than there is");
  demand(stats.leased_blocks >= held.size(), "a running sequence has blocks that count as free");
  others_before_ = std::exchange(others_, stats.leased_blocks - held.size());
  demand(others_ <= cache_.room().demoting_blocks, "blocks are held by nobody");
  if (rules_.quota_blocks == 0) return;
  std::map<std::string, std::set<BlockId>> blocks;
  std::map<std::string, std::size_t> still_promised;
  for (const auto& sequence : scheduler.running_sequences()) {
    const auto table = sequence->lease.block_table();
    blocks[sequence->request.cache_salt].insert(table.begin(), table.end());
    still_promised[sequence->request.cache_salt] += blocks_of(*sequence) - table.size();
  }
  for (const auto& [tenant, its] : blocks) {
    demand(its.size() + still_promised[tenant] <= rules_.quota_blocks, "a tenant is above its quota");
  }
}

void StepCheck::check_preempted(const Scheduler& scheduler, const Scheduler::Step& step) const {
  const auto came_back = [&](const Sequence* sequence) {
    return std::ranges::find(step.admitted, sequence) != step.admitted.end();
  };
  for (const Sequence* preempted : step.preempted) {
    const auto comes_before = [&](const auto& other) {
      return other->request.priority > preempted->request.priority && other->rank_s < preempted->rank_s;
    };
    demand(std::ranges::any_of(scheduler.running_sequences(), comes_before) ||
               std::ranges::any_of(scheduler.waiting_sequences(), comes_before),
           "a sequence gave its place to nobody who comes before it");
    if (came_back(preempted)) {
      // Others gave way after it, for others, or what it lacked was computed by another meanwhile.
      const auto before = computed_.find(name_of(*preempted));
      const bool found_more = before != computed_.end() && preempted->lease.matched_tokens() > before->second;
      demand(found_more || std::ranges::count_if(step.admitted, comes_before) > 1,
             "a sequence gave its place to itself");
      continue;
    }
    demand(preempted->lease.block_table().empty(), "a preempted sequence keeps blocks");
    if (cache_.room().demoting_blocks > 0) continue;
    // Making room for a second one may have left room for it, behind others in the queue.
    if (cache_.missing_blocks(preempted->expected, preempted->most_tokens, {}) == 0) continue;
    // Those of lower priority that still run would not have given enough in its stead.
    for (const auto& other : scheduler.running_sequences()) {
      if (other->request.priority >= preempted->request.priority || other->rank_s <= preempted->rank_s) continue;
      if (came_back(other.get())) continue;
      const Lease* lease = &other->lease;
      demand(cache_.missing_blocks(preempted->expected, preempted->most_tokens, {&lease, 1}) > 0,
             "one of higher priority was preempted");
    }
  }
}

void StepCheck::check_gave_way(const Scheduler& scheduler, const Scheduler::Step& step) {
  std::set<Name> waiting;
  for (const auto& sequence : scheduler.waiting_sequences()) {
    if (!sequence->held_by_quota) waiting.insert(name_of(*sequence));
  }
  const auto waits = [&](const Name& name) { return waiting.contains(name); };
  // Who has come, or has gone, needs its room no more.
  std::erase_if(gave_way_, [&](const auto& entry) { return !std::ranges::all_of(entry.second, waits); });
  for (const Sequence* admitted : step.admitted) {
    demand(!gave_way_.contains(name_of(*admitted)), "who gave its place goes on before the one who needed it");
  }
  std::erase_if(gave_way_, [&](const auto& entry) { return !waits(entry.first); });

  for (const Sequence* preempted : step.preempted) {
    const auto comes_before = [&](const Sequence* other) {
      return other->request.priority > preempted->request.priority && other->rank_s < preempted->rank_s;
    };
    if (std::ranges::any_of(step.admitted, comes_before)) continue;
    demand(cache_.room().demoting_blocks > 0, "a sequence gave its place, and nobody has it");
    std::vector<Name>& before = gave_way_[name_of(*preempted)];
    before.clear();
    for (const auto& sequence : scheduler.waiting_sequences()) {
      if (comes_before(sequence.get()) && waits(name_of(*sequence))) before.push_back(name_of(*sequence));
    }
  }
}

void StepCheck::check_order(const Scheduler& scheduler, const Scheduler::Step& step) {
  // What each tenant had at most at any moment of the step, and what moves to or from tiers might be anybody's.
  std::map<std::string, std::size_t> tenant_blocks;
  for (const auto& sequence : scheduler.running_sequences()) {
    tenant_blocks[sequence->request.cache_salt] += blocks_of(*sequence);
  }
  for (const Sequence* preempted : step.preempted) {
    tenant_blocks[preempted->request.cache_salt] += blocks_of(*preempted);
  }
  const std::size_t moving = std::max(others_, others_before_);
  // Of the tenants, who wait for their quotas: from one that does not fit on.
  std::set<std::string> at_quota;
  double rank_s = -1e300;
  const Sequence* first = nullptr;
  for (const auto& waiting : scheduler.waiting_sequences()) {
    demand(waiting->rank_s >= rank_s, "the queue is out of order");
    rank_s = waiting->rank_s;
    const std::string& tenant = waiting->request.cache_salt;
    if (rules_.quota_blocks > 0 && tenant_blocks[tenant] + moving + blocks_of(*waiting) > rules_.quota_blocks) {
      at_quota.insert(tenant);
    }
    if (waiting->held_by_quota) {
      ++held_;
      demand(at_quota.contains(tenant), "held though its tenant has room");
    }
    if (waiting->waits_for_choice() || waiting->expected.in_flight()) continue;
    if (first == nullptr && !waiting->held_by_quota) first = waiting.get();
    for (const Sequence* admitted : step.admitted) {
      if (admitted->rank_s <= waiting->rank_s) continue;
      if (at_quota.contains(tenant) && admitted->request.cache_salt != tenant) continue;
      // What it waited for may have been computed by one that gave its place in this step.
      if (!step.preempted.empty() && !ready_.contains(name_of(*waiting))) continue;
      demand(rules_.passes_by_prefix && admitted->request.priority == waiting->request.priority,
             "a request passes one that comes before it");
      ++overtakings_;
      if (waiting.get() == first_ && waiting.get() == first) {
        demand(++passed_[first] <= kMostOvertaken, "a request is passed again and again");
      }
    }
  }
  if (first != first_) passed_.clear();
  first_ = first;
  ready_.clear();
  for (const auto& waiting : scheduler.waiting_sequences()) {
    if (!waiting->expected.in_flight()) ready_.insert(name_of(*waiting));
  }
}

}  // namespace tiercel::sim
