#include "engine/rank_tier_server.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "base/logging.h"
#include "engine/rank_tier_messages.h"
#include "kv/block_reader.h"
#include "kv/tier_transfer.h"

namespace tiercel {
namespace {

// A request comes when it comes.
constexpr Deadline kAnyTime = Deadline::max();
// Answers are small, and rank 0 waits for them.
constexpr std::chrono::seconds kAnswerTime{30};
// How long the end waits for a store.
constexpr std::chrono::seconds kPatience{2};

}  // namespace

// What threads and steps have in common.
struct RankTierServer::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t carried_out = 0;
  std::size_t working = 0;  // threads
  bool is_ending = false;
  Status opened;
};

class RankTierServer::Worker {
 public:
  Worker(std::shared_ptr<Shared> shared, Result<std::shared_ptr<TierStore>> store, Socket link, const KvLayout& layout,
         const Fingerprint& fingerprint)
      : shared_(std::move(shared)),
        store_(std::move(store)),
        link_(std::move(link)),
        layout_(layout),
        fingerprint_(fingerprint) {}

  // Before anything is asked for that is about blocks. May throw std::bad_alloc.
  void set_memory(std::shared_ptr<const BlockMemory> memory);
  void work();
  void shut_down() const { link_.shut_down(); }

  std::thread thread;

 private:
  // May throw std::bad_alloc.
  void answer_request();
  void open();
  void read();
  void stage();
  void write();
  // Until so much is carried out as the request says, and the blocks are there. Not Ok: the end came first, or there
  // are no such blocks.
  Status await_turn();
  // Calls each(block, its tokens) for those of the request.
  template <class Each>
  void for_each_block(const Each& each) const;

  const std::shared_ptr<Shared> shared_;
  const Result<std::shared_ptr<TierStore>> store_;
  const Socket link_;
  const KvLayout layout_;
  const Fingerprint fingerprint_;
  TierRequest request_;
  TierAnswer answer_;
  std::shared_ptr<const BlockMemory> memory_;
  std::optional<BlockReader> reader_;  // into them
  std::shared_ptr<std::byte> staged_;  // to be written: kTierBatchBlocks blocks, one behind the other
  std::size_t staged_blocks_ = 0;
};

void RankTierServer::Worker::set_memory(std::shared_ptr<const BlockMemory> memory) {
  const std::lock_guard lock(shared_->mutex);
  // Now, since memory that GPUs reach is not given while their kernels wait for each other.
  staged_ = memory->allocate_host(kTierBatchBlocks * layout_.block_bytes());
  reader_.emplace(memory, layout_.block_bytes());
  memory_ = std::move(memory);
}

void RankTierServer::Worker::work() {
  std::vector<std::byte> bytes;
  while (true) {
    const auto frame = link_.receive_frame(kAnyTime);
    if (!frame.ok()) break;  // rank 0 has left, or this rank leaves
    answer_ = {};
    try {
      answer_.status = read_request(std::as_bytes(std::span(*frame)), request_);
      if (answer_.status.ok()) answer_request();
    } catch (const std::bad_alloc&) {
      answer_ = {.status = Status(StatusCode::Unavailable, {}), .blocks = {}};
    }
    write_answer(answer_, bytes);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!link_.send_frame(text, RankClock::now() + kAnswerTime).ok()) break;
  }
  const std::lock_guard lock(shared_->mutex);
  --shared_->working;
  shared_->changed.notify_all();
}

void RankTierServer::Worker::answer_request() {
  if (request_.call == TierCall::Open) return open();
  if (!store_.ok()) {
    answer_.status = store_.status();
    return;
  }
  TierStore& store = **store_;
  for (std::span<const BlockKey> used = request_.used; const std::uint32_t length : request_.used_lengths) {
    static_cast<void>(store.leading(used.first(length)));
    used = used.subspan(length);
  }
  switch (request_.call) {
    case TierCall::Open: break;
    case TierCall::Read: return read();
    case TierCall::Stage: return stage();
    case TierCall::Write: return write();
    case TierCall::ErasePrefix: answer_.status = store.erase(request_.parent, request_.tokens); break;
    case TierCall::EraseTenant: answer_.status = store.erase_tenant(request_.tenant); break;
    case TierCall::EraseAll: answer_.status = store.erase_all(); break;
    case TierCall::Flush: answer_.status = store.flush(); break;
  }
}

void RankTierServer::Worker::open() {
  answer_.status = store_.ok() ? (*store_)->open(layout_, fingerprint_) : store_.status();
  if (answer_.status.ok()) return;
  const std::lock_guard lock(shared_->mutex);
  if (shared_->opened.ok()) shared_->opened = answer_.status;
}

