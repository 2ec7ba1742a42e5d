// What happens to the tiers of a history: their workers turn between the calls of the cache, processes end, the disk
// fails.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kv/block_key.h"
#include "tests/kv/distant_memory.h"
#include "tests/kv/kv_pattern.h"
#include "tests/sim/simulator.h"

namespace tiercel::sim {
namespace {

std::size_t scope_in(const Text& path) { return static_cast<std::size_t>(path[0] - 'A'); }

// Whether the bytes of a block say so, by token.
bool bytes_hold(const KvLayout& layout, const std::byte* block, const std::vector<std::uint64_t>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (!holds_kv(layout, block, i, mix(words[i], 0))) return false;
  }
  return true;
}

}  // namespace

// ---- Processes

void Simulator::begin_process() {
  KvCacheOptions options = options_;
  KvCacheSeams seams{.key_function = key_function_, .now_ms = [this] { return model_.now_ms; }};
  if (tiers_) {
    options.tiers = tiers_->make_stores();
    options.tier_writes = static_cast<WritePolicy>(below(3));
    options.tier_deadline_ms = static_cast<std::uint64_t>(1000 * SimulatedTiers::kDeadline_s);
    seams.tier_now_s = [this] { return tiers_->now_s; };
    seams.background_thread = false;
  }
  std::shared_ptr<const BlockMemory> memory;
  if (has_distant_memory_) {
    memory = std::make_shared<DistantMemory>(options.capacity_bytes / stride_, layout_.block_bytes());
  }
  auto opened =
      KvCacheState::open(options, layout_, {{model_.model_number(), 0}}, groups_, std::move(seams), std::move(memory));
  demand_code(opened.status(), StatusCode::Ok, "open()");
  cache_ = *std::move(opened);
  state_ = &KvCacheState::of(*cache_);
}

void Simulator::end_process() {
  const auto how = one_in(2) ? SimulatedTiers::End::Kill : SimulatedTiers::End::PowerLoss;
  switch (below(4)) {
    case 0:
      tally_.add(Seen::Closed);
      flush();
      break;
    case 1:
      tiers_->snapshot_later(how, 1 + below(12));
      for (int turn = 0; turn < 6 && !tiers_->has_snapshot(); ++turn) turn_worker();
      if (!tiers_->has_snapshot()) {
        drain();
        model_.begin_call(Call::Kind::Quiet);
        static_cast<void>(cache_->flush());
        check_end_of_call();
      }
      tally_.add(Seen::EndedInOperation, tiers_->has_snapshot());
      [[fallthrough]];
    default:
      if (!tiers_->has_snapshot()) tiers_->snapshot(how);
      tally_.add(how == SimulatedTiers::End::Kill ? Seen::Killed : Seen::PowerLost);
  }
  say(how == SimulatedTiers::End::Kill ? "  killed, unless it was closed" : "  power lost, unless it was closed");
  const KvTierStats disk = state().stats().tiers.at(SimulatedTiers::kDisk);
  tally_.add(Seen::TierCorrupt, disk.store.corrupt_blocks);
  tally_.add(Seen::TierFailed, disk.errors);
  tally_.add(Seen::TierLate, disk.late);
  tally_.add(Seen::TierEvicted, disk.store.evicted_blocks);

  // What the old process does from here on reaches no disk that is looked at again, or is a close.
  tiers_->end_faults();
  model_.begin_call(Call::Kind::Ignored);
  waiting_.clear();
  leases_.clear();
  cache_.reset();
  note_evictions();
  tiers_->restart();
  is_unsure_ = tiers_->has_given_up();
  const bool damaged = one_in(8) && tiers_->damage();
  tally_.add(Seen::Damaged, damaged);
  const std::size_t model_number = one_in(4) ? below(kModels) : model_.model_number();
  if (model_number != model_.model_number()) {
    tally_.add(Seen::OtherModel);
    if (tiers_->is_small()) flushed_[model_number].clear();
  }
  model_.restart(model_number, damaged);
  was_damaged_ = was_damaged_ || damaged;
  counted_ = {};
  matched_from_tiers_ = read_directly_ = 0;
  breaker_is_open_ = erasing_ = false;
  evicted_at_flush_ = 0;
  say("  the next one is of model " + std::to_string(model_number) + (damaged ? ", the disk is damaged" : ""));
  begin_process();
  check_flushed();
}

