// NCCL is called so that it never blocks (ncclConfig_t::blocking = 0): a call that takes longer is in progress, and
// asked for until a deadline. So a mutex around each call is held only for a moment, and abort() gets it at any time.
#include "device/nccl_communicator.h"

#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "device/cuda_status.h"
#include "device/cuda_stream.h"
#include "device/current_device.h"
#include "device/device_arena.h"

namespace tiercel {
namespace {

using Clock = std::chrono::steady_clock;
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

// What NCCL says of its own failures; nothing where it says nothing.
std::string details(ncclComm_t comm) {
  const char* text = ncclGetLastError(comm);
  return text == nullptr || *text == '\0' ? "" : fmt::format(" ({})", text);
}

// Between two looks at the same thing: none at first, then longer and longer, a millisecond at most.
class Pause {
 public:
  // Less where `wake` is notified.
  void take(std::unique_lock<std::mutex>& lock, std::condition_variable& wake) {
    const int doublings = std::clamp((++looks_ - kEagerLooks) / kLooksPerDoubling, 0, kDoublings);
    wake.wait_for(lock, looks_ <= kEagerLooks ? std::chrono::microseconds(0) : kShortest * (1 << doublings));
  }

 private:
  static constexpr int kEagerLooks = 100, kLooksPerDoubling = 10, kDoublings = 6;
  static constexpr std::chrono::microseconds kShortest{16};
  int looks_ = 0;
};

struct Operation {
  std::string_view verb;  // "all-reduce"
  std::size_t count = 0;
  std::string_view unit = "bytes";
  std::string_view way = {};  // "to rank ", and
  std::uint32_t peer = 0;
  std::uint64_t number = 0;
  milliseconds timeout = {};
  Clock::time_point deadline = {};
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const CommunicatorOptions& options, int device, const CudaStream& stream, DeviceArena scratch)
      : rank_(options.rank),
        size_(options.size),
        device_(device),
        timeout_(options.timeout_ms),
        stream_(stream),
        scratch_(std::move(scratch)) {}
  ~NcclCommunicator() override;

  Status connect(const NcclId& id, Clock::time_point deadline, std::uint64_t open_timeout_ms);

  std::uint32_t rank() const override { return rank_; }
  std::uint32_t size() const override { return size_; }

  Status all_reduce_sum(void* values, std::size_t count, Element element) override;
  Status all_gather(const void* mine, std::size_t bytes, void* all) override;
  Status broadcast(void* data, std::size_t bytes, std::uint32_t root) override;
  Status send(const void* data, std::size_t bytes, std::uint32_t to) override;
  Status receive(void* data, std::size_t bytes, std::uint32_t from) override;
  Status barrier() override;

  void set_timeout_ms(std::uint64_t timeout_ms) override { timeout_ = milliseconds(timeout_ms); }
  Status wait() override;
  void abort() override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct UnderWay {
    Operation operation;
    CudaEvent through;
  };

  // Gives the stream what `call` asks NCCL for.
  template <class Call>
  Status begin(Operation operation, const Call& call);
  // Forgets what is through; fails with the first error or missed deadline of what is not. Where nothing is under way,
  // an error is said of what is `asked` for now.
  Status look(const Operation& asked);
  Result<CudaEvent> take_event();
  ncclResult_t asynchronous_error() const;
  Status check_peer(std::string_view verb, std::uint32_t peer, bool may_be_self) const;

  // The first failure ends everything: NCCL's kernels are taken from the GPU.
  Status fail(Status status);
  Status fail(const Operation& operation, ncclResult_t error);
  Status fail_late(const Operation& operation);
  std::string described(const Operation& operation) const;

  const std::uint32_t rank_, size_;
  const int device_;
  milliseconds timeout_;
  const CudaStream& stream_;
  const DeviceArena scratch_;  // what a barrier adds up

