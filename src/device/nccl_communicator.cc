#include "device/nccl_communicator.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda_status.h"
#include "device/cuda_stream.h"
#include "device/device_arena.h"
#include "device/nccl_operations.h"

namespace tiercel {
namespace {

using std::chrono::milliseconds;

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

constexpr std::size_t kScratchBytes = 16;

ncclDataType_t type_of(Element element) {
  switch (element) {
    case Element::F32: return ncclFloat32;
    case Element::BF16: return ncclBfloat16;
    case Element::I32: return ncclInt32;
  }
  return ncclFloat32;
}

Result<DeviceArena> clear_memory(std::size_t bytes, const CudaStream& stream) {
  auto memory = DeviceArena::reserve(1, bytes);
  if (!memory.ok()) return memory.status();
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaMemsetAsync(memory->start(), 0, bytes, stream.get()), "clearing a communicator's memory"));
  return memory;
}

// Of all ranks, or of a group of them, which has what is under way in common with all.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::uint32_t rank, std::uint32_t size, const CudaStream& stream, milliseconds open_timeout,
                   DeviceArena scratch, std::shared_ptr<NcclOperations> operations, std::string_view who)
      : rank_(rank),
        size_(size),
        stream_(stream),
        open_timeout_(open_timeout),
        scratch_(std::move(scratch)),
        operations_(std::move(operations)),
        who_(who) {}
  ~NcclCommunicator() override { operations_->close(comm_); }

  Status connect(const NcclId& id, NcclOperation::Clock::time_point deadline);

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t size() const override { return size_; }

  Status all_reduce_sum(void* values, std::size_t count, Element element) override;
  Status all_gather(const void* mine, std::size_t bytes, void* all) override;
  Status broadcast(void* data, std::size_t bytes, std::uint32_t root) override;
  Status send(const void* data, std::size_t bytes, std::uint32_t to) override;
  Status receive(void* data, std::size_t bytes, std::uint32_t from) override;
  Status barrier() override;
  Result<std::unique_ptr<Communicator>> group(const std::vector<std::uint32_t>& ranks) override;

  void set_timeout_ms(std::uint64_t timeout_ms) override { operations_->set_timeout_ms(timeout_ms); }
  Status wait() override { return operations_->wait(who_); }
  void abort() override { operations_->abort(who_); }

 private:
  template <class Call>
  Status begin(NcclOperation operation, const Call& call) {
    operation.who = who_;
    return operations_->begin(comm_, operation, call);
  }
  // Every rank's, by rank.
  Result<std::vector<NcclId>> gather_ids(const NcclId& own);
  Status check_peer(std::string_view verb, std::uint32_t peer, bool may_be_self) const;

  const std::uint32_t rank_, size_;
  const CudaStream& stream_;
  const milliseconds open_timeout_;
  const DeviceArena scratch_;  // what a barrier adds up
  const std::shared_ptr<NcclOperations> operations_;
  const std::string_view who_;
  ncclComm_t comm_ = nullptr;  // not to be used after a failure
};

Status NcclCommunicator::connect(const NcclId& id, NcclOperation::Clock::time_point deadline) {
  ncclUniqueId unique_id;
  std::memcpy(&unique_id, id.data(), id.size());
  const auto opened = operations_->open(
      unique_id, rank_, size_,
      {.who = who_, .verb = "opening a communicator", .timeout = open_timeout_, .deadline = deadline});
  if (opened.ok()) comm_ = *opened;
  return opened.status();
}

Status NcclCommunicator::check_peer(std::string_view verb, std::uint32_t peer, bool may_be_self) const {
  if (peer < size_ && (may_be_self || peer != rank_)) return {};
  return Status::invalid_argument(fmt::format("{}: {} rank {}; give {} from 0 to {}", who_, verb, peer,
                                              may_be_self ? "one" : "another one", size_ - 1));
}

Status NcclCommunicator::all_reduce_sum(void* values, std::size_t count, Element element) {
  constexpr std::string_view kUnits[] = {"f32", "bf16", "i32"};
  const NcclOperation operation = {
      .verb = "all-reduce", .count = count, .unit = kUnits[static_cast<std::size_t>(element)]};
  return begin(operation,
               [&] { return ncclAllReduce(values, values, count, type_of(element), ncclSum, comm_, stream_.get()); });
}

Status NcclCommunicator::all_gather(const void* mine, std::size_t bytes, void* all) {
  return begin({.verb = "all-gather", .count = bytes},
               [&] { return ncclAllGather(mine, all, bytes, ncclInt8, comm_, stream_.get()); });
}

Status NcclCommunicator::broadcast(void* data, std::size_t bytes, std::uint32_t root) {
  TIERCEL_RETURN_IF_ERROR(check_peer("broadcast from", root, true));
  return begin({.verb = "broadcast", .count = bytes, .way = "from", .peer = root}, [&] {
    return ncclBroadcast(data, data, bytes, ncclInt8, static_cast<int>(root), comm_, stream_.get());
  });
}

Status NcclCommunicator::send(const void* data, std::size_t bytes, std::uint32_t to) {
  TIERCEL_RETURN_IF_ERROR(check_peer("send to", to, false));
  return begin({.verb = "send", .count = bytes, .way = "to", .peer = to},
               [&] { return ncclSend(data, bytes, ncclInt8, static_cast<int>(to), comm_, stream_.get()); });
}

Status NcclCommunicator::receive(void* data, std::size_t bytes, std::uint32_t from) {
  TIERCEL_RETURN_IF_ERROR(check_peer("receive from", from, false));
  return begin({.verb = "receive", .count = bytes, .way = "from", .peer = from},
               [&] { return ncclRecv(data, bytes, ncclInt8, static_cast<int>(from), comm_, stream_.get()); });
}