void Simulator::say(const std::string& what) const {
  if (log_) log_(what);
}

void Simulator::say_step(const char* what) const {
  say("step " + std::to_string(stepped_) + ", " + std::to_string(tiers_->now_s) + " s: " + what);
}

// ---- Workers

void Simulator::step_of_tiers() {
  const std::uint64_t dice = below(100);
  if (dice < 45) {
    say_step("a tier's worker turns");
    turn_worker();
  } else if (dice < 65) {
    say_step("a prompt waits for the tiers");
    serve();
  } else if (dice < 72) {
    say_step("the tiers' workers turn until they are done");
    drain();
  } else if (dice < 76) {
    say_step("flush");
    flush();
  } else if (dice < 78) {
    say_step("the process ends");
    end_process();
  } else if (dice < 85) {
    say_step("faults of the disk begin or end");
    for (std::size_t other = 0; other < kModels; ++other) {
      if (other != model_.model_number()) flushed_[other].clear();  // their evictions are not seen here
    }
    had_faults_ = true;
    one_in(2) ? tiers_->draw_faults() : tiers_->end_faults();
  } else if (dice < 96) {
    say_step("time passes");
    tiers_->now_s += 0.1 * static_cast<double>(below(40));
  } else {
    say_step("report_prefill");
    cache_->report_prefill(1 + below(100), below(50), 1e-5 * std::pow(10.0, static_cast<double>(below(7))));
  }
  // An erasure is for good when it is done, unless it failed.
  const TierWorker& disk = tier_manager().worker(SimulatedTiers::kDisk);
  if (disk.monitor().counts().errors == 0 && tier_manager().worker(SimulatedTiers::kDisk).is_readable()) {
    model_.forget_for_good();
    erasing_ = false;
  }
}

void Simulator::turn_worker() { turn_worker(below(tier_manager().tiers())); }

bool Simulator::turn_worker(std::size_t tier) {
  settle_pins();
  struct Meddling {
    SimulatedTiers& tiers;
    ~Meddling() { tiers.meanwhile = {}; }
  } const meddling{*tiers_};
  tiers_->meanwhile = [this, began_s = tiers_->now_s] { meddle(began_s); };
  model_.begin_call(Call::Kind::Load);
  const bool worked = tier_manager().worker(tier).run_one();
  settle_load();
  // What cannot be read may be what is to be forgotten, and is.
  if (erasing_ && tiers_->has_faults()) flushed_[model_.model_number()].clear();
  const TierMonitor::Health health = tier_manager().worker(SimulatedTiers::kDisk).monitor().health();
  const bool open = !health.reads || !health.writes;
  if (open != breaker_is_open_) tally_.add(open ? Seen::BreakerOpen : Seen::BreakerClosedAgain);
  breaker_is_open_ = open;
  return worked;
}

// Within an operation of the disk: nothing waits for it, and what is forgotten now is not shared when it ends.
void Simulator::meddle(double began_s) {
  if (tiers_->now_s - began_s > SimulatedTiers::kDeadline_s) {
    demand(!tier_manager().worker(SimulatedTiers::kDisk).is_readable(), "a tier that hangs is asked");
  }
  const Call outer = std::exchange(model_.call, {});
  if (one_in(3)) {
    say("  within its operation: invalidate");
    tally_.add(Seen::ForgottenInOperation);
    invalidate();
  } else {
    look_up();
  }
  model_.call = outer;
}

ContentKey Simulator::key_of(const Text& path) const {
  const Scope& scope = scope_of(scope_in(path));
  const ContentKey root = root_key(key_function_, {{model_.model_number(), 0}}, scope.salt, scope.adapter_id);
  return last_key(key_function_, root, to_tokens(path.substr(1)), layout_.block_tokens);
}

// What a block has of these bytes of a tier.
std::vector<std::byte> Simulator::as_in_blocks(std::vector<std::byte> bytes) const {
  if (has_distant_memory_) std::ranges::transform(bytes, bytes.begin(), DistantMemory::turn_over);
  return bytes;
}

