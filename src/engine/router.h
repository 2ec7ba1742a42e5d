// Which replica takes a request: the one that is expected to answer it first, all in all.
//
//   work      What it would compute of the prompt, what waits there to be computed before it, and the steps of the
//             streams that run beside it, in prompt tokens. What a replica has in its hot arena need not be computed,
//             nor what it is computing or was given to compute (RoutedPrefixes). Computing counts more than waiting as
//             long: it takes the time of others and the room of what is cached. So a prefix stays where it is until
//             what waits there costs more than computing it elsewhere; then it is computed there too, and is hot in
//             both. (Preble, Srivatsa et al., ICLR 2025: exploit, or explore at the least cost of load and eviction.)
//   places    Where all places of a batch are taken, some sequences must end first: that is work too.
//   balance   A replica with far more sequences than the least is left out, as in SGLang's cache-aware router
//             (balance_abs_threshold, balance_rel_threshold): streams slow each other down in ways not counted here.
//   health    One whose steps fail, or do not end, is left out. One that computes more slowly counts by its pace.
//
// Equal ones: the fewest sequences; then who has been given the fewest tokens to compute, so that arenas fill evenly.
//
// A pure decision over what it is told, without threads or clock. Memory: of each request until it ends, and of the
// prefixes a bounded number of keys. Not synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/routed_prefixes.h"

namespace tiercel {

struct RouterLimits {
  std::size_t replicas = 1;
  std::size_t step_tokens = 1024;  // SchedulerLimits, of each
  std::size_t places = 128;
  std::size_t block_tokens = 32;
  std::size_t most_keys = RoutedPrefixes::kMostKeys;
};

struct RoutedPrompt {
  std::size_t tokens = 0;  // at least 1
  // Of its whole blocks, each of all tokens up to the block's end and of their scope.
  std::span<const PrefixKey> keys = {};
  int priority = 0;
  std::size_t sequences = 1;      // choices to draw
  std::size_t output_tokens = 0;  // of each, at most
  bool reuses = true;             // false: it computes its whole prompt wherever it goes
};

// What is known of a replica besides what the router gave it.
struct ReplicaView {
  std::size_t cached_tokens = 0;  // leading ones of the prompt, in its hot arena
  bool available = true;          // where none is, all count as such
  double pace_s = 0;              // for a token of a prompt, lately; 0: not known
};

class Router {
 public:
  explicit Router(const RouterLimits& limits);

  // Names a request until its end.
  using Ticket = std::uint64_t;
  struct Decision {
    std::size_t replica = 0;
    Ticket ticket = 0;
    std::size_t expected_tokens = 0;  // that the replica need not compute for it
  };
  // From now on the request counts as the replica's. `views`: of each replica.
  Decision route(const RoutedPrompt& prompt, std::span<const ReplicaView> views);

  // So many tokens of its prompt are still to be computed. 0: its prefix is in the arena.
  void set_prompt_left(Ticket ticket, std::size_t tokens);
  // The request has ended.
  void end(Ticket ticket);

  std::size_t sequences(std::size_t replica) const { return replicas_[replica].sequences; }
  std::size_t prompt_tokens(std::size_t replica) const;  // still to be computed there
  std::size_t keys() const { return prefixes_.keys(); }

 private:
  // Of the requests of one priority.
  struct Tally {
    std::size_t prompt_tokens = 0, sequences = 0, output_tokens = 0;
  };
  struct Replica {
    std::map<int, Tally> by_priority;
    std::size_t sequences = 0;
    std::uint64_t given_tokens = 0;  // to compute, ever
  };
  struct Routed {
    std::size_t replica = 0;
    int priority = 0;
    std::size_t prompt_tokens = 0, sequences = 0, output_tokens = 0;
  };
  double cost(const Replica& replica, const RoutedPrompt& prompt, std::size_t known_tokens) const;
  Tally& tally(const Routed& routed);

  const RouterLimits limits_;
  std::vector<Replica> replicas_;
  std::unordered_map<Ticket, Routed> routed_;
  RoutedPrefixes prefixes_;
  Ticket last_ticket_ = 0;
};

}  // namespace tiercel
