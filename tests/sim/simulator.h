// One random history of a small KV cache, every answer, count and byte of it held against the model.
//
// Everything follows from the configuration and the seed. What goes wrong is thrown as a Violation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <ostream>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kv/kv_cache_state.h"
#include "tests/sim/allocation_faults.h"
#include "tests/sim/model.h"
#include "tests/sim/simulated_tiers.h"
#include "tests/sim/tally.h"
#include "tests/sim/watching_policy.h"
#include "tiercel/kv_cache.h"

namespace tiercel::sim {

struct Configuration {
  const char* name = "";
  // Two of three histories have them where they are on.
  bool windows = false;
  bool quotas = false;
  bool lifetimes = false;  // priorities and times to live
  std::vector<PolicyKind> policies = {PolicyKind::Lru};
  bool faults = false;  // memory runs out within calls
  bool tiers = false;   // and restarts
  std::vector<Seen> reaches = {};
};

// What a failed test of this configuration is called.
inline void PrintTo(const Configuration& configuration, std::ostream* out) { *out << configuration.name; }

class Violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Simulator {
 public:
  // `log`: called with each step before it is done; may be empty.
  using Log = std::function<void(const std::string&)>;
  Simulator(const Configuration& configuration, std::uint64_t seed, KeyFunction key_function, Tally& tally, Log log);

  // The history, and the end of everything in it.
  void run();
  // What was answered; the same for every key function.
  const std::vector<std::uint64_t>& trace() const { return trace_; }

 private:
  using Tokens = std::vector<TokenId>;
  struct Waiting {
    Tokens tokens;  // before the handle, which points to them
    ExpectedPrompt handle;
  };

  // ---- simulator.cc: what a history is made of
  void step();
  void admit();
  void admit(std::size_t scope, const Text& prompt);
  void extend();
  void overgrow();
  void release();
  void fork();
  void look_up();
  void expect();
  void expect(std::size_t scope, Text prompt);
  void drop_expectation();
  void warm();
  void pin();
  void unpin();
  void invalidate();
  void set_quota();
  void bad_arguments();
  void append(std::size_t index, const Text& tokens, bool share, bool copyable = true);
  void grow(std::size_t index, std::size_t tokens);

  // Makes one call of the cache; with faults on, memory may run out in it. No exception may leave it.
  template <class Function>
  std::invoke_result_t<Function> call(const char* what, Function function);
  bool fault_fired() const { return fault_fired_; }
  void settle_pins();

  // ---- simulator_tiers.cc: what happens below the hot arena
  void step_of_tiers();
  void say(const std::string& what) const;
  void say_step(const char* what) const;
  void turn_worker();
  bool turn_worker(std::size_t tier);
  void meddle(double began_s);
  std::vector<std::byte> as_in_blocks(std::vector<std::byte> bytes) const;
  void settle_load();
  ContentKey key_of(const Text& path) const;
  void check_stores();
  void check_awaited(std::size_t scope, const Text& prompt, std::size_t awaited_tokens);
  void drain();
  void serve();
  void flush();
  void begin_process();
  void end_process();
  void note_use_of_loaded(std::size_t whole_blocks, std::size_t copied_tokens);
  void note_evictions();
  void forget_flushed();
  void check_tiers();
  void check_flushed();
  TierManager& tier_manager() const { return *state().tiers(); }
  bool has_real_keys() const { return key_function_ == &xxh3_key; }

  // ---- simulator_draw.cc: at random
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  bool one_in(std::uint64_t count) { return below(count) == 0; }
  static Shape draw_shape(const Configuration& configuration, std::mt19937_64& random);
  Text draw_text(std::size_t most);
  Text draw_known_text();
  std::size_t draw_scope();
  Retention draw_retention();
  std::uint64_t draw_time_to_live(std::uint64_t most);
  AdmitOptions draw_options(std::size_t scope, const Text& prompt);
  void remember(const Text& text);
  static Tokens to_tokens(const Text& text) { return Tokens(text.begin(), text.end()); }

  // ---- simulator_checks.cc: what must be so
  void check();
  void check_references();
  void check_statistics();
  void check_evictable();
  void check_expectations();
  void check_end_of_call(bool failed = false);
  void check_new_blocks(std::size_t index);
  void verify_bytes(const Sequence& sequence) const;
  void verify_cached_bytes() const;
  void scribble(const Sequence& sequence);
  void finish();
  void end_something();
  void outlive_cache();
  void empty_cache();

  KvCacheState& state() const { return *state_; }
  std::size_t stride() const { return stride_; }

  const Configuration& configuration_;
  std::mt19937_64 random_;
  Tally& tally_;
  const Log log_;
  Model model_;
  const bool has_distant_memory_;  // blocks are where tiers cannot reach them
  const bool has_lifetimes_;
  const std::size_t alphabet_;
  const KeyFunction key_function_;
  KvLayout layout_;
  std::vector<KvGroup> groups_;
  KvCacheOptions options_;
  std::size_t stride_ = 0;
  std::optional<SimulatedTiers> tiers_;  // before the cache, which ends first
  WatchingPolicy* policy_ = nullptr;     // the cache's
  std::optional<KvCache> cache_;
  KvCacheState* state_ = nullptr;
  std::vector<Lease> leases_;     // in the order of model_.sequences
  std::vector<Waiting> waiting_;  // in the order of model_.expectations
  std::vector<Text> seen_;
  KvCacheStats counted_;  // what the totals should be
  std::uint64_t stepped_ = 0;
  bool fault_fired_ = false;
  std::vector<std::uint64_t> trace_;

  // What must be on the disk: everything cached at a flush() that was Ok, and not forgotten since.
  std::set<Text> flushed_[kModels];
  std::uint64_t evicted_at_flush_ = 0;
  std::uint64_t matched_from_tiers_ = 0;
  std::uint64_t read_directly_ = 0;  // from the disk, past the cache
  bool breaker_is_open_ = false;
  bool is_unsure_ = false;    // the disk lost, in a process before, what this one takes for safe
  bool erasing_ = false;      // something was invalidated, and may not have left the disk
  bool was_damaged_ = false;  // the disk, at any time
  bool had_faults_ = false;
};

// Throws where a condition does not hold.
void demand(bool condition, const char* what);
void demand_equal(std::uint64_t actual, std::uint64_t expected, const char* what);
void demand_code(const Status& actual, StatusCode expected, const char* what);

template <class Function>
std::invoke_result_t<Function> Simulator::call(const char* what, Function function) {
  struct Disarm {
    Simulator& simulator;
    ~Disarm() {
      simulator.fault_fired_ = allocation_faults.fired;
      allocation_faults = {};
    }
  };
  AllocationFaults faults;
  if (configuration_.faults && one_in(6)) faults = {.allocations_left = 1 + below(8), .last = one_in(2)};
  try {
    const Disarm disarm{*this};
    allocation_faults = faults;
    return function();
  } catch (const std::bad_alloc&) {
    throw Violation("std::bad_alloc left " + std::string(what));
  }
}

}  // namespace tiercel::sim
