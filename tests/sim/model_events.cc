// What the cache tells its eviction policy, held against what the model expects, and whether a block was free to go.
#include <algorithm>
#include <utility>

#include "tests/sim/model.h"

namespace tiercel::sim {

void Model::begin_call(Call::Kind kind, std::size_t scope, std::size_t takes) {
  call = {.kind = kind, .takes = takes, .tenant = scope_of(scope).salt};
  expected_inserts_.clear();
  const std::vector<std::uint32_t> counts = references();
  for (BlockId block = 0; block < counts.size(); ++block) {
    call.free_before += counts[block] == 0 && !is_cached(block);
  }
  call.tenant_blocks_before = tenant_blocks(call.tenant);
}

void Model::end_call(bool failed) {
  if (call.kind == Call::Kind::Load) return;  // resolve_load()
  judge_companions();
  if (!expected_inserts_.empty()) violate("a block that became full did not enter the index");
  const std::size_t uses = failed ? 0 : call.expected_uses.size() + call.copies;
  if (call.uses != uses) violate(std::to_string(call.uses) + " uses were told, not " + std::to_string(uses));
  if (failed && call.nodes_removed + call.companions_removed > 0) violate("a call that failed evicted blocks");
  for (const Text& path : call.forgets) {
    if (nodes.contains(path)) violate("what was to be forgotten is still there");
  }
  if (call.policy_lied) tally_.add(Seen::PolicyLied);
}

void Model::on_insert(BlockId block, const BlockOrigin& origin) {
  if (call.kind == Call::Kind::Ignored) return;
  if (call.kind == Call::Kind::Load) return call.loaded.emplace_back(block, origin), void();
  if (expected_inserts_.empty()) return violate("a block entered the index that should not");
  const ExpectedInsert expected = expected_inserts_.front();
  expected_inserts_.erase(expected_inserts_.begin());
  if (block != expected.block) return violate("another block entered the index than the one that became full");
  if (origin.parent != expected.origin.parent) violate("BlockOrigin::parent is not the block before");
  if (origin.starts_segment != expected.origin.starts_segment) violate("BlockOrigin::starts_segment is wrong");
  if (origin.segment_blocks != expected.origin.segment_blocks) violate("BlockOrigin::segment_blocks is wrong");
  const auto [known, first] = contents_.emplace(std::pair(expected.path, expected.group), origin.content);
  if (!first && known->second != origin.content) violate("a block came back with other BlockOrigin::content");
}

void Model::on_use(BlockId block) {
  if (call.kind == Call::Kind::Ignored) return;
  if (call.kind == Call::Kind::Load) return;  // what it brought
  if (!is_cached(block)) return violate("a block was used that is not cached");
  const std::size_t nth = call.uses++;
  if (nth < call.expected_uses.size()) {
    const auto due = call.expected_uses.begin() + static_cast<std::ptrdiff_t>(nth);
    const auto found = std::find_if(due, call.expected_uses.end(), [&](const Use& use) { return use.block == block; });
    if (found == call.expected_uses.end()) return violate("a block was used that nobody had");
    // Pins end in an order of their own, and so may the blocks of a window.
    if (found != due && !call.ends_pins && groups() == 1) violate("blocks were not used deepest first");
    std::swap(*found, *due);
    return cached_block(block).use(*due, now_ms);
  }
  if (!call.copies || nth > call.expected_uses.size()) return violate("a use too many was told");
  if (!call.copy_sources.contains(block)) return violate("leading tokens were copied from a wrong block");
  call.copied_from = block;
  call.copied_words = places_[block].node->second.words;
  cached_block(block).use({.block = block, .retention = call.copy_retention}, now_ms);
}

void Model::on_remove(BlockId block) {
  if (call.kind == Call::Kind::Ignored) return;
  if (!is_cached(block)) return violate("a block left the index that was not in it");
  const auto [cached, node, group] = places_[block];
  const std::vector<std::uint32_t> counts = references();
  if (call.kind == Call::Kind::Quiet) violate("a block left the index without need");
  if (call.kind == Call::Kind::Forget && !call.forgets.contains(node->first)) {
    violate("a block was forgotten that should not be");
  }
  if (group == 0 && has_child(node->first)) violate("a block left the index before one behind it");
  if (call.kind == Call::Kind::Take) {
    if (counts[block] > 0) violate("a held block was evicted");
    if (!call.unjudged.empty() && call.unjudged.front().first != node->first) judge_companions();
    std::string verdict = verdict_on(block, counts);
    if (group == 0) {
      call.unjudged.clear();  // they went with their node
      if (!verdict.empty()) violate(std::move(verdict));
    } else {
      call.unjudged.emplace_back(node->first, std::move(verdict));
    }
    ++call.freed;
    call.tenant_freed += tenants_[block] == call.tenant;
    ++(group == 0 ? call.nodes_removed : call.companions_removed);
  }
  if (call.kind == Call::Kind::Load) {
    if (counts[block] > 0) violate("a held block was evicted for a load");
    ++call.nodes_removed;
  }
  wasted_blocks += loaded_unused_.erase(block);
  places_[block].cached = false;
  node->second.blocks[group] = {};
  if (group > 0) return;
  for (const CachedBlock& companion : node->second.blocks) {
    if (companion.block != kNoBlock) violate("a window's block outlived the block it goes with");
  }
  nodes.erase(node);
}

void Model::judge_companions() {
  for (auto& [path, verdict] : std::exchange(call.unjudged, {})) {
    tally_.add(Seen::CompanionEvicted);
    if (!verdict.empty()) violate(std::move(verdict));
  }
}

// What was wrong with evicting `block` now; empty where nothing was.
std::string Model::verdict_on(BlockId block, const std::vector<std::uint32_t>& counts) {
  const auto& [cached, node, group] = places_[block];
  if (counts[block] > 0) return {};  // said already
  const CachedBlock& victim = cached_block(block);
  if (victim.is_over(now_ms)) {
    ++call.expired_removed;
    return {};  // any time
  }
  // What its own companions freed a moment ago was freed for the same need.
  const std::size_t with_it = group == 0 ? call.unjudged.size() : 0;
  const bool own = tenants_[block] == call.tenant;
  // A tenant at its quota evicts its own, wished for or not.
  const std::size_t quota = quota_of(call.tenant);
  const std::size_t least_had = call.tenant_blocks_before - (call.tenant_freed - (own ? with_it : 0));
  if (quota != SIZE_MAX) {
    if (own && least_had + call.takes - 1 >= quota) {
      tally_.add(Seen::QuotaEviction);
      return {};
    }
    if (!own && least_had >= quota) {
      bool own_left = false;
      for_each_evictable([&](const Text&, std::size_t, const CachedBlock& other) {
        own_left = own_left || tenants_[other.block] == call.tenant;
      });
      if (own_left) return "a tenant at its quota evicted another's block";
    }
  }
  if (call.free_before + call.freed - with_it >= call.takes) return "a block was evicted while others were free";
  if (victim.may_be_low) return {};

  const int rank = rank_of(victim.priority, is_expected(node->first));
  std::array<bool, 4> there{};
  for_each_evictable([&](const Text& path, std::size_t, const CachedBlock& other) {
    if (other.may_be_low) return;
    there[static_cast<std::size_t>(rank_of(other.priority, is_expected(path)))] = true;
  });
  if (rank > 0 && there[0]) return "a block of Low priority was there to go first";
  if (!call.policy_lied && rank > 1 && there[1]) return "a block of Normal priority was there to go first";
  if (!call.policy_lied && rank > 2 && there[2]) return "a block that no prompt waits for was there to go first";
  if (rank == 0 && (there[1] || there[2])) tally_.add(Seen::LowFirst);
  if (rank < 2 && there[2]) tally_.add(Seen::HighSpared);
  if (rank < 3 && there[3]) tally_.add(Seen::ExpectedSpared);
  if (rank == 2) tally_.add(Seen::HighEvicted);
  if (rank == 3) tally_.add(Seen::ExpectedEvicted);
  return {};
}

}  // namespace tiercel::sim
