#include "engine/ranked_store.h"

#include <algorithm>
#include <bit>
#include <new>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"

namespace tiercel {
namespace {

// A link is looked at so often for an answer, and the ranks for their end.
constexpr std::chrono::milliseconds kLook{100};
// Who does not answer within this time is named, once for each request.
constexpr std::chrono::milliseconds kPatience{1000};
// The rest of a frame whose beginning has come, and a frame to send: neither waits for a store.
constexpr std::chrono::seconds kFrameTime{30};
// Beyond these a rank is not told of uses, and what it lacks is found out once more.
constexpr std::size_t kMostUsedKeys = 4096, kMostLackingKeys = std::size_t{1} << 16;

std::span<const std::byte> bytes_of(const std::string& frame) { return std::as_bytes(std::span(frame)); }

// What reads and records both say of their blocks.
template <class Block>
TierRequest request_about(TierCall call, std::span<Block> all) {
  TierRequest request{.call = call};
  for (const auto& one : all) {
    request.blocks.push_back({.key = one.key,
                              .parent = one.parent,
                              .tenant = one.tenant,
                              .adapter_id = one.adapter_id,
                              .tokens = static_cast<std::uint32_t>(one.tokens.size())});
    request.tokens.insert(request.tokens.end(), one.tokens.begin(), one.tokens.end());
  }
  return request;
}

}  // namespace

RankedStore::RankedStore(std::shared_ptr<TierStore> store, std::vector<Socket> links,
                         std::shared_ptr<RankProgress> progress)
    : store_(std::move(store)), progress_(std::move(progress)), peers_(links.size()) {
  for (std::size_t i = 0; i < links.size(); ++i) peers_[i].link = std::move(links[i]);
}

// ---- Requests and answers

// Neither throws: others may be at work on what was asked.

bool RankedStore::send(Peer& peer) const try {
  const std::string_view frame(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
  peer.is_broken = !peer.link.send_frame(frame, RankClock::now() + kFrameTime).ok();
  return !peer.is_broken;
} catch (const std::bad_alloc&) {
  peer.is_broken = true;
  return false;
}

bool RankedStore::await_answer(std::size_t index) try {
  Peer& peer = peers_[index];
  const auto start = RankClock::now();
  bool is_named = false;
  while (!peer.link.wait_readable(RankClock::now() + kLook)) {
    if (progress_->has_ended()) return false;
    if (is_named || RankClock::now() - start < kPatience) continue;
    is_named = true;
    log().warn("rank {} has not answered for the tier '{}' for {} ms", index + 1, name(), kPatience.count());
  }
  const auto frame = peer.link.receive_frame(RankClock::now() + kFrameTime);
  return frame.ok() && read_answer(bytes_of(*frame), peer.answer).ok();
} catch (const std::bad_alloc&) {
  return false;
}

bool RankedStore::ask_all(TierRequest& request, const std::function<void()>& own_part) {
  if (progress_->has_ended() || std::ranges::any_of(peers_, &Peer::is_broken)) return false;
  {
    const std::lock_guard lock(keys_mutex_);
    request.used.swap(used_);
    request.used_lengths.swap(used_lengths_);
  }
  write_request(request, bytes_);
  bool all_are_well = true;
  for (Peer& peer : peers_) {
    peer.was_asked = send(peer);
    all_are_well &= peer.was_asked;
  }
  if (all_are_well) own_part();
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    if (!peers_[i].was_asked || await_answer(i)) continue;
    all_are_well = false;
    peers_[i].is_broken = true;
    // What it does now is not known. In a read it may write into blocks that this returns.
    if (request.call == TierCall::Read) progress_->wait_for_end();
  }
  if (!all_are_well && !progress_->has_ended()) {
    log().error("the tier '{}' has lost its link to another rank, and is left alone", name());
  }
  return all_are_well;
}

void RankedStore::on_fault(std::size_t rank, Fault fault, const std::string& what) {
  std::atomic<std::uint64_t>& count = fault == Fault::Missing ? missing_ : fault == Fault::Corrupt ? corrupt_ : failed_;
  // Said the first time, the second, the fourth, ...
  if (std::has_single_bit(++count)) {
    log().warn("rank {}, tier '{}': {}", rank, name(), what);
  }
}

Status RankedStore::outcome(const Status& own, std::string_view what) {
  Status first = own;
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    const Status& status = peers_[i].answer.status;
    if (status.ok()) continue;
    on_fault(i + 1, Fault::Failed, fmt::format("{}: {}", what, status.message()));
    if (first.ok()) first = Status(status.code(), fmt::format("rank {}: {}", i + 1, status.message()));
  }
  return first;
}

Status RankedStore::ask_and_do(TierRequest request, std::string_view what,
                               const std::function<Status()>& own_part) try {
  const std::lock_guard lock(mutex_);
  Status own;
  bool is_done = false;
  const auto do_own_part = [&] {
    own = own_part();
    is_done = true;
  };
  if (ask_all(request, do_own_part)) return outcome(own, what);
  if (!is_done) do_own_part();  // what can be forgotten, or kept, is
  return Status::unavailable("another rank cannot be asked");
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory to ask the other ranks");
}

// ---- What the cache asks

Status RankedStore::open(const KvLayout& layout, const Fingerprint& fingerprint) {
  // First, so that what the others make may lie in what this one makes.
  TIERCEL_RETURN_IF_ERROR(store_->open(layout, fingerprint));
  return ask_and_do({.call = TierCall::Open}, "cannot be opened", [] { return Status(); });
}

