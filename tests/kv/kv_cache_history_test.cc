// Random histories of a small cache against a plain model that knows, from the leases' block tables and the evictions
// alone, which block holds which tokens. After every step each answer, count and byte must be what the model says.
//
// To replay one history: TIERCEL_KV_SEED=<seed> kv_test --gtest_filter='KvCacheHistory.*'
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kv/kv_cache_state.h"
#include "tests/kv/kv_pattern.h"
#include "tiercel/kv_cache.h"

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;

struct Scope {
  std::string salt;
  std::uint64_t adapter_id = 0;
  friend auto operator<=>(const Scope&, const Scope&) = default;
};
// The tokens from the start of a sequence to the end of a block.
using Path = std::pair<Scope, Tokens>;

// Which block holds which path, and which blocks the policy may name.
struct Contents {
  std::map<Path, BlockId> blocks;
  std::set<BlockId> evictable;
  std::string violation;  // the first broken rule of the policy's protocol

  bool has_child(const Path& path) const {
    const auto next = blocks.upper_bound(path);  // a child, if there is one, sorts behind its parent
    return next != blocks.end() && next->first.first == path.first && next->first.second.size() > path.second.size() &&
           std::equal(path.second.begin(), path.second.end(), next->first.second.begin());
  }
};

// LRU that also checks how it is called and tells the model what leaves the index.
class WatchedPolicy final : public EvictionPolicy {
 public:
  WatchedPolicy(std::size_t capacity_blocks, std::shared_ptr<Contents> contents)
      : lru_(lru()(capacity_blocks)), contents_(std::move(contents)) {}

  void on_insert(BlockId block, const BlockOrigin& origin) override { lru_->on_insert(block, origin); }
  void on_use(BlockId block) override { lru_->on_use(block); }
  void on_evictable(BlockId block) override {
    if (!contents_->evictable.insert(block).second) contents_->violation = "evictable twice";
    lru_->on_evictable(block);
  }
  void on_held(BlockId block) override {
    if (contents_->evictable.erase(block) == 0) contents_->violation = "held though not evictable";
    lru_->on_held(block);
  }
  void on_remove(BlockId block) override {
    contents_->evictable.erase(block);
    const auto found = std::ranges::find(contents_->blocks, block, [](const auto& entry) { return entry.second; });
    if (found == contents_->blocks.end()) {
      contents_->violation = "removed a block that was not cached";
    } else {
      contents_->blocks.erase(found);
    }
    lru_->on_remove(block);
  }
  BlockId victim() override { return lru_->victim(); }
  std::size_t metadata_bytes() const override { return lru_->metadata_bytes(); }

 private:
  std::unique_ptr<EvictionPolicy> lru_;
  std::shared_ptr<Contents> contents_;
};

// What happened, over all histories: shows that the test reached what it is for.
struct Tally {
  std::uint64_t hits = 0, copies = 0, copies_in_place = 0, duplicates = 0, refusals = 0, evictions = 0, collisions = 0;
};

