#include "tests/sim/model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "tests/kv/kv_pattern.h"

namespace tiercel::sim {
namespace {

bool begins_with(const Text& text, std::string_view start) { return std::string_view(text).starts_with(start); }

}  // namespace

const Scope& scope_of(std::size_t index) {
  // Salts longer than what a std::string keeps within itself: to copy one needs memory, and that may fail.
  static const Scope scopes[kScopes] = {{"", 0},
                                        {"", 7},
                                        {"a tenant with a long name", 0},
                                        {"a tenant with a long name", 7},
                                        {"another tenant of a longer name", 0}};
  return scopes[index];
}

void CachedBlock::use(const Use& use, std::uint64_t now_ms) {
  priority = std::max(priority, use.retention.priority);
  may_be_low = may_be_low && use.retention.priority == RetentionPriority::Low;
  if (use.keeps_time) return;
  const std::uint64_t ttl_ms = use.retention.ttl_ms;
  const std::uint64_t end = ttl_ms == 0 || ttl_ms > kForever - now_ms ? kForever : now_ms + ttl_ms;
  expires_ms = std::max(expires_ms, end);
}

Model::Model(const Shape& of_cache, Tally& tally)
    : shape(of_cache), tally_(tally), places_(of_cache.capacity_blocks), tenants_(of_cache.capacity_blocks) {}

void Model::violate(std::string what) {
  if (violation.empty()) violation = std::move(what);
}

// ---- What is there

std::size_t Model::first_block_in_reach(std::size_t group, std::size_t tokens) const {
  if (group == 0) return 0;
  const std::size_t behind = shape.windows[group - 1] - 1;
  return tokens <= behind ? 0 : (tokens - behind) / shape.block_tokens;
}

Text Model::path_of(std::size_t scope, const Text& tokens, std::size_t blocks) const {
  Text path(1, static_cast<char>('A' + scope));
  path.append(tokens, 0, blocks * shape.block_tokens);
  return path;
}

std::vector<std::uint32_t> Model::references() const {
  std::vector<std::uint32_t> counts(shape.capacity_blocks);
  for (const auto& sequence : sequences) {
    for (const std::vector<BlockId>& table : sequence->tables) {
      for (const BlockId block : table) {
        if (block != kNoBlock) ++counts[block];
      }
    }
  }
  for (const auto& [path, pin] : pins) {
    for (const BlockId block : pin.blocks) ++counts[block];
  }
  return counts;
}

std::size_t Model::promised() const {
  std::size_t sum = 0;
  for (const auto& sequence : sequences) {
    sum += groups() * (blocks_for(sequence->max_tokens) - sequence->tables[0].size());
  }
  return sum;
}

std::size_t Model::cached_unheld() const {
  const std::vector<std::uint32_t> counts = references();
  std::size_t cached = 0;
  for (BlockId block = 0; block < counts.size(); ++block) cached += is_cached(block) && counts[block] == 0;
  return cached;
}

std::set<BlockId> Model::pinned() const {
  std::set<BlockId> blocks;
  for (const auto& [path, pin] : pins) blocks.insert(pin.blocks.begin(), pin.blocks.end());
  return blocks;
}

std::size_t Model::roots() const {
  if (!shape.prefix_reuse) return 0;
  std::set<std::size_t> scopes;
  for (const auto& sequence : sequences) scopes.insert(sequence->scope);
  for (const Expectation& expectation : expectations) scopes.insert(expectation.scope);
  for (const auto& [path, node] : nodes) scopes.insert(static_cast<std::size_t>(path[0] - 'A'));
  return scopes.size();
}

std::size_t Model::quota_of(std::string_view salt) const {
  if (!shape.quotas) return SIZE_MAX;
  const auto own = quotas.find(salt);
  if (own != quotas.end()) return own->second;
  return shape.default_quota_blocks == 0 ? SIZE_MAX : shape.default_quota_blocks;
}

std::size_t Model::tenant_blocks(std::string_view salt) const {
  if (!shape.quotas) return 0;
  const std::vector<std::uint32_t> counts = references();
  std::size_t blocks = 0;
  for (BlockId block = 0; block < counts.size(); ++block) {
    blocks += (counts[block] > 0 || is_cached(block)) && tenants_[block] == salt;
  }
  return blocks;
}

bool Model::has_child(const Text& path) const {
  const auto next = nodes.upper_bound(path);  // what begins with the path sorts right behind it
  return next != nodes.end() && begins_with(next->first, path);
}

bool Model::is_expected(const Text& path) const {
  return std::ranges::any_of(expectations, [&](const Expectation& each) {
    return path.size() - 1 <= each.cached_tokens &&
           begins_with(path_of(each.scope, each.tokens, each.tokens.size() / shape.block_tokens), path);
  });
}

bool Model::is_expired(const CachedBlock& block, const std::vector<std::uint32_t>& counts) const {
  return counts[block.block] == 0 && block.is_over(now_ms);  // what is held is in use
}

// ---- What the cache should say

Match Model::match(std::size_t scope, const Text& prompt, std::size_t most_tokens, bool partial_blocks) const {
  Match found;
  if (!shape.prefix_reuse) return found;
  const std::vector<std::uint32_t> counts = references();
  const std::size_t limit = std::min(prompt.size(), most_tokens);
  while ((found.path.size() + 1) * shape.block_tokens <= limit) {
    const auto node = nodes.find(path_of(scope, prompt, found.path.size() + 1));
    if (node == nodes.end()) break;
    if (is_expired(node->second.blocks[0], counts)) {
      tally_.add(Seen::TimeOver);
      break;
    }
    found.path.push_back(node);
  }
  // Valid is a boundary that every group can go on from.
  const auto valid = [&](std::size_t blocks) {
    for (std::size_t group = 1; group < groups(); ++group) {
      for (std::size_t i = first_block_in_reach(group, blocks * shape.block_tokens); i < blocks; ++i) {
        const CachedBlock& block = found.path[i]->second.blocks[group];
        if (block.block == kNoBlock || is_expired(block, counts)) return false;
      }
    }
    return true;
  };
  while (!valid(found.path.size())) {
    found.path.pop_back();
    if (valid(found.path.size())) tally_.add(Seen::HitCutByWindow);
  }
  const std::size_t whole = found.tokens = found.path.size() * shape.block_tokens;
  if (!partial_blocks || groups() > 1) return found;
  const Text parent = path_of(scope, prompt, found.path.size());
  for (const auto& [path, node] : nodes) {
    if (path.size() != parent.size() + shape.block_tokens || !begins_with(path, parent)) continue;
    if (!node.copyable || is_expired(node.blocks[0], counts)) continue;
    std::size_t common = whole;
    while (common < std::min(limit, path.size() - 1) && path[common + 1] == prompt[common]) ++common;
    if (common <= whole || common < found.tokens) continue;
    if (common > found.tokens) found.sources.clear();
    found.tokens = common;
    found.sources.insert(node.blocks[0].block);
  }
  return found;
}

std::size_t Model::tree_tokens(std::size_t scope, const Text& prompt) const {
  std::size_t blocks = 0;
  while ((blocks + 1) * shape.block_tokens <= prompt.size() && nodes.contains(path_of(scope, prompt, blocks + 1))) {
    ++blocks;
  }
  return blocks * shape.block_tokens;
}

std::vector<BlockId> Model::blocks_in_reach(const std::vector<Nodes::const_iterator>& path) const {
  std::vector<BlockId> blocks;
  for (std::size_t group = 0; group < groups(); ++group) {
    for (std::size_t i = first_block_in_reach(group, path.size() * shape.block_tokens); i < path.size(); ++i) {
      blocks.push_back(path[i]->second.blocks[group].block);
    }
  }
  return blocks;
}

std::size_t Model::newly_held(const std::vector<BlockId>& blocks) const {
  const std::vector<std::uint32_t> counts = references();
  return static_cast<std::size_t>(std::ranges::count_if(blocks, [&](BlockId block) { return counts[block] == 0; }));
}

StatusCode Model::admission(std::size_t scope, std::size_t total_blocks, std::size_t new_blocks,
                            std::size_t newly_held) const {
  const std::string& salt = scope_of(scope).salt;
  const std::size_t wanted = new_blocks + newly_held;
  if (total_blocks * groups() > shape.capacity_blocks) return StatusCode::ResourceExhausted;
  const std::vector<std::uint32_t> counts = references();
  std::size_t held = 0, held_by_tenant = 0, promised_to_tenant = 0;
  for (BlockId block = 0; block < counts.size(); ++block) {
    held += counts[block] > 0;
    held_by_tenant += counts[block] > 0 && tenants_[block] == salt;
  }
  for (const auto& sequence : sequences) {
    if (scope_of(sequence->scope).salt != salt) continue;
    promised_to_tenant += groups() * (blocks_for(sequence->max_tokens) - sequence->tables[0].size());
  }
  if (const std::size_t quota = quota_of(salt); quota != SIZE_MAX) {
    if (total_blocks * groups() > quota) return StatusCode::ResourceExhausted;
    if (held_by_tenant + promised_to_tenant + wanted > quota) return StatusCode::Rejected;
  }
  return wanted > shape.capacity_blocks - held - promised() ? StatusCode::Unavailable : StatusCode::Ok;
}

Model::Flight Model::in_flight(const Expectation& expectation) const {
  const std::size_t size = shape.block_tokens;
  const std::size_t position = expectation.cached_tokens / size;
  if (expectation.cached_tokens >= expectation.tokens.size()) return Flight::No;
  Flight answer = Flight::No;
  for (const auto& each : sequences) {
    const Sequence& sequence = *each;
    if (sequence.scope != expectation.scope || !sequence.shares || !sequence.announces) continue;
    if (sequence.epoch != epoch_of(sequence.scope) || sequence.tokens.size() / size != position) continue;
    if (sequence.announced.size() < (position + 1) * size) continue;
    if (sequence.announced.compare(position * size, size, expectation.tokens, position * size, size) != 0) continue;
    if (position > 0) {
      const auto before = nodes.find(path_of(expectation.scope, expectation.tokens, position));
      if (before == nodes.end() || before->second.blocks[0].block != sequence.tables[0][position - 1]) continue;
    }
    // Whether it still computes the block once it took another way within it is its own affair until the block's end.
    if (begins_with(sequence.announced, sequence.tokens)) return Flight::Yes;
    answer = Flight::Maybe;
  }
  return answer;
}

std::uint64_t Model::epoch_of(std::size_t scope) const {
  const auto known = epochs_.find(scope);
  return known == epochs_.end() ? 0 : known->second;
}

// ---- Sequences

Sequence& Model::begin_sequence(std::size_t scope, const Match& match, const Text& prompt,
                                const AdmitOptions& options) {
  auto sequence = std::make_unique<Sequence>();
  sequence->scope = scope;
  sequence->max_tokens = options.max_tokens;
  sequence->shares = shape.prefix_reuse;
  sequence->epoch = epoch_of(scope);
  sequence->retention = options.retention;
  sequence->matched_blocks = match.path.size();
  sequence->prompt_blocks = prompt.size() / shape.block_tokens;
  const std::size_t shared = std::min(prompt.size(), options.max_shared_tokens);
  sequence->announced = prompt.substr(0, shared / shape.block_tokens * shape.block_tokens);
  sequence->announces = shape.prefix_reuse;
  sequence->tables.resize(groups());
  for (std::size_t group = 0; group < groups(); ++group) {
    sequence->tables[group].assign(match.path.size(), kNoBlock);
    for (std::size_t i = first_block_in_reach(group, match.tokens); i < match.path.size(); ++i) {
      sequence->tables[group][i] = match.path[i]->second.blocks[group].block;
    }
  }
  std::uint64_t word = kv_word({}, scope_of(scope).salt, scope_of(scope).adapter_id);
  sequence->tokens = prompt.substr(0, match.tokens);
  for (const auto& node : match.path) {
    sequence->words.insert(sequence->words.end(), node->second.words.begin(), node->second.words.end());
  }
  if (!sequence->words.empty()) word = sequence->words.back();
  for (std::size_t i = sequence->words.size(); i < match.tokens; ++i) {
    sequence->words.push_back(word = next_word(word, sequence->tokens[i]));  // or as copied: note_copy()
  }
  sequences.push_back(std::move(sequence));
  return *sequences.back();
}

Sequence& Model::fork_sequence(const Sequence& source, std::size_t max_tokens) {
  auto copy = std::make_unique<Sequence>(source);
  copy->max_tokens = max_tokens;
  copy->announces = false;
  for (std::vector<BlockId>& table : copy->tables) table.resize(source.tokens.size() / shape.block_tokens);
  sequences.push_back(std::move(copy));
  return *sequences.back();
}

void Model::take(Sequence& sequence, std::size_t group, BlockId block) {
  if (block >= shape.capacity_blocks || is_cached(block) || references()[block] > 0) {
    return violate("block " + std::to_string(block) + " was taken though not free");
  }
  tenants_[block] = scope_of(sequence.scope).salt;
  sequence.tables[group].push_back(block);
}

void Model::commit(Sequence& sequence, const Text& tokens, bool share, bool copyable) {
  if (!share && !tokens.empty()) sequence.shares = sequence.announces = false;
  const std::size_t first = sequence.tokens.size() / shape.block_tokens;
  std::uint64_t word = sequence.words.empty()
                           ? kv_word({}, scope_of(sequence.scope).salt, scope_of(sequence.scope).adapter_id)
                           : sequence.words.back();
  ++commits_;
  for (const char token : tokens) {
    sequence.tokens.push_back(token);
    sequence.words.push_back(word = next_word(word, token));
  }
  if (!tokens.empty()) sequence.begun_is_copyable = sequence.begun_is_copyable && copyable;
  for (std::size_t i = first; i < sequence.tokens.size() / shape.block_tokens && sequence.shares; ++i) {
    sequence.shares = share_full_block(sequence, i);
    sequence.begun_is_copyable = copyable || sequence.tokens.size() == (i + 1) * shape.block_tokens;
    if (!sequence.shares) tally_.add(Seen::ForgottenBehind);
    sequence.announces = sequence.announces && sequence.shares && sequence.announced.size() > i * shape.block_tokens &&
                         begins_with(sequence.announced, sequence.tokens.substr(0, (i + 1) * shape.block_tokens));
  }
  give_up_out_of_reach(sequence);
}

bool Model::share_full_block(Sequence& sequence, std::size_t position) {
  if (sequence.epoch != epoch_of(sequence.scope)) return false;
  if (position > 0) {
    const auto before = nodes.find(path_of(sequence.scope, sequence.tokens, position));
    if (before == nodes.end() || before->second.blocks[0].block != sequence.tables[0][position - 1]) return false;
  }
  const auto [node, added] = nodes.try_emplace(path_of(sequence.scope, sequence.tokens, position + 1));
  const bool starts_segment = !sequence.added_blocks;
  if (added) {
    node->second.blocks.resize(groups());
    node->second.copyable = sequence.begun_is_copyable;
    const auto first = sequence.words.begin() + static_cast<std::ptrdiff_t>(position * shape.block_tokens);
    node->second.words.assign(first, first + static_cast<std::ptrdiff_t>(shape.block_tokens));
    sequence.added_blocks = true;
    if (shape.tiers) computed()[node->first].push_back({node->second.words, node->second.copyable});
  } else {
    const auto first = sequence.words.begin() + static_cast<std::ptrdiff_t>(position * shape.block_tokens);
    std::ranges::copy(node->second.words, first);  // its block is the other one now
  }
  for (std::size_t group = 0; group < groups(); ++group) {
    BlockId& own = sequence.tables[group][position];
    const BlockId equal = node->second.blocks[group].block;
    if (equal == kNoBlock) {
      enter(node, group, own, starts_segment, sequence, position);
    } else {
      tally_.add(group == 0 ? Seen::Duplicate : Seen::WindowDuplicate);
      own = equal;
    }
  }
  return true;
}

void Model::enter(Nodes::iterator node, std::size_t group, BlockId block, bool starts_segment, const Sequence& sequence,
                  std::size_t position) {
  node->second.blocks[group] = {.block = block};
  places_[block] = {.cached = true, .node = node, .group = group};
  const BlockOrigin origin{
      .parent = position == 0 ? kNoBlock : sequence.tables[0][position - 1],
      .starts_segment = starts_segment,
      .segment_blocks = static_cast<std::uint32_t>(
          position < sequence.prompt_blocks ? sequence.prompt_blocks - sequence.matched_blocks : 0)};
  expected_inserts_.push_back({.block = block, .group = group, .origin = origin, .path = node->first});
}

void Model::give_up_out_of_reach(Sequence& sequence) {
  for (std::size_t group = 1; group < groups(); ++group) {
    for (std::size_t i = 0; i < first_block_in_reach(group, sequence.tokens.size()); ++i) {
      if (std::exchange(sequence.tables[group][i], kNoBlock) != kNoBlock) tally_.add(Seen::WindowBlockGivenUp);
    }
  }
}

void Model::end_sequence(std::size_t index) {
  const Sequence& sequence = *sequences[index];
  for (std::size_t i = sequence.tables[0].size(); i-- > 0;) {
    for (const std::vector<BlockId>& table : sequence.tables) {
      if (table[i] == kNoBlock || !is_cached(table[i])) continue;
      call.expected_uses.push_back({.block = table[i], .retention = sequence.retention});
    }
  }
  std::swap(sequences[index], sequences.back());
  sequences.pop_back();
}

// ---- Wishes

void Model::warm(const Match& match, const Retention& retention) {
  std::vector<BlockId> blocks = blocks_in_reach(match.path);
  std::reverse(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(match.path.size()));
  for (const BlockId block : blocks) call.expected_uses.push_back({.block = block, .retention = retention});
}

void Model::add_pin(const Match& match, std::uint64_t ttl_ms) {
  Pin& pin = pins[match.path.back()->first];
  pin.expires_ms = ttl_ms == 0 || ttl_ms > UINT64_MAX - now_ms ? 0 : now_ms + ttl_ms;
  if (pin.blocks.empty()) pin.blocks = blocks_in_reach(match.path);
}

void Model::end_pin(std::map<Text, Pin>::iterator pin) {
  call.ends_pins = true;
  for (const BlockId block : pin->second.blocks) call.expected_uses.push_back({.block = block, .keeps_time = true});
  pins.erase(pin);
}

bool Model::has_overdue_pins() const {
  return std::ranges::any_of(
      pins, [&](const auto& entry) { return entry.second.expires_ms != 0 && entry.second.expires_ms <= now_ms; });
}

void Model::end_overdue_pins() {
  for (auto pin = pins.begin(); pin != pins.end();) {
    const auto next = std::next(pin);
    if (pin->second.expires_ms != 0 && pin->second.expires_ms <= now_ms) {
      tally_.add(Seen::PinOverdue);
      end_pin(pin);
    }
    pin = next;
  }
}

std::size_t Model::end_pins_on(std::size_t scope, const Text& prompt) {
  std::size_t ended = 0;
  for (std::size_t blocks = 1; blocks * shape.block_tokens <= prompt.size(); ++blocks) {
    const auto pin = pins.find(path_of(scope, prompt, blocks));
    if (pin == pins.end()) continue;
    end_pin(pin);
    ++ended;
  }
  tally_.add(Seen::PinUnpinned, ended);
  return ended;
}

template <class Condition>
std::size_t Model::forget_if(const Condition& condition, bool with_all_behind) {
  const std::vector<std::uint32_t> counts = references();
  forget_computed(condition, with_all_behind);
  for (const auto& [path, node] : nodes) {
    if (!condition(path)) continue;
    call.forgets.insert(path);
    if (counts[node.blocks[0].block] > 0) tally_.add(Seen::ForgottenWhileHeld);
    if (const auto pin = pins.find(path); pin != pins.end()) {
      tally_.add(Seen::PinForgotten);
      end_pin(pin);
    }
  }
  return call.forgets.size();
}

std::size_t Model::forget(std::size_t scope, const Text& prefix) {
  if (prefix.empty()) return 0;
  const std::size_t whole = prefix.size() / shape.block_tokens * shape.block_tokens;
  Text start(1, static_cast<char>('A' + scope));
  start.append(prefix, 0, whole == 0 ? prefix.size() : whole);
  return forget_if([&](const Text& path) { return begins_with(path, start); }, /*with_all_behind=*/true);
}

std::size_t Model::forget_tenant(std::string_view salt) {
  for (std::size_t scope = 0; scope < kScopes; ++scope) epochs_[scope] += scope_of(scope).salt == salt;
  return forget_if([&](const Text& path) { return scope_of(static_cast<std::size_t>(path[0] - 'A')).salt == salt; });
}

std::size_t Model::forget_all() {
  for (std::size_t scope = 0; scope < kScopes; ++scope) ++epochs_[scope];
  return forget_if([](const Text&) { return true; });
}

}  // namespace tiercel::sim
