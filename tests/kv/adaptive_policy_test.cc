#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tiercel/eviction_policy.h"

namespace tiercel {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;

// A request: the contents of its full blocks, head to tail. A number stands for a whole prefix.
using Request = std::vector<std::uint32_t>;

// A prefix cache of block ids alone, that drives a policy as KvCache does.
class PrefixCache {
 public:
  struct Lease {
    std::vector<BlockId> blocks;
    std::size_t matched = 0;
  };

  PrefixCache(const EvictionPolicyFactory& factory, std::size_t capacity, std::size_t contents)
      : policy_(factory(capacity)), block_of_(contents, kNone), blocks_(capacity) {
    for (std::size_t i = capacity; i-- > 0;) free_.push_back(static_cast<BlockId>(i));
  }

  // As many blocks as there is room for.
  Lease open(const Request& request) {
    Lease lease;
    for (; lease.matched < request.size() && block_of_[request[lease.matched]] != kNone; ++lease.matched) {
      const BlockId block = block_of_[request[lease.matched]];
      if (is_evictable(block)) policy_->on_held(block);
      ++blocks_[block].references;
      lease.blocks.push_back(block);
    }
    for (std::size_t i = lease.matched; i < request.size(); ++i) {
      if (free_.empty() && !evict()) break;
      const BlockId block = free_.back();
      free_.pop_back();
      const BlockId parent = i == 0 ? kNoBlock : lease.blocks.back();
      blocks_[block] = {.content = request[i], .parent = parent, .references = 1};
      if (i > 0) ++blocks_[parent].children;
      block_of_[request[i]] = block;
      policy_->on_insert(block, {.content = request[i] * 0x9e3779b97f4a7c15,
                                 .parent = parent,
                                 .starts_segment = i == lease.matched,
                                 .segment_blocks = static_cast<std::uint32_t>(request.size() - lease.matched)});
      lease.blocks.push_back(block);
    }
    return lease;
  }

  void close(const Lease& lease) {
    for (std::size_t i = lease.blocks.size(); i-- > 0;) {
      policy_->on_use(lease.blocks[i]);
      --blocks_[lease.blocks[i]].references;
      if (is_evictable(lease.blocks[i])) policy_->on_evictable(lease.blocks[i]);
    }
  }

  const std::vector<BlockId>& victims() const { return victims_; }

 private:
  struct Block {
    std::uint32_t content = kNone;
    BlockId parent = kNoBlock;
    std::uint32_t references = 0;
    std::uint32_t children = 0;
  };

  bool is_evictable(BlockId block) const {
    return blocks_[block].content != kNone && blocks_[block].references == 0 && blocks_[block].children == 0;
  }

  bool evict() {
    const BlockId victim = policy_->victim();
    EXPECT_EQ(policy_->victim(), victim) << "asking changes nothing";
    if (victim == kNoBlock) {
      for (BlockId block = 0; block < blocks_.size(); ++block) EXPECT_FALSE(is_evictable(block)) << block;
      return false;
    }
    if (victim >= blocks_.size() || !is_evictable(victim)) {
      ADD_FAILURE() << "named block " << victim << ", which is not evictable";
      return false;
    }
    victims_.push_back(victim);
    const Block gone = std::exchange(blocks_[victim], Block{});
    block_of_[gone.content] = kNone;
    policy_->on_remove(victim);
    free_.push_back(victim);
    if (gone.parent != kNoBlock) {
      --blocks_[gone.parent].children;
      if (is_evictable(gone.parent)) policy_->on_evictable(gone.parent);
    }
    return true;
  }

  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<BlockId> block_of_;  // by content
  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  std::vector<BlockId> victims_;
};

// Workloads, all with numbers drawn from a seeded generator by hand: the same on every machine.
class Workload {
 public:
  explicit Workload(std::uint64_t seed) : random_(seed) {}

  const std::vector<Request>& requests() const { return requests_; }
  std::size_t contents() const { return next_; }
  std::size_t below(std::size_t end) { return random_() % end; }
  Request fresh(std::size_t blocks) { return longer({}, blocks); }
  Request longer(Request request, std::size_t blocks) {
    while (blocks-- > 0) request.push_back(next_++);
    return request;
  }
  void ask(Request request) { requests_.push_back(std::move(request)); }

