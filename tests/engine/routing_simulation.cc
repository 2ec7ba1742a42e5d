#include "tests/engine/routing_simulation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace tiercel {
namespace {

// Blocks that are cached: the least recently used go.
class BlockCache {
 public:
  explicit BlockCache(std::size_t capacity) : capacity_(capacity) {}

  std::size_t leading(const std::vector<PrefixKey>& keys) const {
    std::size_t known = 0;
    while (known < keys.size() && places_.contains(keys[known])) ++known;
    return known;
  }
  void use(const std::vector<PrefixKey>& keys) {
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {  // the end of a path goes first
      if (const auto known = places_.find(*key); known != places_.end()) order_.erase(known->second);
      order_.push_front(*key);
      places_[*key] = order_.begin();
    }
    while (order_.size() > capacity_) {
      places_.erase(order_.back());
      order_.pop_back();
    }
  }

 private:
  const std::size_t capacity_;
  std::list<PrefixKey> order_;
  std::unordered_map<PrefixKey, std::list<PrefixKey>::iterator> places_;
};

struct Running {
  const SimulatedRequest* request = nullptr;
  Router::Ticket ticket = 0;
  std::size_t left = 0;  // of the prompt
  std::size_t drawn = 0;
};

struct SimulatedReplica {
  BlockCache cache;
  double token_s;
  double now_s = 0;  // the end of its last step
  std::deque<Running> waiting = {};
  std::vector<Running> running = {};
  std::size_t sequences() const { return waiting.size() + running.size(); }
};

class Simulation {
 public:
  Simulation(Routing routing, const SimulationOptions& options)
      : routing_(routing),
        options_(options),
        router_({.replicas = options.replicas,
                 .step_tokens = options.step_tokens,
                 .places = options.places,
                 .block_tokens = kSimulatedBlockTokens}) {
    for (std::size_t i = 0; i < options.replicas; ++i) {
      replicas_.push_back(
          {.cache = BlockCache(options.cached_blocks), .token_s = options.token_s.empty() ? 3e-4 : options.token_s[i]});
    }
    result_.requests.resize(options.replicas);
  }

  SimulationResult run(const std::vector<SimulatedRequest>& requests) {
    for (const SimulatedRequest& request : requests) {
      for (SimulatedReplica& replica : replicas_) {
        while (replica.now_s < request.arrival_s && step(replica)) {
        }
        replica.now_s = std::max(replica.now_s, request.arrival_s);
      }
      arrive(request);
    }
    for (SimulatedReplica& replica : replicas_) {
      while (step(replica)) {
      }
      result_.end_s = std::max(result_.end_s, replica.now_s);
    }
    result_.hit_rate = static_cast<double>(reused_) / static_cast<double>(prompt_tokens_);
    result_.mean_ttft_s /= static_cast<double>(requests.size());
    for (std::size_t i = 0; i < replicas_.size(); ++i) result_.left_sequences.push_back(router_.sequences(i));
    return result_;
  }

 private:
  void arrive(const SimulatedRequest& request) {
    std::size_t least = SIZE_MAX, most = 0;
    for (const SimulatedReplica& replica : replicas_) {
      least = std::min(least, replica.sequences());
      most = std::max(most, replica.sequences());
    }
    result_.most_sequences_apart = std::max(result_.most_sequences_apart, most - least);
    Running arrived{.request = &request};
    const std::size_t chosen = choose(request, arrived.ticket);
    ++result_.requests[chosen];
    auto& waiting = replicas_[chosen].waiting;
    const auto behind =
        std::ranges::find_if(waiting, [&](const Running& other) { return other.request->priority < request.priority; });
    waiting.insert(behind, arrived);
    result_.most_keys = std::max(result_.most_keys, router_.keys());
  }

  std::size_t choose(const SimulatedRequest& request, Router::Ticket& ticket) {
    std::vector<ReplicaView> views;
    for (const SimulatedReplica& replica : replicas_) {
      views.push_back(
          {.cached_tokens = replica.cache.leading(request.keys) * kSimulatedBlockTokens, .pace_s = replica.token_s});
    }
    const auto best = [&](const auto& value) {
      std::size_t found = 0;
      for (std::size_t i = 1; i < replicas_.size(); ++i) {
        if (value(i) < value(found)) found = i;
      }
      return found;
    };
    switch (routing_) {
      case Routing::RoundRobin: return next_++ % replicas_.size();
      case Routing::LeastLoaded: return best([&](std::size_t i) { return replicas_[i].sequences(); });
      case Routing::LongestPrefix:
        return best([&](std::size_t i) {
          return std::pair(request.tokens - views[i].cached_tokens, replicas_[i].sequences());
        });
      case Routing::Cache: break;
    }
    const Router::Decision decision = router_.route({.tokens = request.tokens,
                                                     .keys = request.keys,
                                                     .priority = request.priority,
                                                     .output_tokens = request.output_tokens},
                                                    views);
    ticket = decision.ticket;
    return decision.replica;
  }