  std::mutex mutex_;
  std::condition_variable failed_;
  Status failure_;             // the first
  ncclComm_t comm_ = nullptr;  // null after a failure
  std::uint64_t operations_ = 0;
  std::deque<UnderWay> under_way_;  // in the order of the stream
  std::vector<CudaEvent> free_events_;
};

std::string NcclCommunicator::described(const Operation& operation) const {
  std::string text = fmt::format("rank {} of {}: {}", rank_, size_, operation.verb);
  if (operation.count > 0) text += fmt::format(" of {} {}", operation.count, operation.unit);
  if (!operation.way.empty()) text += fmt::format(" {} rank {}", operation.way, operation.peer);
  if (operation.number > 0) text += fmt::format(" (operation {})", operation.number);
  return text;
}

Status NcclCommunicator::fail(Status status) {
  if (!failure_.ok()) return failure_;
  failure_ = std::move(status);
  if (ncclComm_t comm = std::exchange(comm_, nullptr); comm != nullptr) ncclCommAbort(comm);
  under_way_.clear();
  failed_.notify_all();
  return failure_;
}

Status NcclCommunicator::fail(const Operation& operation, ncclResult_t error) {
  const std::string text =
      fmt::format("{}: NCCL reports: {}{}; ", described(operation), ncclGetErrorString(error), details(comm_));
  switch (error) {
    case ncclInvalidArgument:
    case ncclInvalidUsage: return fail(Status::internal(text + "the communicator is closed"));
    case ncclRemoteError:
      return fail(Status::unavailable(text + "look at the other ranks, then open another communicator"));
    default:
      return fail(Status::unavailable(text + "look at this rank's GPU and network, then open another communicator"));
  }
}

Status NcclCommunicator::fail_late(const Operation& operation) {
  return fail(Status::deadline_exceeded(fmt::format(
      "{} was not through within {} ms: another rank hangs, is gone or is in another operation; look at the "
      "other ranks, then open another communicator",
      described(operation), operation.timeout.count())));
}

ncclResult_t NcclCommunicator::asynchronous_error() const {
  ncclResult_t error = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &error);
  return asked == ncclSuccess ? error : asked;
}

Status NcclCommunicator::connect(const NcclId& id, Clock::time_point deadline, std::uint64_t open_timeout_ms) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclUniqueId unique_id;
  std::memcpy(&unique_id, id.data(), id.size());
  const Operation opening = {.verb = "opening a communicator"};
  Lock lock(mutex_);
  ncclResult_t result =
      ncclCommInitRankConfig(&comm_, static_cast<int>(size_), unique_id, static_cast<int>(rank_), &config);
  for (Pause pause; result == ncclInProgress; result = asynchronous_error()) {
    if (Clock::now() >= deadline) {
      return fail(Status::deadline_exceeded(
          fmt::format("{}: not all ranks came within {} ms; start all of them with the same id and size",
                      described(opening), open_timeout_ms)));
    }
    pause.take(lock, failed_);
  }
  if (result == ncclInvalidUsage || result == ncclInvalidArgument) {
    return fail(Status::invalid_argument(
        fmt::format("{}: NCCL reports: {}{}; give each rank a GPU and a number of its own, and all the same size",
                    described(opening), ncclGetErrorString(result), details(comm_))));
  }
  return result == ncclSuccess ? Status() : fail(opening, result);
}

NcclCommunicator::~NcclCommunicator() {
  Lock lock(mutex_);
  if (comm_ == nullptr) return;
  const Clock::time_point deadline = Clock::now() + timeout_;
  ncclResult_t result = ncclCommFinalize(comm_);
  for (Pause pause; result == ncclInProgress && Clock::now() < deadline; result = asynchronous_error())
    pause.take(lock, failed_);
  if (result == ncclSuccess) {
    ncclCommDestroy(comm_);
  } else {
    ncclCommAbort(comm_);
  }
}