  // `prefixes` of about `blocks`, the n-th asked for 1/n as often as the first, each time with a tail of its own.
  void popular_prefixes(std::size_t requests, std::size_t prefixes, std::size_t blocks, std::size_t tail) {
    std::vector<Request> of;
    std::vector<std::size_t> share;
    for (std::size_t i = 0; i < prefixes; ++i) {
      of.push_back(fresh(blocks / 2 + below(blocks)));
      share.push_back(100'000 / (i + 1) + (i == 0 ? 0 : share.back()));
    }
    while (requests-- > 0) {
      const auto drawn = std::ranges::upper_bound(share, below(share.back())) - share.begin();
      ask(longer(of[static_cast<std::size_t>(drawn)], below(2 * tail)));
    }
  }
  void one_off(std::size_t requests, std::size_t blocks) {
    while (requests-- > 0) ask(fresh(1 + below(2 * blocks)));
  }
  // Every turn repeats the conversation and adds to it; `live` of them take turns at random.
  void conversations(std::size_t requests, std::size_t live, std::size_t turns) {
    std::vector<Request> of(live);
    while (requests-- > 0) {
      Request& conversation = of[below(live)];
      if (conversation.empty() || below(turns) == 0) conversation.clear();
      conversation = longer(std::move(conversation), 1 + below(8));
      ask(conversation);
    }
  }
  void loop(std::size_t requests, std::size_t documents, std::size_t blocks) {
    std::vector<Request> of(documents);
    for (Request& document : of) document = fresh(blocks);
    for (std::size_t i = 0; i < requests; ++i) ask(of[i % documents]);
  }
  // The last two stretches of requests, of the given lengths, become one in random order.
  void interleave(std::size_t first, std::size_t second) {
    const auto begin = requests_.end() - static_cast<std::ptrdiff_t>(first + second);
    for (auto i = requests_.end(); i - begin > 1; --i)
      std::swap(*(i - 1), *(begin + static_cast<std::ptrdiff_t>(below(static_cast<std::size_t>(i - begin)))));
  }

 private:
  std::mt19937_64 random_;
  std::vector<Request> requests_;
  std::uint32_t next_ = 0;
};

// Share of the blocks asked for from request `begin` on that were found, in percent.
double hit_rate(const Workload& workload, const EvictionPolicyFactory& factory, std::size_t capacity,
                std::size_t begin = 0) {
  PrefixCache cache(factory, capacity, workload.contents());
  std::size_t asked = 0, found = 0;
  for (std::size_t i = 0; i < workload.requests().size(); ++i) {
    const auto lease = cache.open(workload.requests()[i]);
    if (i >= begin) asked += workload.requests()[i].size(), found += lease.matched;
    cache.close(lease);
  }
  return 100.0 * static_cast<double>(found) / static_cast<double>(asked);
}

TEST(AdaptivePolicy, ServesACacheOfOneBlock) {
  const auto policy = adaptive()(1);
  EXPECT_EQ(policy->victim(), kNoBlock);
  for (std::uint64_t content = 0; content < 5000; ++content) {
    policy->on_insert(0, {.content = content % 7, .starts_segment = true, .segment_blocks = UINT32_MAX});
    ASSERT_EQ(policy->victim(), kNoBlock);
    policy->on_use(0);
    policy->on_evictable(0);
    ASSERT_EQ(policy->victim(), 0u);
    policy->on_held(0);
    ASSERT_EQ(policy->victim(), kNoBlock);
    policy->on_use(0);
    policy->on_evictable(0);
    policy->on_use(0);  // used while it is listed
    ASSERT_EQ(policy->victim(), 0u);
    policy->on_remove(0);
    ASSERT_EQ(policy->victim(), kNoBlock);
  }
}

TEST(AdaptivePolicy, IsLruWhileItKnowsNothing) {
  Workload workload(1);
  workload.popular_prefixes(60, 5, 6, 3);
  PrefixCache learner(adaptive(), 50, workload.contents());
  PrefixCache plain(lru(), 50, workload.contents());
  for (const Request& request : workload.requests())
    learner.close(learner.open(request)), plain.close(plain.open(request));
  EXPECT_EQ(learner.victims(), plain.victims());
  EXPECT_GT(plain.victims().size(), 100u);
}

// Many requests at once, in any order, with ids coming back for other contents: what is named can go, and something is
// named whenever anything can go. PrefixCache checks.
TEST(AdaptivePolicy, NamesOnlyWhatCanGoAndAlwaysTheSame) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Workload workload(seed);
    workload.conversations(600, 10, 5);
    workload.popular_prefixes(600, 20, 5, 3);
    workload.interleave(600, 600);
    workload.loop(300, 15, 6);
    const std::size_t capacity = 1 + workload.below(150);
    std::vector<BlockId> victims;
    for (int run = 0; run < 2; ++run) {
      std::mt19937_64 random(seed);
      PrefixCache cache(adaptive(), capacity, workload.contents());
      std::vector<PrefixCache::Lease> open;
      for (const Request& request : workload.requests()) {
        open.push_back(cache.open(request));
        while (open.size() > random() % 6) {
          std::swap(open[random() % open.size()], open.back());
          cache.close(open.back());
          open.pop_back();
        }
      }
      for (const PrefixCache::Lease& lease : open) cache.close(lease);
      if (run == 0) victims = cache.victims();
      EXPECT_EQ(cache.victims(), victims) << "seed " << seed;
    }
    if (HasFailure()) break;
  }
}