Status RankTierServer::Worker::await_turn() {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [&] { return shared_->is_ending || shared_->carried_out >= request_.after; });
  if (shared_->is_ending) return Status::cancelled("the rank ends");
  const std::size_t blocks = memory_ ? memory_->blocks() : 0;
  const auto is_there = [&](const TierRequest::Block& block) { return block.block < blocks; };
  return request_.blocks.size() <= kTierBatchBlocks && std::ranges::all_of(request_.blocks, is_there)
             ? Status()
             : Status::internal("there are no such blocks");
}

template <class Each>
void RankTierServer::Worker::for_each_block(const Each& each) const {
  std::span<const TokenId> tokens = request_.tokens;
  for (const TierRequest::Block& block : request_.blocks) {
    each(block, tokens.first(block.tokens));
    tokens = tokens.subspan(block.tokens);
  }
}

void RankTierServer::Worker::read() {
  answer_.status = await_turn();
  if (!answer_.status.ok()) return;
  std::vector<TierRead> reads;
  for_each_block([&](const TierRequest::Block& block, std::span<const TokenId> tokens) {
    reads.push_back({.key = block.key,
                     .parent = block.parent,
                     .tenant = block.tenant,
                     .adapter_id = block.adapter_id,
                     .tokens = tokens,
                     .bytes = {},
                     .block = block.block});
  });
  answer_.blocks.resize(reads.size());
  reader_->read(**store_, reads);
  for (std::size_t i = 0; i < reads.size(); ++i) {
    const Status& status = reads[i].status;
    answer_.blocks[i] = {.code = status.code(), .copyable = reads[i].copyable};
    if (answer_.status.ok()) answer_.status = status;
  }
}

void RankTierServer::Worker::stage() {
  const std::size_t block_bytes = layout_.block_bytes();
  staged_blocks_ = 0;
  answer_.status = await_turn();
  if (!answer_.status.ok()) return;
  std::vector<BlockId> blocks;
  for (const TierRequest::Block& block : request_.blocks) blocks.push_back(block.block);
  answer_.status = memory_->save(blocks, block_bytes, staged_.get());
  if (answer_.status.ok()) staged_blocks_ = blocks.size();
}

void RankTierServer::Worker::write() {
  const std::size_t block_bytes = layout_.block_bytes();
  if (request_.blocks.size() != staged_blocks_) {
    answer_.status = Status::internal("other blocks are to be written than were copied");
    return;
  }
  std::vector<TierRecord> records;
  for_each_block([&](const TierRequest::Block& block, std::span<const TokenId> tokens) {
    records.push_back({.key = block.key,
                       .parent = block.parent,
                       .tenant = block.tenant,
                       .adapter_id = block.adapter_id,
                       .tokens = tokens,
                       .bytes = {staged_.get() + records.size() * block_bytes, block_bytes},
                       .position = block.position,
                       .copyable = block.copyable});
  });
  staged_blocks_ = 0;
  answer_.status = (*store_)->write(records);
}

RankTierServer::RankTierServer(std::vector<Result<std::shared_ptr<TierStore>>> stores, std::vector<Socket> links,
                               const KvLayout& layout, const Fingerprint& fingerprint)
    : shared_(std::make_shared<Shared>()) {
  for (std::size_t i = 0; i < links.size(); ++i) {
    workers_.push_back(
        std::make_shared<Worker>(shared_, std::move(stores[i]), std::move(links[i]), layout, fingerprint));
  }
  for (const auto& worker : workers_) {
    // The thread keeps alive what it works on, should it outlive this.
    worker->thread = std::thread([worker] { worker->work(); });
    const std::lock_guard lock(shared_->mutex);
    ++shared_->working;
  }
}

void RankTierServer::close() {
  if (workers_.empty()) return;
  bool all_ended = false;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->is_ending = true;
    shared_->changed.notify_all();
    for (const auto& worker : workers_) worker->shut_down();
    all_ended = shared_->changed.wait_for(lock, kPatience, [&] { return shared_->working == 0; });
  }
  if (!all_ended) log().warn("a tier of this rank hangs; it is left behind");
  for (const auto& worker : workers_) all_ended ? worker->thread.join() : worker->thread.detach();
  workers_.clear();
}

Status RankTierServer::set_memory(const std::shared_ptr<const BlockMemory>& memory) try {
  for (const auto& worker : workers_) worker->set_memory(memory);
  return {};
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for KV blocks on their way to and from tiers");
}

void RankTierServer::carried_out() {
  const std::lock_guard lock(shared_->mutex);
  ++shared_->carried_out;
  shared_->changed.notify_all();
}

Status RankTierServer::opened() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->opened;
}

}  // namespace tiercel