Result<CudaEvent> NcclCommunicator::take_event() {
  if (free_events_.empty()) return CudaEvent::create();
  CudaEvent event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

Status NcclCommunicator::look(const Operation& asked) {
  if (!failure_.ok()) return failure_;
  while (!under_way_.empty()) {
    const auto through = under_way_.front().through.reached();
    if (!through.ok()) {
      return fail(
          Status(through.status().code(), described(under_way_.front().operation) + ": " + through.status().message()));
    }
    if (!*through) break;
    free_events_.push_back(std::move(under_way_.front().through));
    under_way_.pop_front();
  }
  const Operation& oldest = under_way_.empty() ? asked : under_way_.front().operation;
  const ncclResult_t error = asynchronous_error();
  if (error != ncclSuccess && error != ncclInProgress) return fail(oldest, error);
  if (!under_way_.empty() && Clock::now() >= oldest.deadline) return fail_late(oldest);
  return {};
}

template <class Call>
Status NcclCommunicator::begin(Operation operation, const Call& call) {
  const CurrentDevice current(device_);  // events are made on it; any thread may call
  Lock lock(mutex_);
  TIERCEL_RETURN_IF_ERROR(look(operation));
  if (operation.count == 0) return {};
  operation.number = ++operations_;
  operation.timeout = timeout_;
  operation.deadline = Clock::now() + timeout_;
  auto through = take_event();
  if (!through.ok()) return fail(through.status());
  ncclResult_t result = call();
  // As long as it is in progress, the stream does not have it: an event would come before it.
  for (Pause pause; result == ncclInProgress; result = asynchronous_error()) {
    if (Clock::now() >= operation.deadline) return fail_late(operation);
    pause.take(lock, failed_);
    if (!failure_.ok()) return failure_;
  }
  if (result != ncclSuccess) return fail(operation, result);
  if (Status recorded = through->record(stream_); !recorded.ok()) return fail(std::move(recorded));
  under_way_.push_back({operation, std::move(*through)});
  return {};
}

Status NcclCommunicator::wait() {
  Lock lock(mutex_);
  for (Pause pause;; pause.take(lock, failed_)) {
    TIERCEL_RETURN_IF_ERROR(look({.verb = "waiting"}));
    if (under_way_.empty()) return {};
  }
}

void NcclCommunicator::abort() {
  const Lock lock(mutex_);
  static_cast<void>(fail(Status::cancelled(fmt::format("rank {} of {}: its communicator was aborted", rank_, size_))));
}

Status NcclCommunicator::check_peer(std::string_view verb, std::uint32_t peer, bool may_be_self) const {
  if (peer < size_ && (may_be_self || peer != rank_)) return {};
  return Status::invalid_argument(fmt::format("rank {} of {}: {} rank {}; give {} from 0 to {}", rank_, size_, verb,
                                              peer, may_be_self ? "one" : "another one", size_ - 1));
}

Status NcclCommunicator::all_reduce_sum(void* values, std::size_t count, Element element) {
  constexpr std::string_view kUnits[] = {"f32", "bf16", "i32"};
  const Operation operation = {.verb = "all-reduce", .count = count, .unit = kUnits[static_cast<std::size_t>(element)]};
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
                                           ncclGetErrorString(result), details(nullptr)));
  }
  NcclId id;
  std::memcpy(id.data(), &unique_id, id.size());
  return id;
}

Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions& options, const NcclId& id,
                                                             const CudaStream& stream) {
  TIERCEL_RETURN_IF_ERROR(check_options(options));
  const Clock::time_point deadline = Clock::now() + milliseconds(options.open_timeout_ms);
  int device = 0;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaGetDevice(&device), "asking for the current GPU"));
  auto scratch = DeviceArena::reserve(1, kScratchBytes);
  if (!scratch.ok()) return scratch.status();
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaMemsetAsync(scratch->start(), 0, kScratchBytes, stream.get()),
                                      "clearing a communicator's memory"));
  auto communicator = std::make_unique<NcclCommunicator>(options, device, stream, std::move(*scratch));
  TIERCEL_RETURN_IF_ERROR(communicator->connect(id, deadline, options.open_timeout_ms));
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