TEST(AdaptivePolicy, KeepsSharedPrefixesFromTrafficThatNeverComesBack) {
  Workload workload(2);
  workload.popular_prefixes(6000, 40, 10, 2);
  workload.one_off(3000, 15);
  workload.interleave(6000, 3000);
  const double learnt = hit_rate(workload, adaptive(), 200), plain = hit_rate(workload, lru(), 200);
  EXPECT_GT(learnt, 1.3 * plain);
}

// The shared documents seldom last from one use to the next: that they come back is known from after their eviction.
// Without that memory it is 3.1 times as much as LRU.
TEST(AdaptivePolicy, RemembersWhatItEvicted) {
  Workload workload(3);
  workload.loop(2400, 12, 10);
  workload.one_off(4800, 20);
  workload.interleave(2400, 4800);
  EXPECT_GT(hit_rate(workload, adaptive(), 100), 3.4 * hit_rate(workload, lru(), 100));
}

TEST(AdaptivePolicy, KeepsPartOfALoopThatDoesNotFit) {
  Workload workload(4);
  workload.loop(6000, 100, 10);
  EXPECT_EQ(hit_rate(workload, lru(), 500), 0);
  EXPECT_GT(hit_rate(workload, adaptive(), 500), 25);
}

TEST(AdaptivePolicy, LearnsAnewWhenTheWorkloadChanges) {
  Workload workload(5);
  workload.conversations(5000, 60, 6);
  const std::size_t change = workload.requests().size();
  workload.popular_prefixes(8000, 40, 10, 2);
  workload.one_off(4000, 15);
  workload.interleave(8000, 4000);
  const std::size_t settled = change + 6000;
  EXPECT_GT(hit_rate(workload, adaptive(), 200, settled), 1.25 * hit_rate(workload, lru(), 200, settled));
}

TEST(AdaptivePolicy, IsNowhereMuchWorseThanLru) {
  struct Case {
    std::string name;
    void (*make)(Workload&);
  };
  const std::vector<Case> cases = {
      {"conversations", [](Workload& w) { w.conversations(5000, 100, 5); }},
      {"many conversations", [](Workload& w) { w.conversations(5000, 600, 4); }},
      {"prefixes", [](Workload& w) { w.popular_prefixes(4000, 200, 10, 5); }},
      {"one-off", [](Workload& w) { w.one_off(3000, 12); }},
      {"loop", [](Workload& w) { w.loop(3000, 150, 12); }},
      {"phases",
       [](Workload& w) {
         for (int i = 0; i < 3; ++i) {
           w.conversations(1500, 80, 5);
           w.popular_prefixes(1500, 60, 10, 3);
           w.one_off(400, 12);
           w.loop(500, 60, 10);
         }
       }},
      {"mixed",
       [](Workload& w) {
         w.conversations(3000, 100, 5);
         w.popular_prefixes(3000, 100, 10, 3);
         w.interleave(3000, 3000);
       }},
  };
  for (const Case& one : cases) {
    for (std::uint64_t seed = 0; seed < 2; ++seed) {
      Workload workload(seed);
      one.make(workload);
      for (const std::size_t share : {2, 3, 20}) {
        const std::size_t capacity = workload.contents() * share / 100;
        EXPECT_GT(hit_rate(workload, adaptive(), capacity), hit_rate(workload, lru(), capacity) - 0.5)
            << one.name << ", seed " << seed << ", " << share << " %";
      }
    }
  }
}

TEST(AdaptivePolicy, TakesLittleMemory) {
  constexpr std::size_t kFixed = 256 * 1024;
  for (const std::size_t capacity : {1, 4000, 100'000, 1'000'000}) {
    EXPECT_LE(adaptive()(capacity)->metadata_bytes(), 64 * capacity + kFixed) << capacity;
  }
}

}  // namespace
}  // namespace tiercel