Status NcclCommunicator::barrier() {
  TIERCEL_RETURN_IF_ERROR(begin({.verb = "barrier", .count = 1, .unit = "i32"}, [&] {
    return ncclAllReduce(scratch_.start(), scratch_.start(), 1, ncclInt32, ncclSum, comm_, stream_.get());
  }));
  return wait();
}

Result<std::vector<NcclId>> NcclCommunicator::gather_ids(const NcclId& own) {
  std::vector<NcclId> ids(size_);
  auto memory = clear_memory((size_ + 1) * sizeof(NcclId), stream_);
  if (!memory.ok()) return memory.status();
  std::byte* const all = memory->start() + sizeof(NcclId);
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaMemcpyAsync(memory->start(), own.data(), sizeof own, cudaMemcpyHostToDevice, stream_.get()),
                  "copying a communicator's id to the GPU"));
  TIERCEL_RETURN_IF_ERROR(all_gather(memory->start(), sizeof own, all));
  TIERCEL_RETURN_IF_ERROR(wait());
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaMemcpyAsync(ids.data(), all, size_ * sizeof(NcclId), cudaMemcpyDeviceToHost, stream_.get()),
                  "copying communicators' ids from the GPU"));
  TIERCEL_RETURN_IF_ERROR(stream_.synchronize());
  return ids;
}

Result<std::unique_ptr<Communicator>> NcclCommunicator::group(const std::vector<std::uint32_t>& ranks) {
  TIERCEL_RETURN_IF_ERROR(check_group(ranks, rank_, size_));
  // The first of each group has an id for it; who has none says so to all of them with zeros.
  const auto created = ranks.front() == rank_ ? create_nccl_id() : NcclId{};
  const auto ids = gather_ids(created.ok() ? *created : NcclId{});
  if (!created.ok()) return created.status();
  if (!ids.ok()) return ids.status();
  const NcclId& id = (*ids)[ranks.front()];
  if (id == NcclId{}) {
    return Status::unavailable(
        fmt::format("{}: rank {} could not begin with a group of ranks; look at its status", who_, ranks.front()));
  }
  const auto rank = static_cast<std::uint32_t>(std::ranges::find(ranks, rank_) - ranks.begin());
  auto scratch = clear_memory(kScratchBytes, stream_);
  if (!scratch.ok()) return scratch.status();
  auto group = std::make_unique<NcclCommunicator>(
      rank, static_cast<std::uint32_t>(ranks.size()), stream_, open_timeout_, std::move(*scratch), operations_,
      operations_->keep(fmt::format("{}, rank {} of {} in a group", who_, rank, ranks.size())));
  TIERCEL_RETURN_IF_ERROR(group->connect(id, NcclOperation::Clock::now() + open_timeout_));
  return Result<std::unique_ptr<Communicator>>(std::move(group));
}

Status check_options(const CommunicatorOptions& options) {
  if (options.size >= 1 && options.rank < options.size) return {};
  return Status::invalid_argument(
      fmt::format("rank {} of {} ranks; give ranks from 0 to one less than their number", options.rank, options.size));
}

}  // namespace

Status find_nccl() { return {}; }

Result<NcclId> create_nccl_id() {
  ncclUniqueId unique_id;
  const ncclResult_t result = ncclGetUniqueId(&unique_id);
  if (result != ncclSuccess) {
    return Status::unavailable(fmt::format("creating an id for ranks: NCCL reports: {}{}; look at NCCL_SOCKET_IFNAME",
                                           ncclGetErrorString(result), nccl_details(nullptr)));
  }
  NcclId id;
  std::memcpy(id.data(), &unique_id, id.size());
  return id;
}

Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions& options, const NcclId& id,
                                                             const CudaStream& stream) {
  TIERCEL_RETURN_IF_ERROR(check_options(options));
  const milliseconds open_timeout(options.open_timeout_ms);
  const auto deadline = NcclOperation::Clock::now() + open_timeout;
  int device = 0;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaGetDevice(&device), "asking for the current GPU"));
  auto scratch = clear_memory(kScratchBytes, stream);
  if (!scratch.ok()) return scratch.status();
  auto operations = std::make_shared<NcclOperations>(device, stream, options.timeout_ms);
  const std::string_view who = operations->keep(fmt::format("rank {} of {}", options.rank, options.size));
  auto communicator = std::make_unique<NcclCommunicator>(options.rank, options.size, stream, open_timeout,
                                                         std::move(*scratch), std::move(operations), who);
  TIERCEL_RETURN_IF_ERROR(communicator->connect(id, deadline));
  return Result<std::unique_ptr<Communicator>>(std::move(communicator));
}

Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions& options, Communicator& host,
                                                             const CudaStream& stream) {
  TIERCEL_RETURN_IF_ERROR(check_options(options));
  // A first rank that has no id says so, that the others need not wait.
  struct Said {
    bool has_id = false;
    NcclId id = {};
  };
  Said said;
  Status status;
  if (options.rank == 0) {
    const auto created = create_nccl_id();
    if (created.ok()) said = {.has_id = true, .id = *created};
    status = created.status();
  }
  std::vector<Said> all(options.size);
  const Status heard = host.all_gather(&said, sizeof said, all.data());
  if (!status.ok()) return status;
  TIERCEL_RETURN_IF_ERROR(heard);
  if (!all.front().has_id) {
    return Status::unavailable(
        fmt::format("rank {} of {}: rank 0 could not begin with NCCL; look at its status", options.rank, options.size));
  }
  return open_nccl_communicator(options, all.front().id, stream);
}

}  // namespace tiercel