// Says what a load has brought, if it was one.
void Simulator::settle_load() {
  const auto is_found = [&](const Text& path) {
    const Tokens tokens = to_tokens(path.substr(1));
    const AdmitOptions options{.scope = scope_of(scope_in(path)), .partial_blocks = false};
    return cache_->lookup(tokens, options) == tokens.size();
  };
  const auto holds = [&](BlockId block, const std::vector<std::uint64_t>& words) {
    return bytes_hold(layout_, cache_->block(block), words);
  };
  std::vector<std::vector<std::byte>> given;
  for (std::size_t tier = 0; tier < tier_manager().tiers(); ++tier) {
    for (auto& bytes : tiers_->store(tier).take_given()) given.push_back(as_in_blocks(std::move(bytes)));
  }
  for (const auto& [block, origin] : model_.call.loaded) {
    const std::span<const std::byte> loaded(cache_->block(block), layout_.block_bytes());
    const auto found =
        std::ranges::find_if(given, [&](const auto& bytes) { return std::ranges::equal(bytes, loaded); });
    demand(found != given.end(), "a load brings bytes that no tier gave for it");
    given.erase(found);
  }
  const auto key_of_path = [&](const Text& path) { return key_of(path); };
  tally_.add(Seen::Loaded, model_.resolve_load(is_found, holds, key_of_path, !has_real_keys()));
  tally_.add(Seen::LoadEvicted, model_.call.nodes_removed);
  check_end_of_call();
}

// As an engine does: expects a prompt, lets the tiers load it, or not, and admits it.
void Simulator::serve() {
  const std::size_t scope = draw_scope();
  const Text prompt = draw_known_text();
  expect(scope, prompt);
  if (one_in(3)) return;
  one_in(2) ? static_cast<void>(turn_worker()) : drain();
  check_expectations();
  admit(scope, prompt);
}

void Simulator::drain() {
  int turns = 0;
  for (bool worked = true; worked; ++turns) {
    demand(turns < 10'000, "the tiers' workers do not come to an end");
    worked = turn_worker(SimulatedTiers::kMemory);
    worked = turn_worker(SimulatedTiers::kDisk) || worked;
  }
  check_expectations();
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    const bool is_computed = model_.in_flight(model_.expectations[i]) != Model::Flight::No;
    demand(is_computed || !waiting_[i].handle.in_flight(), "a prompt waits for tiers that have nothing to do");
  }
}

void Simulator::note_use_of_loaded(std::size_t whole_blocks, std::size_t copied_tokens) {
  if (!tiers_) return;
  const std::vector<BlockId>& table = model_.sequences.back()->tables[0];
  const auto end = table.begin() + static_cast<std::ptrdiff_t>(whole_blocks);
  std::size_t tokens = model_.use_loaded({table.begin(), end}, model_.shape.block_tokens);
  if (model_.call.copied_from != kNoBlock) tokens += model_.use_loaded({model_.call.copied_from}, copied_tokens);
  std::size_t told = 0;
  for (std::size_t tier = 0; tier < tier_manager().tiers(); ++tier) told += leases_.back().matched_tokens_from(tier);
  demand_equal(told, tokens, "the tokens matched from tiers");
  tally_.add(Seen::LoadedUsed, tokens > 0);
  matched_from_tiers_ += tokens;
}

// ---- What must be so

void Simulator::check_stores() {
  for (const std::size_t tier : {SimulatedTiers::kMemory, SimulatedTiers::kDisk}) {
    if (const std::string& violation = tiers_->store(tier).violation(); !violation.empty()) throw Violation(violation);
  }
}

// Who is told to wait waits for blocks that may come.
void Simulator::check_awaited(std::size_t scope, const Text& prompt, std::size_t awaited_tokens) {
  const std::size_t block_tokens = model_.shape.block_tokens;
  demand(awaited_tokens % block_tokens == 0 && awaited_tokens <= prompt.size(),
         "tokens are awaited that are not asked for");
  for (std::size_t blocks = 1; blocks <= awaited_tokens / block_tokens && has_real_keys(); ++blocks) {
    const Text path = model_.path_of(scope, prompt, blocks);
    const bool may_come =
        model_.nodes.contains(path) || model_.may_be_given(path, [](const Computed&) { return true; });
    demand(may_come, "a block is awaited that no tier may give");
  }
}