  // False: there is nothing to do.
  bool step(SimulatedReplica& replica) {
    while (!replica.waiting.empty() && replica.running.size() < options_.places) {
      Running next = replica.waiting.front();
      replica.waiting.pop_front();
      const std::size_t cached = replica.cache.leading(next.request->keys) * kSimulatedBlockTokens;
      const std::size_t reused = std::min(cached, next.request->tokens - 1);
      next.left = next.request->tokens - reused;
      reused_ += reused;
      prompt_tokens_ += next.request->tokens;
      replica.cache.use(next.request->keys);  // what others compute is waited for, not computed again
      router_.set_prompt_left(next.ticket, next.left);
      replica.running.push_back(next);
    }
    if (replica.running.empty()) return false;
    std::size_t budget = options_.step_tokens, tokens = 0;
    std::vector<Running*> drawing;
    for (Running& running : replica.running) {
      const std::size_t taken = running.left == 0 ? 1 : std::min(running.left, budget);
      tokens += taken;
      budget -= std::min(budget, taken);
      if (running.left > 0) {
        running.left -= taken;
        router_.set_prompt_left(running.ticket, running.left);
      }
      if (running.left == 0 && taken > 0) drawing.push_back(&running);
    }
    constexpr double kStep_s = 1e-3;
    replica.now_s += kStep_s + static_cast<double>(tokens) * replica.token_s;
    for (Running* running : drawing) {
      if (running->drawn++ > 0) continue;
      const double ttft_s = replica.now_s - running->request->arrival_s;
      result_.mean_ttft_s += ttft_s;
      result_.worst_ttft_s = std::max(result_.worst_ttft_s, ttft_s);
    }
    std::erase_if(replica.running, [&](const Running& running) {
      if (running.drawn < running.request->output_tokens) return false;
      router_.end(running.ticket);
      ++result_.answered;
      return true;
    });
    return true;
  }

  const Routing routing_;
  const SimulationOptions options_;
  Router router_;
  std::vector<SimulatedReplica> replicas_;
  std::size_t next_ = 0, reused_ = 0, prompt_tokens_ = 0;
  SimulationResult result_;
};

}  // namespace

SimulationResult simulate(const std::vector<SimulatedRequest>& requests, Routing routing,
                          const SimulationOptions& options) {
  return Simulation(routing, options).run(requests);
}

std::vector<SimulatedRequest> make_workload(const WorkloadOptions& options) {
  std::mt19937_64 random(options.seed);
  std::vector<double> popularity;
  for (std::size_t i = 0; i < options.groups; ++i) {
    popularity.push_back(std::pow(static_cast<double>(i + 1), -options.skew));
  }
  // Draws by hand: those of the standard library differ by implementation.
  const auto uniform = [&] { return static_cast<double>(random() >> 11) / 9007199254740992.; };
  double whole = 0;
  for (const double weight : popularity) whole += weight;
  std::vector<std::size_t> blocks;
  for (std::size_t i = 0; i < options.groups; ++i) blocks.push_back(1 + random() % options.prefix_blocks);
  std::vector<SimulatedRequest> requests;
  double now_s = 0;
  for (std::size_t i = 0; i < options.requests; ++i) {
    now_s += -std::log(1 - uniform()) / options.requests_per_s;
    std::size_t group = 0;
    for (double rest = uniform() * whole; group + 1 < options.groups && rest >= popularity[group]; ++group) {
      rest -= popularity[group];
    }
    SimulatedRequest request{.arrival_s = now_s, .output_tokens = 1 + random() % 60};
    for (std::size_t block = 0; block < blocks[group]; ++block) {
      request.keys.push_back((static_cast<PrefixKey>(group + 1) << 32) + block);
    }
    const std::size_t question = 1 + random() % 100;
    for (std::size_t block = 0; block < question / kSimulatedBlockTokens; ++block) {
      request.keys.push_back((static_cast<PrefixKey>(i + 1) << 40) + block);
    }
    request.tokens = blocks[group] * kSimulatedBlockTokens + question;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace tiercel