class History {
 public:
  History(std::uint64_t seed, KeyFunction key_function)
      : random_(seed),
        block_tokens_(2 + random_() % 4),
        capacity_(3 + random_() % 18),
        alphabet_(2 + random_() % 3),
        reuse_(random_() % 16 != 0),
        contents_(std::make_shared<Contents>()) {
    KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = block_tokens_, .dtype = DType::F16};
    if (seed % 4 == 1) layout.head_dim = 8, layout.dtype = DType::Int8;
    const std::size_t stride = BlockMemory::stride_of(layout.block_bytes());
    const auto watched = [this](std::size_t blocks) { return std::make_unique<WatchedPolicy>(blocks, contents_); };
    cache_ = KvCacheState::open({.capacity_bytes = capacity_ * stride, .prefix_reuse = reuse_, .eviction = watched},
                                layout, {}, {}, {.key_function = key_function})
                 .value();
  }

  void run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      const auto dice = random_() % 100;
      if (dice < 30) {
        admit();
      } else if (dice < 65) {
        extend();
      } else if (dice < 92) {
        release();
      } else if (dice < 98) {
        look_up();
      } else if (dice < 99) {
        overgrow();
      } else {
        invalidate();
      }
      if (testing::Test::HasFatalFailure()) return;
      check();
    }
    finish();
  }

  const std::vector<std::uint64_t>& trace() const { return trace_; }
  const Tally& tally() const { return tally_; }

 private:
  struct Sequence {
    Lease lease;
    Scope scope;
    Tokens tokens;  // committed ones
    std::size_t max_tokens = 0;
    bool shares = true;
  };
  struct Expected {
    std::vector<BlockId> blocks;
    std::size_t tokens = 0;
    std::set<BlockId> sources;  // blocks that the partial match may be copied from
  };

  std::size_t blocks_for(std::size_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  // A sequence that often repeats the start of one seen before.
  Tokens draw_tokens(std::size_t most) {
    Tokens tokens;
    if (!seen_.empty() && random_() % 4 != 0) {
      tokens = seen_[random_() % seen_.size()];
      tokens.resize(random_() % (tokens.size() + 1));
    }
    const std::size_t extra = random_() % (2 * block_tokens_ + 1);
    for (std::size_t i = 0; i < extra; ++i) tokens.push_back(draw_token());
    if (tokens.size() > most) tokens.resize(most);
    return tokens;
  }
  TokenId draw_token() { return static_cast<TokenId>(random_() % alphabet_); }
  void remember(const Tokens& tokens) {
    if (seen_.size() < 12) seen_.push_back(tokens);
    seen_[random_() % seen_.size()] = tokens;
  }

  // The longest match, by looking at every cached path.
  Expected expect_match(const Scope& scope, const Tokens& prompt, std::size_t most, bool partial) const {
    Expected expected;
    if (!reuse_) return expected;
    const std::size_t limit = std::min(prompt.size(), most);
    while ((expected.blocks.size() + 1) * block_tokens_ <= limit) {
      const auto end = static_cast<std::ptrdiff_t>((expected.blocks.size() + 1) * block_tokens_);
      const auto found = contents_->blocks.find(Path(scope, Tokens(prompt.begin(), prompt.begin() + end)));
      if (found == contents_->blocks.end()) break;
      expected.blocks.push_back(found->second);
    }
    const std::size_t whole = expected.tokens = expected.blocks.size() * block_tokens_;
    if (!partial) return expected;
    for (const auto& [path, block] : contents_->blocks) {
      if (path.first != scope || path.second.size() != whole + block_tokens_) continue;
      std::size_t common = 0;
      while (common < std::min(limit, path.second.size()) && path.second[common] == prompt[common]) ++common;
      if (common <= whole || common < expected.tokens) continue;
      if (common > expected.tokens) expected.sources.clear();
      expected.tokens = common;
      expected.sources.insert(block);
    }
    return expected;
  }

  std::map<BlockId, std::uint32_t> references() const {
    std::map<BlockId, std::uint32_t> counts;
    for (const Sequence& sequence : running_) {
      for (const BlockId block : sequence.lease.block_table()) ++counts[block];
    }
    return counts;
  }
  std::size_t promised() const {
    std::size_t sum = 0;
    for (const Sequence& each : running_) sum += blocks_for(each.max_tokens) - each.lease.block_table().size();
    return sum;
  }

  void admit() {
    const Scope scope = kScopes[random_() % std::size(kScopes)];
    const Tokens prompt = draw_tokens(capacity_ * block_tokens_ / (random_() % 8 == 0 ? 1 : 3));
    AdmitOptions options{.max_tokens = prompt.size() + random_() % (2 * block_tokens_),
                         .scope = {.salt = scope.salt, .adapter_id = scope.adapter_id},
                         .partial_blocks = random_() % 4 != 0};
    if (random_() % 2 == 0) options.max_matched_tokens = prompt.empty() ? 0 : random_() % prompt.size();

    const Expected expected = expect_match(scope, prompt, options.max_matched_tokens, options.partial_blocks);
    ASSERT_EQ(cache_->lookup(prompt, options), expected.tokens);
    const auto held = references();
    const auto newly_held =
        std::ranges::count_if(expected.blocks, [&](BlockId block) { return !held.contains(block); });
    const std::size_t total = blocks_for(options.max_tokens);
    const std::size_t wanted = total - expected.blocks.size() + static_cast<std::size_t>(newly_held);

    auto admitted = cache_->admit(prompt, options);
    trace_.push_back(static_cast<std::uint64_t>(admitted.status().code()));
    if (total > capacity_) {
      ASSERT_EQ(admitted.status().code(), StatusCode::ResourceExhausted);
      return;
    }
    if (wanted > capacity_ - held.size() - promised()) {
      ASSERT_EQ(admitted.status().code(), StatusCode::Unavailable);
      ++tally_.refusals;
      return;
    }
    ASSERT_TRUE(admitted.ok()) << admitted.status().to_string();
    ASSERT_EQ(admitted->matched_tokens(), expected.tokens);
    ASSERT_EQ(admitted->committed_tokens(), expected.tokens);
    const auto table = admitted->block_table();
    ASSERT_EQ(table.size(), blocks_for(expected.tokens));
    ASSERT_TRUE(std::equal(expected.blocks.begin(), expected.blocks.end(), table.begin()));
    tally_.hits += expected.tokens > 0;
    if (table.size() > expected.blocks.size()) {
      ++tally_.copies;
      tally_.copies_in_place += expected.sources.contains(table.back());
    }
    prompt_tokens_ += prompt.size();
    matched_tokens_ += expected.tokens;
    trace_.insert(trace_.end(), table.begin(), table.end());
    running_.push_back({.lease = *std::move(admitted),
                        .scope = scope,
                        .tokens = Tokens(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(expected.tokens)),
                        .max_tokens = options.max_tokens,
                        .shares = reuse_});
    Sequence& sequence = running_.back();
    verify_bytes(sequence);
    scribble(sequence);
    if (random_() % 2 == 0) {
      append(sequence, std::span(prompt).subspan(expected.tokens), true);
      remember(prompt);
    }
  }

  void extend() {
    if (running_.empty()) return;
    Sequence& sequence = running_[random_() % running_.size()];
    const std::size_t room = sequence.max_tokens - sequence.tokens.size();
    Tokens tokens = draw_tokens(std::min<std::size_t>(room, 1 + random_() % (2 * block_tokens_)));
    append(sequence, tokens, random_() % 12 != 0);
    if (random_() % 4 == 0) remember(sequence.tokens);
  }

  // Grows, writes and commits, as a runner would, and checks which blocks the lease has afterwards.
  void append(Sequence& sequence, std::span<const TokenId> tokens, bool share) {
    const std::size_t first = sequence.tokens.size();
    const std::size_t covered = first + tokens.size() + random_() % 3;
    ASSERT_TRUE(sequence.lease.grow(std::min(covered, sequence.max_tokens)).ok());
    scribble(sequence);
    sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
    for (std::size_t i = first; i < sequence.tokens.size(); ++i) {
      write_kv(*cache_, sequence.lease.block_table(), i, word(sequence, i));
    }
    std::vector<BlockId> table(sequence.lease.block_table().begin(), sequence.lease.block_table().end());
    sequence.lease.commit(tokens, share);
    ASSERT_EQ(sequence.lease.committed_tokens(), sequence.tokens.size());

    if (!share && !tokens.empty()) sequence.shares = false;
    for (std::size_t i = first / block_tokens_; sequence.shares && i < sequence.tokens.size() / block_tokens_; ++i) {
      const auto end = sequence.tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * block_tokens_);
      const auto [place, added] =
          contents_->blocks.emplace(Path(sequence.scope, Tokens(sequence.tokens.begin(), end)), table[i]);
      tally_.duplicates += !added;
      table[i] = place->second;
    }
    ASSERT_TRUE(std::ranges::equal(table, sequence.lease.block_table()));
    trace_.insert(trace_.end(), table.begin(), table.end());
    verify_bytes(sequence);
  }

  void release() {
    if (running_.empty()) return;
    const std::size_t chosen = random_() % running_.size();
    verify_bytes(running_[chosen]);
    std::swap(running_[chosen], running_.back());
    running_.pop_back();
  }

  void look_up() {
    const Scope scope = kScopes[random_() % std::size(kScopes)];
    const Tokens prompt = draw_tokens(1000);
    const bool partial = random_() % 2 == 0;
    ASSERT_EQ(cache_->lookup(
                  prompt, {.scope = {.salt = scope.salt, .adapter_id = scope.adapter_id}, .partial_blocks = partial}),
              expect_match(scope, prompt, SIZE_MAX, partial).tokens);
  }

  void overgrow() {
    if (running_.empty()) return;
    Sequence& sequence = running_[random_() % running_.size()];
    const std::size_t before = sequence.lease.block_table().size();
    ASSERT_EQ(sequence.lease.grow(sequence.max_tokens + 1).code(), StatusCode::ResourceExhausted);
    ASSERT_EQ(sequence.lease.block_table().size(), before);
    ASSERT_TRUE(sequence.lease.grow(sequence.max_tokens).ok());
    scribble(sequence);
  }

  void invalidate() {
    const std::size_t cached = contents_->blocks.size();
    ASSERT_EQ(cache_->invalidate_all(), cached);
    ASSERT_TRUE(contents_->blocks.empty());
    for (Sequence& sequence : running_) sequence.shares = false;
  }

  std::uint64_t word(const Sequence& sequence, std::size_t position) const {
    return kv_word(std::span(sequence.tokens).first(position + 1), sequence.scope.salt, sequence.scope.adapter_id);
  }
  void verify_bytes(const Sequence& sequence) const {
    for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
      ASSERT_TRUE(holds_kv(*cache_, sequence.lease.block_table(), i, word(sequence, i))) << "token " << i;
    }
  }
  // Writes junk wherever the lease may write: were a block shared by mistake, somebody's bytes would go wrong.
  void scribble(const Sequence& sequence) {
    const auto table = sequence.lease.block_table();
    for (std::size_t i = sequence.tokens.size(); i < table.size() * block_tokens_; ++i) {
      write_kv(*cache_, table, i, random_());
    }
  }

  void check() const {
    ASSERT_EQ(KvCacheState::of(*cache_).audit(), "");
    ASSERT_EQ(contents_->violation, "");
    const auto held = references();
    const std::vector<std::uint32_t> counts = KvCacheState::of(*cache_).references();
    for (BlockId block = 0; block < counts.size(); ++block) {
      const auto found = held.find(block);
      ASSERT_EQ(counts[block], found == held.end() ? 0 : found->second) << "block " << block;
    }
    std::set<Scope> scopes;
    for (const Sequence& sequence : running_) scopes.insert(sequence.scope);
    for (const auto& entry : contents_->blocks) scopes.insert(entry.first.first);
    ASSERT_EQ(KvCacheState::of(*cache_).roots(), reuse_ ? scopes.size() : 0);
    std::set<BlockId> evictable;
    std::size_t cached = 0;
    for (const auto& [path, block] : contents_->blocks) {
      if (held.contains(block)) continue;
      ++cached;
      if (!contents_->has_child(path)) evictable.insert(block);
    }
    ASSERT_EQ(contents_->evictable, evictable);
    const KvCacheStats stats = cache_->stats();
    ASSERT_EQ(stats.capacity_blocks, capacity_);
    ASSERT_EQ(stats.leased_blocks, held.size());
    ASSERT_EQ(stats.cached_blocks, cached);
    ASSERT_EQ(stats.free_blocks, capacity_ - held.size() - cached);
    ASSERT_EQ(stats.promised_blocks, promised());
    ASSERT_EQ(stats.prompt_tokens, prompt_tokens_);
    ASSERT_EQ(stats.matched_tokens, matched_tokens_);
  }

  void finish() {
    for (const Sequence& sequence : running_) verify_bytes(sequence);
    running_.clear();
    check();
    const KvCacheStats stats = cache_->stats();
    ASSERT_EQ(stats.leased_blocks, 0u);
    ASSERT_EQ(stats.promised_blocks, 0u);
    // Whatever is cached can be had again, to the last block.
    Lease all = cache_->admit({}, {.max_tokens = capacity_ * block_tokens_}).value();
    ASSERT_TRUE(all.grow(capacity_ * block_tokens_).ok());
    ASSERT_TRUE(contents_->blocks.empty());
    all = Lease();
    ASSERT_EQ(KvCacheState::of(*cache_).roots(), 0u);
    tally_.evictions = stats.evicted_blocks;
    tally_.collisions = stats.compare_mismatches;
    trace_.push_back(stats.evicted_blocks);
  }

  inline static const Scope kScopes[] = {{"", 0}, {"", 0}, {"", 0}, {"tenant", 0}, {"", 7}, {"tenant", 7}};

  std::mt19937_64 random_;
  const std::uint32_t block_tokens_;
  const std::size_t capacity_;
  const std::size_t alphabet_;
  const bool reuse_;
  std::shared_ptr<Contents> contents_;
  std::optional<KvCache> cache_;
  std::vector<Sequence> running_;
  std::vector<Tokens> seen_;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t matched_tokens_ = 0;
  std::vector<std::uint64_t> trace_;
  Tally tally_;
};