void Simulator::check_tiers() {
  if (!cache_) return;
  check_stores();
  const KvCacheStats stats = state().stats();
  for (std::size_t tier = 0; tier < stats.tiers.size(); ++tier) {
    const CheckedStore& store = tiers_->store(tier);
    const std::uint64_t past_cache = tier == SimulatedTiers::kDisk ? read_directly_ : 0;
    demand_equal(stats.tiers[tier].loaded_blocks + past_cache, store.given_blocks(), "a tier's loaded_blocks");
  }
  demand_equal(stats.loaded_blocks, model_.loaded_blocks, "loaded_blocks");
  demand_equal(stats.prefetched_useful_blocks, model_.useful_blocks, "prefetched_useful_blocks");
  demand_equal(stats.prefetched_wasted_blocks, model_.wasted_blocks, "prefetched_wasted_blocks");
  std::uint64_t matched = 0;
  for (const KvTierStats& tier : stats.tiers) {
    matched += tier.matched_tokens;
    demand(tier.store.stored_bytes <= tier.store.capacity_bytes, "a tier has more than its capacity");
    demand(had_faults_ || was_damaged_ || tier.store.corrupt_blocks == 0, "a tier counts on what is not there");
  }
  demand_equal(matched, matched_from_tiers_, "the tiers' matched_tokens");
  demand(matched <= stats.matched_tokens, "tiers gave more tokens than were matched");
  if (stepped_ % 8 != 0) return;
  const std::size_t file_bytes = tiers_->file_bytes();
  demand(file_bytes <= tiers_->capacity_bytes(), "the files are larger than the tier's capacity");
}

void Simulator::flush() {
  drain();
  model_.begin_call(Call::Kind::Quiet);
  const Status flushed = cache_->flush();
  check_end_of_call();
  say("  flush(): " + flushed.to_string());
  tally_.add(flushed.ok() ? Seen::Flushed : Seen::FlushRefused);
  if (!flushed.ok()) return;
  if (is_unsure_) return;
  model_.forget_for_good();
  erasing_ = false;
  note_evictions();
  // What was loaded ahead of need counts as of Low priority, which is not kept; nor is what is behind it.
  std::set<Text> passing;
  for (const auto& [path, node] : model_.nodes) {  // a path before those behind it
    const Text parent = path.substr(0, path.size() - model_.shape.block_tokens);
    const bool passes = node.blocks[0].may_be_low || passing.contains(parent);
    (passes ? passing : flushed_[model_.model_number()]).insert(path);
  }
}

// What was flushed may have been evicted for want of room; which of it is not known here.
void Simulator::note_evictions() {
  const std::uint64_t evicted = tiers_->disk().stats().evicted_blocks;
  if (std::exchange(evicted_at_flush_, evicted) != evicted) flushed_[model_.model_number()].clear();
}

void Simulator::forget_flushed() {
  std::erase_if(flushed_[model_.model_number()],
                [&](const Text& path) { return !model_.may_be_given(path, [](const Computed&) { return true; }); });
}

// Reads all of it from the disk, when a process begins.
void Simulator::check_flushed() {
  // Blocks of equal keys replace each other. A damaged block counts as there until it is read.
  if (!has_real_keys() || was_damaged_) return;
  note_evictions();
  for (const Text& path : flushed_[model_.model_number()]) {
    const Scope& scope = scope_of(scope_in(path));
    const Tokens tokens = to_tokens(path.substr(1));
    const std::span<const TokenId> own = std::span(tokens).last(layout_.block_tokens);
    std::vector<std::byte> bytes(layout_.block_bytes());
    TierRead read{.key = block_key(key_of(path)),
                  .parent = block_key(key_of(path.substr(0, path.size() - own.size()))),
                  .tenant = root_key(xxh3_key, {{model_.model_number(), 0}}, scope.salt, 0).low,
                  .adapter_id = scope.adapter_id,
                  .tokens = own,
                  .bytes = bytes};
    tiers_->disk().read({&read, 1});
    check_stores();
    read_directly_ += read.status.ok();
    demand_code(read.status, StatusCode::Ok, ("the reading of a flushed block, " + path).c_str());
    bytes = as_in_blocks(std::move(bytes));
    const bool right =
        model_.may_be_given(path, [&](const Computed& each) { return bytes_hold(layout_, bytes.data(), each.words); });
    demand(right, "a flushed block has not the bytes of its tokens");
    tally_.add(Seen::FlushedFound);
  }
}

}  // namespace tiercel::sim
