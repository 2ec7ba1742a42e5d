// What tiers may give back, and what they must not.
//
// Each computing of a block leaves bytes that no other one leaves, so what was forgotten is told from what was computed
// again since.
#include <algorithm>
#include <utility>

#include "tests/kv/kv_pattern.h"
#include "tests/sim/model.h"

namespace tiercel::sim {

std::uint64_t Model::next_word(std::uint64_t word, char token) const {
  word = mix(word, static_cast<std::uint64_t>(token) + 1000);
  return shape.tiers ? mix(mix(word, commits_), model_number_) : word;
}

void Model::note_copy(Sequence& sequence) {
  const std::size_t first = sequence.matched_blocks * shape.block_tokens;
  for (std::size_t i = first; i < sequence.words.size(); ++i) sequence.words[i] = call.copied_words[i - first];
}

void Model::forget_computed(const std::function<bool(const Text& path)>& condition, bool with_all_behind) {
  ComputedBlocks& behind = forgotten_behind_[model_number_];
  if (!with_all_behind) std::erase_if(behind, [&](const auto& block) { return condition(block.first); });
  for (auto block = computed().begin(); block != computed().end();) {
    const auto next = std::next(block);
    if (condition(block->first)) {
      for (ComputedBlocks* blocks :
           {&forgotten(), &ever_forgotten_[model_number_], with_all_behind ? &behind : nullptr}) {
        if (blocks == nullptr) continue;
        auto& all = (*blocks)[block->first];
        all.insert(all.end(), block->second.begin(), block->second.end());
      }
      computed().erase(block);
    }
    block = next;
  }
}

bool Model::may_be_given(const Text& path, const std::function<bool(const Computed&)>& matches) const {
  const auto known = computed_[model_number_].find(path);
  return known != computed_[model_number_].end() && std::ranges::any_of(known->second, matches);
}

// A tier may give a block for another one of the same scope whose own tokens are the same and whose keys are, and that
// of the block before. With real keys that is the block itself. With keys that collide it may also be one that was
// forgotten with its prefix: where another content took the prefix's place in the tier, what is behind is not found
// when it is erased (docs/disk_format.md).
std::size_t Model::resolve_load(const IsFound& is_found, const Holds& holds, const KeyOf& key_of, bool keys_collide) {
  std::vector<const ComputedBlocks*> sources = {&computed()};
  if (keys_collide) sources.push_back(&forgotten_behind_[model_number_]);
  for (const auto& [block, origin] : call.loaded) {
    if (is_cached(block) || references()[block] > 0) violate("a block was loaded over another");
    std::vector<Text> parents;
    if (origin.parent != kNoBlock) parents.push_back(places_[origin.parent].node->first);
    for (std::size_t scope = 0; origin.parent == kNoBlock && scope < kScopes; ++scope) {
      parents.push_back(path_of(scope, {}, 0));
    }
    Text arrived;
    const Computed* given = nullptr;
    bool is_there = false;
    for (const ComputedBlocks* source : sources) {
      for (const auto& [path, all] : *source) {
        const Text before = path.substr(0, path.size() - shape.block_tokens);
        for (const Text& parent : parents) {
          const Text candidate = parent + path.substr(before.size());
          const bool may_stand_for_it =
              parent == before || (keys_collide && parent[0] == before[0] && key_of(parent) == key_of(before));
          if (given != nullptr || !may_stand_for_it || nodes.contains(candidate) || !is_found(candidate)) continue;
          is_there = true;
          const auto one = std::ranges::find_if(all, [&](const Computed& each) { return holds(block, each.words); });
          if (one == all.end()) continue;
          arrived = candidate;
          given = &*one;
        }
      }
    }
    if (given == nullptr) {
      violate(!is_there ? "a tier gave a block that was never computed, or is forgotten"
                        : "a tier gave bytes that are not those of the tokens, or are forgotten");
      break;
    }
    const CachedBlock loaded{.block = block, .expires_ms = CachedBlock::kForever, .may_be_low = true};
    Node node{.blocks = {loaded}, .words = given->words, .copyable = given->copyable};
    places_[block] = {.cached = true, .node = nodes.emplace(arrived, std::move(node)).first};
    loaded_unused_.insert(block);
  }
  loaded_blocks += call.loaded.size();
  return call.loaded.size();
}

std::size_t Model::use_loaded(const std::vector<BlockId>& blocks, std::size_t tokens_each) {
  std::size_t used = 0;
  for (const BlockId block : blocks) used += loaded_unused_.erase(block);
  useful_blocks += used;
  return used * tokens_each;
}

void Model::restart(std::size_t model_number, bool damaged) {
  for (std::size_t number = 0; number < kModels; ++number) {
    if (damaged) forgotten_before_damage_[number] = ever_forgotten_[number];
    for (const ComputedBlocks* blocks : {&forgotten_[number], &forgotten_before_damage_[number]}) {
      for (const auto& [path, bytes] : *blocks) {
        auto& all = computed_[number][path];
        all.insert(all.end(), bytes.begin(), bytes.end());
      }
    }
    forgotten_[number].clear();
  }
  model_number_ = model_number;
  nodes.clear();
  sequences.clear();
  pins.clear();
  expectations.clear();
  places_.assign(places_.size(), {});
  epochs_.clear();
  contents_.clear();
  loaded_unused_.clear();
  loaded_blocks = useful_blocks = wasted_blocks = 0;
  violation.clear();
}

}  // namespace tiercel::sim
