// What must be so after every step of a history, and at its end.
#include <algorithm>
#include <utility>

#include "tests/kv/kv_pattern.h"
#include "tests/sim/simulator.h"

namespace tiercel::sim {

void demand(bool condition, const char* what) {
  if (!condition) throw Violation(what);
}

void demand_equal(std::uint64_t actual, std::uint64_t expected, const char* what) {
  if (actual == expected) return;
  throw Violation(std::string(what) + ": " + std::to_string(actual) + ", not " + std::to_string(expected));
}

void demand_code(const Status& actual, StatusCode expected, const char* what) {
  if (actual.code() == expected) return;
  throw Violation(std::string(what) + ": " + actual.to_string() + ", not " + std::string(to_string(expected)));
}

void Simulator::check_end_of_call(bool failed) {
  tally_.add(Seen::Fault, fault_fired_);
  model_.end_call(failed);
  if (!model_.violation.empty()) throw Violation(model_.violation);
  // A node and its window blocks go as one; a window block that goes by itself counts as one.
  counted_.evicted_blocks += model_.call.nodes_removed;
}

// The blocks that the lease took are free ones; all others are those of the model.
void Simulator::check_new_blocks(std::size_t index) {
  Sequence& sequence = *model_.sequences[index];
  for (std::size_t group = 0; group < model_.groups(); ++group) {
    const auto table = leases_[index].block_table(group);
    for (std::size_t i = sequence.tables[group].size(); i < table.size(); ++i) {
      model_.take(sequence, group, table[i]);
      if (!model_.violation.empty()) throw Violation(model_.violation);
    }
    demand(std::ranges::equal(table, sequence.tables[group]), "a block table is not the model's");
  }
}

void Simulator::check() {
  if (policy_ != nullptr) policy_->set_honest(true);
  const std::string wrong = state().audit();
  if (!wrong.empty()) throw Violation("audit: " + wrong);
  check_references();
  check_statistics();
  check_expectations();
  check_evictable();
  if (tiers_) check_tiers();
  if (policy_ != nullptr) policy_->set_honest(false);
  if (cache_ && stepped_ % 4 == 0) verify_cached_bytes();
}

void Simulator::check_references() {
  const std::vector<std::uint32_t> counts = state().references();
  const std::vector<std::uint32_t> expected = model_.references();
  for (BlockId block = 0; block < counts.size(); ++block) {
    demand_equal(counts[block], expected[block], "references of a block");
  }
  demand_equal(state().roots(), model_.roots(), "roots");
  for (std::size_t scope = 0; model_.shape.quotas && scope < kScopes; ++scope) {
    const std::string& salt = scope_of(scope).salt;
    demand_equal(state().tenant_blocks(salt), model_.tenant_blocks(salt), "a tenant's blocks");
  }
}

void Simulator::check_statistics() {
  const KvCacheStats stats = state().stats();
  const std::vector<std::uint32_t> counts = model_.references();
  const auto leased = static_cast<std::size_t>(std::ranges::count_if(counts, [](auto count) { return count > 0; }));
  demand_equal(stats.capacity_blocks, model_.shape.capacity_blocks, "capacity_blocks");
  demand_equal(stats.leased_blocks, leased, "leased_blocks");
  demand_equal(stats.cached_blocks, model_.cached_unheld(), "cached_blocks");
  demand_equal(stats.free_blocks, model_.shape.capacity_blocks - leased - model_.cached_unheld(), "free_blocks");
  demand_equal(stats.promised_blocks, model_.promised(), "promised_blocks");
  demand(stats.promised_blocks <= stats.free_blocks + stats.cached_blocks, "more is promised than free or cached");
  demand_equal(stats.pinned_blocks, model_.pinned().size(), "pinned_blocks");
  demand_equal(stats.admitted, counted_.admitted, "admitted");
  demand_equal(stats.prompt_tokens, counted_.prompt_tokens, "prompt_tokens");
  demand_equal(stats.matched_tokens, counted_.matched_tokens, "matched_tokens");
  demand_equal(stats.copied_tokens, counted_.copied_tokens, "copied_tokens");
  const std::uint64_t gone = stats.evicted_blocks + stats.expired_blocks;
  if (model_.groups() == 1) {
    demand_equal(gone, counted_.evicted_blocks, "evicted_blocks and expired_blocks");
  } else {
    demand(gone >= counted_.evicted_blocks, "fewer evictions are counted than blocks went");
  }
}

// The policy knows all that may go but what is wished for: Low ones go without its word, others may be set aside.
void Simulator::check_evictable() {
  std::vector<bool> evictable(model_.shape.capacity_blocks);
  model_.for_each_evictable([&](const Text& path, std::size_t, const CachedBlock& block) {
    evictable[block.block] = true;
    if (block.priority != RetentionPriority::Normal || block.may_be_low || model_.is_expected(path)) return;
    demand(policy_->is_evictable(block.block), "the policy does not know that a block is evictable");
  });
  for (BlockId block = 0; block < evictable.size(); ++block) {
    demand(evictable[block] || !policy_->is_evictable(block), "the policy may evict what must stay");
  }
}

void Simulator::check_expectations() {
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    Expectation& expectation = model_.expectations[i];
    const std::size_t cached = waiting_[i].handle.cached_tokens();
    const std::size_t in_tree = model_.tree_tokens(expectation.scope, expectation.tokens);
    const std::size_t live = model_.match(expectation.scope, expectation.tokens, SIZE_MAX, false).tokens;
    demand(cached <= in_tree, "a waiting prompt is told of blocks that are not there");
    demand(cached >= live, "a waiting prompt is not told of blocks that are there");
    tally_.add(Seen::Arrival, cached > expectation.cached_tokens);
    expectation.cached_tokens = cached;
    const Model::Flight expected = model_.in_flight(expectation);
    const bool in_flight = waiting_[i].handle.in_flight();
    const bool may_be_loading = tiers_ && in_flight;
    if (expected != Model::Flight::Maybe && !may_be_loading) {
      demand_equal(in_flight, expected == Model::Flight::Yes, "in_flight()");
    }
    tally_.add(Seen::InFlight, in_flight);
  }
}