ContentKey same_key(const ContentKey&, std::span<const std::byte>) { return {}; }

// Keys of which many are equal and many are not.
ContentKey short_key(const ContentKey& parent, std::span<const std::byte> content) {
  return {.low = xxh3_key(parent, content).low & 3, .high = 0};
}

TEST(KvCacheHistory, EveryAnswerIsTheModelsWhateverTheHash) {
  std::uint64_t first = 0, last = 1000;
  if (const char* wanted = std::getenv("TIERCEL_KV_SEED")) last = (first = std::strtoull(wanted, nullptr, 10)) + 1;
  Tally sum;
  std::uint64_t real_collisions = 0;
  for (std::uint64_t seed = first; seed < last; ++seed) {
    SCOPED_TRACE("TIERCEL_KV_SEED=" + std::to_string(seed));
    std::vector<std::uint64_t> trace;
    for (const KeyFunction key_function : {&xxh3_key, &short_key, &same_key}) {
      History history(seed, key_function);
      history.run(300);
      if (HasFatalFailure()) return;
      if (trace.empty()) trace = history.trace();
      ASSERT_EQ(history.trace(), trace) << "keys must not change what happens";
      const Tally& tally = history.tally();
      sum.hits += tally.hits;
      sum.copies += tally.copies;
      sum.copies_in_place += tally.copies_in_place;
      sum.duplicates += tally.duplicates;
      sum.refusals += tally.refusals;
      sum.evictions += tally.evictions;
      (key_function == &xxh3_key ? real_collisions : sum.collisions) += tally.collisions;
    }
  }
  EXPECT_EQ(real_collisions, 0u);
  if (last - first == 1) return;  // a replay need not reach everything
  EXPECT_GT(sum.hits, 20'000u);
  EXPECT_GT(sum.copies, 10'000u);
  EXPECT_GT(sum.copies_in_place, 50u);
  EXPECT_GT(sum.duplicates, 2'000u);
  EXPECT_GT(sum.refusals, 10'000u);
  EXPECT_GT(sum.evictions, 20'000u);
  EXPECT_GT(sum.collisions, 100'000u);
}

}  // namespace
}  // namespace tiercel