std::size_t RankedStore::leading(std::span<const BlockKey> keys) const {
  std::size_t known = store_->leading(keys);
  const std::lock_guard lock(keys_mutex_);
  if (!lacking_.empty()) {
    const auto lacks = [&](const BlockKey& key) { return lacking_.contains(key); };
    known = static_cast<std::size_t>(std::ranges::find_if(keys.first(known), lacks) - keys.begin());
  }
  try {
    if (known > 0 && used_.size() + known <= kMostUsedKeys) {
      used_.insert(used_.end(), keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(known));
      used_lengths_.push_back(static_cast<std::uint32_t>(known));
    }
  } catch (const std::bad_alloc&) {
    // It orders what goes first, no more.
  }
  return known;
}

void RankedStore::forget(std::span<const BlockKey> keys) const {
  const std::lock_guard lock(keys_mutex_);
  if (lacking_.size() + keys.size() > kMostLackingKeys) lacking_.clear();
  lacking_.insert(keys.begin(), keys.end());
}

void RankedStore::read(std::span<TierRead> reads) try {
  const std::lock_guard lock(mutex_);
  const auto fail_all = [&](const Status& status) {
    for (TierRead& read : reads) read.status = status;
  };
  TierRequest request = request_about(TierCall::Read, reads);
  std::vector<BlockId> blocks;
  std::vector<BlockKey> lacking;
  lacking.reserve(reads.size());
  for (std::size_t i = 0; i < reads.size(); ++i) blocks.push_back(request.blocks[i].block = reads[i].block);
  const auto after = progress_->untouched_from(blocks);
  if (!after) return fail_all(Status::not_found("a block waits for a copy"));
  request.after = *after;
  if (!ask_all(request, [&] { store_->read(reads); })) {
    return fail_all(Status::unavailable("another rank cannot be asked"));
  }
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    const TierAnswer& answer = peers_[i].answer;
    if (answer.blocks.size() != reads.size()) {  // it could not even begin
      on_fault(i + 1, Fault::Failed, answer.status.message());
      fail_all(Status::unavailable(fmt::format("rank {}: {}", i + 1, answer.status.message())));
      continue;
    }
    for (std::size_t block = 0; block < reads.size(); ++block) {
      TierRead& read = reads[block];
      const auto [code, copyable] = answer.blocks[block];
      read.copyable &= copyable;
      if (!read.status.ok() || code == StatusCode::Ok) continue;
      const Fault fault = code == StatusCode::NotFound     ? Fault::Missing
                          : code == StatusCode::Corruption ? Fault::Corrupt
                                                           : Fault::Failed;
      on_fault(i + 1, fault,
               fault == Fault::Missing   ? "does not have a block that rank 0 has"
               : fault == Fault::Corrupt ? "a block is not what was written"
                                         : answer.status.message());
      if (fault != Fault::Failed) lacking.push_back(read.key);
      read.status = Status(code, fmt::format("rank {}: {}", i + 1, answer.status.message()));
    }
  }
  forget(lacking);
} catch (const std::bad_alloc&) {
  // Nobody was asked yet, or everybody has answered: answers take no memory that was not there before them.
  for (TierRead& read : reads) read.status = Status(StatusCode::Unavailable, {});
}

Status RankedStore::stage(std::span<const BlockId> blocks) try {
  TierRequest request{.call = TierCall::Stage, .after = progress_->last()};
  for (const BlockId block : blocks) request.blocks.push_back({.block = block});
  return ask_and_do(std::move(request), "cannot copy blocks", [] { return Status(); });
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory to ask the other ranks");
}

Status RankedStore::write(std::span<const TierRecord> records) try {
  TierRequest request = request_about(TierCall::Write, records);
  std::vector<BlockKey> keys;
  for (std::size_t i = 0; i < records.size(); ++i) {
    keys.push_back(records[i].key);
    request.blocks[i].position = records[i].position;
    request.blocks[i].copyable = records[i].copyable;
  }
  forget(keys);  // until all have them
  const std::lock_guard lock(mutex_);
  is_dirty_ = true;
  Status own;
  if (!ask_all(request, [&] { own = store_->write(records); })) {
    return Status::unavailable("another rank cannot be asked");
  }
  TIERCEL_RETURN_IF_ERROR(outcome(own, "cannot write"));
  const std::lock_guard keys_lock(keys_mutex_);
  for (const BlockKey& key : keys) lacking_.erase(key);
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory to ask the other ranks");
}

Status RankedStore::erase(const BlockKey& parent, std::span<const TokenId> tokens) try {
  TierRequest request{.call = TierCall::ErasePrefix, .parent = parent, .tokens = {tokens.begin(), tokens.end()}};
  return ask_and_do(std::move(request), "cannot forget a prefix", [&] {
    is_dirty_ = true;
    return store_->erase(parent, tokens);
  });
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory to ask the other ranks");
}

Status RankedStore::erase_tenant(std::uint64_t tenant) {
  return ask_and_do({.call = TierCall::EraseTenant, .tenant = tenant}, "cannot forget a tenant", [&] {
    is_dirty_ = true;
    return store_->erase_tenant(tenant);
  });
}

Status RankedStore::erase_all() {
  return ask_and_do({.call = TierCall::EraseAll}, "cannot forget all", [&] {
    is_dirty_ = true;
    return store_->erase_all();
  });
}

Status RankedStore::flush() {
  {
    const std::lock_guard lock(mutex_);
    if (!is_dirty_) return {};  // when the ranks have ended, too
  }
  const Status status = ask_and_do({.call = TierCall::Flush}, "cannot keep what was written", [&] {
    is_dirty_ = false;
    return store_->flush();
  });
  const std::lock_guard lock(mutex_);
  is_dirty_ |= !status.ok();
  return status;
}

TierStats RankedStore::stats() const {
  TierStats stats = store_->stats();
  stats.missed_blocks += missing_;
  stats.corrupt_blocks += corrupt_;
  stats.errors += failed_;
  return stats;
}

}  // namespace tiercel