void Simulator::verify_bytes(const Sequence& sequence) const {
  if (!cache_) return;
  for (std::size_t group = 0; group < sequence.tables.size(); ++group) {
    for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
      if (sequence.tables[group][i / model_.shape.block_tokens] == kNoBlock) continue;
      demand(holds_kv(*cache_, sequence.tables[group], i, mix(sequence.words[i], group)),
             "the bytes of a lease's block are not those of its tokens");
    }
  }
}

void Simulator::verify_cached_bytes() const {
  for (const auto& [path, node] : model_.nodes) {
    for (std::size_t group = 0; group < node.blocks.size(); ++group) {
      const BlockId block = node.blocks[group].block;
      if (block == kNoBlock) continue;
      for (std::size_t i = 0; i < node.words.size(); ++i) {
        demand(holds_kv(*cache_, {&block, 1}, i, mix(node.words[i], group)),
               "the bytes of a cached block are not those of its tokens");
      }
    }
  }
}

// Writes junk wherever the lease may write: were a block shared by mistake, somebody's bytes would go wrong.
void Simulator::scribble(const Sequence& sequence) {
  for (const std::vector<BlockId>& table : sequence.tables) {
    for (std::size_t i = sequence.tokens.size(); i < table.size() * model_.shape.block_tokens; ++i) {
      write_kv(*cache_, table, i, random_());
    }
  }
}

