#include "tests/sim/simulator.h"

#include <algorithm>
#include <span>
#include <utility>

#include "tests/kv/kv_pattern.h"

namespace tiercel::sim {

namespace {

// Configurations do not repeat each other's histories.
std::uint64_t seed_of(const Configuration& configuration, std::uint64_t seed) {
  for (const char letter : std::string_view(configuration.name)) seed = mix(seed, static_cast<std::uint64_t>(letter));
  return seed;
}

}  // namespace

Simulator::Simulator(const Configuration& configuration, std::uint64_t seed, KeyFunction key_function, Tally& tally,
                     Log log)
    : configuration_(configuration),
      random_(seed_of(configuration, seed)),
      tally_(tally),
      log_(std::move(log)),
      model_(draw_shape(configuration, random_), tally),
      has_distant_memory_(configuration.tiers && seed % 3 == 0),
      has_lifetimes_(configuration.lifetimes && below(3) != 0),
      alphabet_(2 + below(3)),
      key_function_(key_function) {
  layout_ = {.layers = 2,
             .kv_heads = 1,
             .head_dim = 4,
             .block_tokens = static_cast<std::uint32_t>(model_.shape.block_tokens),
             .dtype = DType::F16};
  if (seed % 4 == 1) layout_.head_dim = 8, layout_.dtype = DType::Int8;
  stride_ = BlockMemory::stride_of(layout_.block_bytes());
  const PolicyKind kind = configuration.policies[below(configuration.policies.size())];
  options_ = {.capacity_bytes = model_.shape.capacity_blocks * stride_ + below(stride_),
              .prefix_reuse = model_.shape.prefix_reuse,
              .eviction = [this, kind, policy_seed = random_()](std::size_t blocks) {
                auto policy = std::make_unique<WatchingPolicy>(kind, blocks, policy_seed, model_);
                policy_ = policy.get();
                return policy;
              }};
  if (model_.shape.quotas) {
    const std::size_t quota = model_.shape.default_quota_blocks;
    options_.tenant_quota_bytes = quota == 0 ? SIZE_MAX : quota * stride_ + below(stride_);
  }
  groups_.resize(1);
  for (const std::size_t window : model_.shape.windows) {
    groups_.push_back({.window_tokens = static_cast<std::uint32_t>(window)});
  }
  if (configuration.tiers) tiers_.emplace(random_, !has_real_keys());
  begin_process();
}

void Simulator::run() {
  try {
    for (const std::uint64_t steps = 40 + below(tiers_ ? 400 : 160); stepped_ < steps; ++stepped_) {
      step();
      check();
    }
    finish();
  } catch (const Violation& violation) {
    throw Violation("step " + std::to_string(stepped_) + ": " + violation.what());
  }
}

void Simulator::step() {
  struct Action {
    std::uint64_t weight;
    const char* name;
    void (Simulator::*act)();
  };
  static constexpr Action kActions[] = {{24, "admit", &Simulator::admit},
                                        {22, "extend", &Simulator::extend},
                                        {21, "release", &Simulator::release},
                                        {4, "look up", &Simulator::look_up},
                                        {1, "overgrow", &Simulator::overgrow},
                                        {4, "fork", &Simulator::fork},
                                        {5, "expect", &Simulator::expect},
                                        {4, "drop an expectation", &Simulator::drop_expectation},
                                        {3, "warm", &Simulator::warm},
                                        {4, "pin", &Simulator::pin},
                                        {2, "unpin", &Simulator::unpin},
                                        {2, "invalidate", &Simulator::invalidate},
                                        {2, "set a quota", &Simulator::set_quota},
                                        {2, "give bad arguments", &Simulator::bad_arguments}};
  if (one_in(3)) model_.now_ms += below(25);
  tally_.add(Seen::Step);
  if (tiers_ && one_in(2)) return step_of_tiers();
  if (leases_.size() > 3 && one_in(3)) return release();  // else most admissions are refused
  std::uint64_t dice = below(100);
  for (const Action& action : kActions) {
    if (dice >= action.weight) {
      dice -= action.weight;
      continue;
    }
    if (log_) log_("step " + std::to_string(stepped_) + ", " + std::to_string(model_.now_ms) + " ms: " + action.name);
    return (this->*action.act)();
  }
}

// Overdue pins end with the next admit(), fork() or pin(), or with a load. Where a call may fail before that, or it is
// not known whether there is one, they are ended first.
void Simulator::settle_pins() {
  if ((!configuration_.faults && !tiers_) || !model_.has_overdue_pins()) return;
  model_.begin_call(Call::Kind::Quiet);
  model_.end_overdue_pins();
  demand_code(cache_->pin({}, {}).status(), StatusCode::NotFound, "pin() of nothing");
  check_end_of_call();
}

void Simulator::admit() {
  const std::size_t scope = draw_scope();
  admit(scope, draw_text(model_.shape.capacity_blocks * model_.shape.block_tokens / (one_in(8) ? 1 : 3)));
}

void Simulator::admit(std::size_t scope, const Text& prompt) {
  const Tokens tokens = to_tokens(prompt);
  const AdmitOptions options = draw_options(scope, prompt);
  settle_pins();
  const std::size_t found = cache_->lookup(tokens, options);
  demand_equal(found, model_.match(scope, prompt, options.max_matched_tokens, options.partial_blocks).tokens,
               "lookup() before admit()");

  const std::size_t total = model_.blocks_for(options.max_tokens);
  const bool fits = total * model_.groups() <= model_.shape.capacity_blocks;
  model_.begin_call(Call::Kind::Take, scope);
  if (fits) model_.end_overdue_pins();
  const Match match = model_.match(scope, prompt, options.max_matched_tokens, options.partial_blocks);
  const std::size_t whole = match.path.size();
  const StatusCode expected = model_.admission(scope, total, model_.groups() * (total - whole),
                                               model_.newly_held(model_.blocks_in_reach(match.path)));
  if (expected == StatusCode::Ok) {
    model_.begin_sequence(scope, match, prompt, options);
    model_.call.takes = !match.sources.empty();
    model_.call.copies = !match.sources.empty();
    model_.call.copy_sources = match.sources;
    model_.call.copy_retention = options.retention;
  } else {
    model_.call.kind = Call::Kind::Quiet;
  }
  auto admitted = call("admit()", [&] { return cache_->admit(tokens, options); });
  const bool failed = fault_fired() && admitted.status().code() == StatusCode::Unavailable;
  if (failed) {
    if (expected == StatusCode::Ok) model_.sequences.pop_back();
    tally_.add(Seen::FaultSeen);
    return check_end_of_call(true);
  }
  trace_.push_back(static_cast<std::uint64_t>(admitted.status().code()));
  demand_code(admitted.status(), expected, "admit()");
  tally_.add(Seen::TooLarge, expected == StatusCode::ResourceExhausted);
  tally_.add(Seen::Unavailable, expected == StatusCode::Unavailable);
  tally_.add(Seen::Rejected, expected == StatusCode::Rejected);
  if (expected != StatusCode::Ok) return check_end_of_call();

  leases_.push_back(*std::move(admitted));
  check_new_blocks(leases_.size() - 1);
  check_end_of_call();
  if (model_.call.copied_from != kNoBlock) model_.note_copy(*model_.sequences.back());
  demand_equal(leases_.back().matched_tokens(), match.tokens, "matched_tokens()");
  const std::vector<BlockId>& table = model_.sequences.back()->tables[0];
  demand_equal(table.size(), model_.blocks_for(match.tokens), "the blocks of a new lease");
  tally_.add(Seen::Hit, match.tokens > 0);
  tally_.add(Seen::Copy, !match.sources.empty());
  tally_.add(Seen::CopyInPlace, !table.empty() && match.sources.contains(table.back()));
  counted_.prompt_tokens += prompt.size();
  counted_.matched_tokens += match.tokens;
  counted_.copied_tokens += match.tokens - whole * model_.shape.block_tokens;
  note_use_of_loaded(whole, match.tokens - whole * model_.shape.block_tokens);
  ++counted_.admitted;
  verify_bytes(*model_.sequences.back());
  scribble(*model_.sequences.back());
  // Most runners compute what they said they would, at once or in pieces.
  if (!one_in(4)) append(leases_.size() - 1, prompt.substr(match.tokens, one_in(2) ? below(8) : SIZE_MAX), true);
  if (one_in(2)) remember(prompt);
}

void Simulator::extend() {
  if (leases_.empty()) return;
  const std::size_t index = below(leases_.size());
  const Sequence& sequence = *model_.sequences[index];
  const std::size_t room = sequence.max_tokens - sequence.tokens.size();
  Text tokens = sequence.announced.size() > sequence.tokens.size() && !one_in(4)
                    ? sequence.announced.substr(sequence.tokens.size())
                    : draw_text(2 * model_.shape.block_tokens);
  tokens.resize(std::min({tokens.size(), room, std::size_t{1} + below(2 * model_.shape.block_tokens)}));
  const bool share = !one_in(12);
  tally_.add(Seen::KeptPrivate, !share && !tokens.empty());
  append(index, tokens, share, !one_in(6));
  if (one_in(4)) remember(model_.sequences[index]->tokens);
}

void Simulator::grow(std::size_t index, std::size_t tokens) {
  const Sequence& sequence = *model_.sequences[index];
  const std::size_t wanted = std::max(model_.blocks_for(tokens), sequence.tables[0].size());
  model_.begin_call(Call::Kind::Take, sequence.scope, model_.groups() * (wanted - sequence.tables[0].size()));
  demand_code(call("grow()", [&] { return leases_[index].grow(tokens); }), StatusCode::Ok, "grow() within max_tokens");
  check_new_blocks(index);
  demand_equal(sequence.tables[0].size(), wanted, "the blocks after grow()");
  check_end_of_call();
  scribble(sequence);
}

// Grows, writes and commits, as a runner would.
void Simulator::append(std::size_t index, const Text& tokens, bool share, bool copyable) {
  Sequence& sequence = *model_.sequences[index];
  const std::size_t first = sequence.tokens.size();
  grow(index, std::min(first + tokens.size() + below(3), sequence.max_tokens));
  const std::vector<std::vector<BlockId>> tables = sequence.tables;
  model_.begin_call(Call::Kind::Quiet, sequence.scope);
  model_.commit(sequence, tokens, share, copyable);
  for (std::size_t group = 0; group < tables.size(); ++group) {
    for (std::size_t i = first; i < sequence.tokens.size(); ++i) {
      write_kv(*cache_, tables[group], i, mix(sequence.words[i], group));
    }
  }
  const Tokens committed = to_tokens(tokens);
  call("commit()", [&] { leases_[index].commit(committed, share, copyable); });
  check_end_of_call();
  demand_equal(leases_[index].committed_tokens(), sequence.tokens.size(), "committed_tokens()");
  check_new_blocks(index);
  trace_.insert(trace_.end(), sequence.tables[0].begin(), sequence.tables[0].end());
  verify_bytes(sequence);
}

void Simulator::overgrow() {
  if (leases_.empty()) return;
  const std::size_t index = below(leases_.size());
  const std::size_t most = model_.sequences[index]->max_tokens;
  demand_code(call("grow()", [&] { return leases_[index].grow(most + 1); }), StatusCode::ResourceExhausted,
              "grow() beyond max_tokens");
  check_new_blocks(index);
  grow(index, most);
}

void Simulator::release() {
  if (leases_.empty()) return;
  const std::size_t index = below(leases_.size());
  verify_bytes(*model_.sequences[index]);
  model_.begin_call(Call::Kind::Quiet);
  model_.end_sequence(index);
  std::swap(leases_[index], leases_.back());
  if (one_in(2)) {
    call("a lease's end", [&] { leases_.back() = Lease(); });
  } else {
    call("a lease's end", [&] { const Lease last = std::move(leases_.back()); });
  }
  leases_.pop_back();
  check_end_of_call();
}

void Simulator::fork() {
  if (leases_.empty()) return;
  const std::size_t index = below(leases_.size());
  const Sequence& source = *model_.sequences[index];
  const std::size_t max_tokens = source.tokens.size() + below(3 * model_.shape.block_tokens);
  const std::size_t full = source.tokens.size() / model_.shape.block_tokens;
  const bool begun = source.tokens.size() % model_.shape.block_tokens != 0;
  const std::size_t total = model_.blocks_for(max_tokens);
  settle_pins();
  model_.begin_call(Call::Kind::Take, source.scope, begun ? model_.groups() : 0);
  if (total * model_.groups() <= model_.shape.capacity_blocks) model_.end_overdue_pins();
  const StatusCode expected = model_.admission(source.scope, total, model_.groups() * (total - full), 0);
  if (expected == StatusCode::Ok) {
    model_.fork_sequence(source, max_tokens);
  } else {
    model_.call.kind = Call::Kind::Quiet;
  }
  auto forked = call("fork()", [&] { return leases_[index].fork(max_tokens); });
  trace_.push_back(static_cast<std::uint64_t>(forked.status().code()));
  if (fault_fired() && forked.status().code() == StatusCode::Unavailable) {
    if (expected == StatusCode::Ok) model_.sequences.pop_back();
    tally_.add(Seen::FaultSeen);
    return check_end_of_call(true);
  }
  demand_code(forked.status(), expected, "fork()");
  if (expected != StatusCode::Ok) {
    tally_.add(Seen::ForkRefused);
    return check_end_of_call();
  }
  leases_.push_back(*std::move(forked));
  check_new_blocks(leases_.size() - 1);
  check_end_of_call();
  demand_equal(leases_.back().matched_tokens(), source.tokens.size(), "matched_tokens() of a fork");
  demand_equal(leases_.back().committed_tokens(), source.tokens.size(), "committed_tokens() of a fork");
  demand_equal(model_.sequences.back()->tables[0].size(), full + begun, "the blocks of a fork");
  ++counted_.admitted;
  tally_.add(Seen::Fork);
  tally_.add(Seen::ForkOfBegunBlock, begun);
  verify_bytes(*model_.sequences.back());
  scribble(*model_.sequences.back());
  verify_bytes(source);
}

void Simulator::look_up() {
  const std::size_t scope = draw_scope();
  const Text prompt = draw_known_text();
  const Tokens tokens = to_tokens(prompt);
  const AdmitOptions options = draw_options(scope, prompt);
  model_.begin_call(Call::Kind::Quiet);
  const std::size_t found = call("lookup()", [&] { return cache_->lookup(tokens, options); });
  check_end_of_call();
  if (fault_fired() && found == 0) return;
  demand_equal(found, model_.match(scope, prompt, options.max_matched_tokens, options.partial_blocks).tokens,
               "lookup()");
}

void Simulator::expect() {
  const std::size_t scope = draw_scope();
  expect(scope, draw_known_text());
}

void Simulator::expect(std::size_t scope, Text prompt) {
  const AdmitOptions options = draw_options(scope, prompt);
  waiting_.push_back({.tokens = to_tokens(prompt), .handle = {}});
  model_.begin_call(Call::Kind::Quiet);
  auto handle = call("expect()", [&] { return cache_->expect(waiting_.back().tokens, options); });
  check_end_of_call();
  if (fault_fired() || !model_.shape.prefix_reuse) {
    demand_equal(model_.shape.prefix_reuse ? 0 : handle.cached_tokens(), 0, "cached_tokens() without prefix_reuse");
    return waiting_.pop_back();  // the handle may be empty
  }
  if (tiers_) check_awaited(scope, prompt, handle.awaited_tokens());
  waiting_.back().handle = std::move(handle);
  prompt.resize(std::min(prompt.size(), options.max_matched_tokens) / model_.shape.block_tokens *
                model_.shape.block_tokens);
  model_.expectations.push_back({.scope = scope, .tokens = std::move(prompt)});
}

void Simulator::drop_expectation() {
  if (waiting_.empty()) return;
  const std::size_t index = below(waiting_.size());
  std::swap(waiting_[index], waiting_.back());
  std::swap(model_.expectations[index], model_.expectations.back());
  model_.begin_call(Call::Kind::Quiet);
  model_.expectations.pop_back();
  call("an expectation's end", [&] { waiting_.back().handle = ExpectedPrompt(); });
  waiting_.pop_back();
  check_end_of_call();
}

void Simulator::warm() {
  const std::size_t scope = draw_scope();
  const Text prompt = draw_known_text();
  const Tokens tokens = to_tokens(prompt);
  const AdmitOptions options = draw_options(scope, prompt);
  const Match match = model_.match(scope, prompt, options.max_matched_tokens, options.partial_blocks);
  model_.begin_call(Call::Kind::Quiet);
  model_.warm(match, options.retention);
  const std::size_t warmed = call("warm()", [&] { return cache_->warm(tokens, options); });
  const bool failed = fault_fired() && warmed == 0;
  check_end_of_call(failed);
  if (!failed) demand_equal(warmed, match.path.size() * model_.shape.block_tokens, "warm()");
}

void Simulator::pin() {
  settle_pins();
  const std::size_t scope = draw_scope();
  const Text prompt = draw_known_text();
  const Tokens tokens = to_tokens(prompt);
  const std::uint64_t ttl_ms = draw_time_to_live(80);
  model_.begin_call(Call::Kind::Quiet);
  model_.end_overdue_pins();
  const Match match = model_.match(scope, prompt, SIZE_MAX, false);
  const bool known = !match.path.empty() && model_.pins.contains(match.path.back()->first);
  StatusCode expected = match.path.empty() ? StatusCode::NotFound : StatusCode::Ok;
  if (expected == StatusCode::Ok && !known) {
    const std::vector<BlockId> blocks = model_.blocks_in_reach(match.path);
    std::set<BlockId> pinned = model_.pinned();
    pinned.insert(blocks.begin(), blocks.end());
    expected = pinned.size() > model_.shape.capacity_blocks / 2
                   ? StatusCode::ResourceExhausted
                   : model_.admission(scope, 0, 0, model_.newly_held(blocks));
  }
  const auto pinned = call("pin()", [&] { return cache_->pin(tokens, scope_of(scope), ttl_ms); });
  trace_.push_back(static_cast<std::uint64_t>(pinned.status().code()));
  if (fault_fired() && pinned.status().code() == StatusCode::Unavailable) {
    tally_.add(Seen::FaultSeen);
    return check_end_of_call(true);
  }
  check_end_of_call();
  demand_code(pinned.status(), expected, "pin()");
  tally_.add(Seen::PinRefused, expected != StatusCode::Ok && expected != StatusCode::NotFound);
  if (expected != StatusCode::Ok) return;
  demand_equal(*pinned, match.path.size() * model_.shape.block_tokens, "the tokens pinned");
  tally_.add(known ? Seen::PinRenewed : Seen::PinMade);
  model_.add_pin(match, ttl_ms);
}

void Simulator::unpin() {
  const std::size_t scope = draw_scope();
  const Text prompt = draw_known_text();
  const Tokens tokens = to_tokens(prompt);
  model_.begin_call(Call::Kind::Quiet);
  const std::size_t expected = model_.end_pins_on(scope, prompt);
  const std::size_t ended = call("unpin()", [&] { return cache_->unpin(tokens, scope_of(scope)); });
  demand_equal(ended, expected, "the pins ended");
  check_end_of_call();
}

void Simulator::invalidate() {
  const std::size_t scope = draw_scope();
  const Text prefix = draw_known_text();
  const Tokens tokens = to_tokens(prefix);
  const std::uint64_t dice = below(8);
  model_.begin_call(Call::Kind::Forget, scope);
  std::size_t expected = 0, forgotten = 0;
  if (dice == 0) {
    expected = model_.forget_all();
    forgotten = call("invalidate_all()", [&] { return cache_->invalidate_all(); });
  } else if (dice == 1) {
    expected = model_.forget_tenant(scope_of(scope).salt);
    forgotten = call("invalidate_tenant()", [&] { return cache_->invalidate_tenant(scope_of(scope).salt); });
  } else {
    expected = model_.forget(scope, prefix);
    forgotten = call("invalidate()", [&] { return cache_->invalidate(tokens, scope_of(scope)); });
  }
  check_end_of_call();
  demand_equal(forgotten, expected, "the blocks forgotten");
  if (!tiers_) return;
  erasing_ = true;
  forget_flushed();
  for (std::size_t tier = 0; tier < tier_manager().tiers() && (dice < 2 || !prefix.empty()); ++tier) {
    demand(!tier_manager().worker(tier).is_readable(), "a tier is read before it has forgotten");
  }
}

void Simulator::set_quota() {
  const std::string& salt = scope_of(draw_scope()).salt;
  const std::size_t blocks = one_in(3) ? 0 : 1 + below(model_.shape.capacity_blocks);
  model_.begin_call(Call::Kind::Quiet);
  if (!model_.shape.quotas) {
    return demand_code(call("set_tenant_quota()", [&] { return cache_->set_tenant_quota(salt, blocks * stride()); }),
                       StatusCode::InvalidArgument, "set_tenant_quota() without quotas");
  }
  const Status status = call("set_tenant_quota()",
                             [&] { return cache_->set_tenant_quota(salt, blocks * stride() + (blocks > 0 ? 7 : 0)); });
  check_end_of_call();
  if (fault_fired() && status.code() == StatusCode::Unavailable) return tally_.add(Seen::FaultSeen);
  demand_code(status, StatusCode::Ok, "set_tenant_quota()");
  model_.quotas.erase(salt);
  if (blocks > 0) model_.quotas[salt] = blocks;
}

void Simulator::bad_arguments() {
  tally_.add(Seen::BadArgument);
  model_.begin_call(Call::Kind::Quiet);
  const Tokens tokens = to_tokens(draw_text(1000) + 'a');
  const auto too_long = call("admit()", [&] { return cache_->admit(tokens, {.max_tokens = tokens.size() - 1}); });
  demand_code(too_long.status(), StatusCode::InvalidArgument, "admit() of a prompt longer than max_tokens");
  demand_equal(cache_->lookup(tokens, {.max_matched_tokens = 0}), 0, "lookup() of nothing");
  demand_equal(cache_->invalidate({}), 0, "invalidate() of nothing");
  demand_code(call("grow()", [] { return Lease().grow(1); }), StatusCode::ResourceExhausted,
              "grow() of an empty lease");
  const auto fork_of_nothing = call("fork()", [] { return Lease().fork(1); });
  demand_code(fork_of_nothing.status(), StatusCode::InvalidArgument, "fork() of an empty lease");
  demand_code(call("set_tenant_quota()", [&] { return cache_->set_tenant_quota("", 1); }), StatusCode::InvalidArgument,
              "a quota of less than a block");
  for (std::size_t i = 0; i < leases_.size(); ++i) {
    const std::size_t committed = model_.sequences[i]->tokens.size();
    if (committed == 0) continue;
    const auto too_short = call("fork()", [&] { return leases_[i].fork(committed - 1); });
    demand_code(too_short.status(), StatusCode::InvalidArgument, "fork() of less than there is");
  }
  check_end_of_call();
}

}  // namespace tiercel::sim
