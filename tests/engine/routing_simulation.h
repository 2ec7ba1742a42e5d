// Replicas as plain as can be, to try routing on: each has a queue, a batch that takes up to so many tokens in a step,
// and a set of cached blocks of which the least recently used go. Time is virtual: a step takes as long as its tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/router.h"

namespace tiercel {

inline constexpr std::size_t kSimulatedBlockTokens = 32;

struct SimulatedRequest {
  double arrival_s = 0;
  std::vector<PrefixKey> keys = {};  // of its whole blocks
  std::size_t tokens = 0, output_tokens = 1;
  int priority = 0;
};

struct SimulationOptions {
  std::size_t replicas = 2;
  std::size_t cached_blocks = 1000;  // of each
  std::size_t step_tokens = 512, places = 32;
  std::vector<double> token_s = {};  // of each replica; empty: 0.3 ms
};

struct SimulationResult {
  double hit_rate = 0;
  double mean_ttft_s = 0, worst_ttft_s = 0, end_s = 0;
  std::size_t answered = 0;
  std::vector<std::size_t> requests;        // of each replica
  std::size_t most_sequences_apart = 0;     // of two replicas, at any arrival
  std::size_t most_keys = 0;                // of the router
  std::vector<std::size_t> left_sequences;  // what the router says of each, at the end
};

enum class Routing { Cache, RoundRobin, LeastLoaded, LongestPrefix };

SimulationResult simulate(const std::vector<SimulatedRequest>& requests, Routing routing,
                          const SimulationOptions& options);

// Requests with shared prefixes: `groups` of them, of which some are far more popular than others, each with a question
// of its own behind it.
struct WorkloadOptions {
  std::uint64_t seed = 1;
  std::size_t requests = 2000, groups = 40;
  std::size_t prefix_blocks = 40;  // at most
  double requests_per_s = 20;
  double skew = 1;  // of Zipf's law; 0: all alike
};
std::vector<SimulatedRequest> make_workload(const WorkloadOptions& options);

}  // namespace tiercel