void Simulator::finish() {
  if (tiers_) {
    tiers_->end_faults();
    drain();
  }
  if (!leases_.empty() && one_in(8)) return outlive_cache();
  for (const auto& sequence : model_.sequences) verify_bytes(*sequence);
  verify_cached_bytes();
  while (!leases_.empty() || !waiting_.empty() || !model_.pins.empty()) {
    ++stepped_;
    end_something();
    check();
  }
  for (const std::uint32_t count : state().references()) demand_equal(count, 0, "references at the end");
  demand_equal(state().stats().promised_blocks, 0, "promised_blocks at the end");
  tally_.add(Seen::Collision, state().stats().compare_mismatches);
  tally_.add(Seen::Eviction, state().stats().evicted_blocks);
  tally_.add(Seen::ExpiredGivenBack, state().stats().expired_blocks);
  trace_.push_back(state().stats().evicted_blocks);
  empty_cache();
}

// Leases, waiting prompts and pins end in any order.
void Simulator::end_something() {
  const std::uint64_t dice = below(leases_.size() + waiting_.size() + model_.pins.size());
  if (dice < leases_.size()) return release();
  if (dice < leases_.size() + waiting_.size()) return drop_expectation();
  const Text path = std::next(model_.pins.begin(), static_cast<std::ptrdiff_t>(below(model_.pins.size())))->first;
  const auto scope = static_cast<std::size_t>(path[0] - 'A');
  const Tokens tokens = to_tokens(path.substr(1));
  model_.begin_call(one_in(4) ? Call::Kind::Forget : Call::Kind::Quiet, scope);
  if (model_.call.kind == Call::Kind::Forget) {
    const std::size_t expected = model_.forget(scope, path.substr(1));
    demand_equal(cache_->invalidate(tokens, scope_of(scope)), expected, "the blocks forgotten at the end");
  } else {
    const std::size_t expected = model_.end_pins_on(scope, path.substr(1));
    demand_equal(cache_->unpin(tokens, scope_of(scope)), expected, "the pins ended at the end");
  }
  check_end_of_call();
}

// Leases and waiting prompts work on, and give everything back, when the KvCache is gone.
void Simulator::outlive_cache() {
  tally_.add(Seen::OutlivedCache);
  model_.begin_call(Call::Kind::Quiet);
  cache_.reset();
  while (leases_.size() + waiting_.size() > 1) {
    ++stepped_;
    const bool lease = waiting_.empty() || (!leases_.empty() && one_in(2));
    lease ? release() : drop_expectation();
    check();
  }
  leases_.clear();
  waiting_.clear();
}

// Whatever is cached can be had again, to the last block.
void Simulator::empty_cache() {
  const std::size_t capacity = model_.shape.capacity_blocks;
  if (model_.shape.quotas) {
    demand_code(cache_->set_tenant_quota("", capacity * stride()), StatusCode::Ok, "set_tenant_quota() at the end");
    model_.quotas[""] = capacity;
  }
  if (one_in(2)) {
    const std::size_t blocks = capacity / model_.groups();
    const std::size_t tokens = blocks * model_.shape.block_tokens;
    model_.begin_call(Call::Kind::Quiet);
    auto all = cache_->admit({}, {.max_tokens = tokens});
    demand_code(all.status(), StatusCode::Ok, "admit() of the whole cache");
    Match nothing;
    model_.begin_sequence(0, nothing, {}, {.max_tokens = tokens});
    leases_.push_back(*std::move(all));
    ++counted_.admitted;
    check_end_of_call();
    grow(0, tokens);
    check();
    demand(model_.groups() > 1 || model_.nodes.empty(), "blocks are cached beside a lease of the whole cache");
    release();
    check();
  }
  model_.begin_call(Call::Kind::Forget);
  const std::size_t expected = model_.forget_all();
  demand_equal(cache_->invalidate_all(), expected, "the blocks forgotten by invalidate_all()");
  check_end_of_call();
  check();
  demand_equal(state().stats().free_blocks, capacity, "free blocks at the end");
  demand_equal(state().roots(), 0, "roots at the end");
}

}  // namespace tiercel::sim
