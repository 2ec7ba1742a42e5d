#include "device/nccl_operations.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "device/current_device.h"

namespace tiercel {
namespace {

using std::chrono::milliseconds;

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

}  // namespace

std::string nccl_details(ncclComm_t comm) {
  const char* text = ncclGetLastError(comm);
  return text == nullptr || *text == '\0' ? "" : fmt::format(" ({})", text);
}

std::string NcclOperation::describe() const {
  std::string text = fmt::format("{}: {}", who, verb);
  if (count > 0) text += fmt::format(" of {} {}", count, unit);
  if (!way.empty()) text += fmt::format(" {} rank {}", way, peer);
  if (number > 0) text += fmt::format(" (operation {})", number);
  return text;
}

std::string_view NcclOperations::keep(std::string who) {
  const Lock lock(mutex_);
  return names_.emplace_back(std::move(who));
}

Status NcclOperations::fail(Status status) {
  if (!failure_.ok()) return failure_;
  failure_ = std::move(status);
  for (const ncclComm_t comm : std::exchange(comms_, {})) ncclCommAbort(comm);
  under_way_.clear();
  failed_.notify_all();
  return failure_;
}

Status NcclOperations::fail(const NcclOperation& operation, ncclComm_t comm, ncclResult_t error) {
  const std::string text =
      fmt::format("{}: NCCL reports: {}{}; ", operation.describe(), ncclGetErrorString(error), nccl_details(comm));
  switch (error) {
    case ncclInvalidArgument:
    case ncclInvalidUsage: return fail(Status::internal(text + "the communicator is closed"));
    case ncclRemoteError:
      return fail(Status::unavailable(text + "look at the other ranks, then open another communicator"));
    default:
      return fail(Status::unavailable(text + "look at this rank's GPU and network, then open another communicator"));
  }
}

Status NcclOperations::fail_late(const NcclOperation& operation) {
  return fail(Status::deadline_exceeded(fmt::format(
      "{} was not through within {} ms: another rank hangs, is gone or is in another operation; look at the "
      "other ranks, then open another communicator",
      operation.describe(), operation.timeout.count())));
}

ncclResult_t NcclOperations::asynchronous_error(ncclComm_t comm) {
  ncclResult_t error = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm, &error);
  return asked == ncclSuccess ? error : asked;
}

Result<ncclComm_t> NcclOperations::open(const ncclUniqueId& id, std::uint32_t rank, std::uint32_t size,
                                        NcclOperation opening) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  Lock lock(mutex_);
  if (!failure_.ok()) return failure_;
  ncclComm_t comm = nullptr;
  ncclResult_t result = ncclCommInitRankConfig(&comm, static_cast<int>(size), id, static_cast<int>(rank), &config);
  if (comm != nullptr) comms_.push_back(comm);
  for (Pause pause; result == ncclInProgress; result = asynchronous_error(comm)) {
    if (Clock::now() >= opening.deadline) {
      return fail(Status::deadline_exceeded(
          fmt::format("{}: not all ranks came within {} ms; start all of them with the same id and size",
                      opening.describe(), opening.timeout.count())));
    }
    for (const ncclComm_t other : comms_) {  // who has left need not be waited for
      const ncclResult_t error = other == comm ? ncclSuccess : asynchronous_error(other);
      if (error != ncclSuccess && error != ncclInProgress) return fail(opening, other, error);
    }
    pause.take(lock, failed_);
    if (!failure_.ok()) return failure_;
  }
  if (result == ncclInvalidUsage || result == ncclInvalidArgument) {
    return fail(Status::invalid_argument(
        fmt::format("{}: NCCL reports: {}{}; give each rank a GPU and a number of its own, and all the same size",
                    opening.describe(), ncclGetErrorString(result), nccl_details(comm))));
  }
  if (result != ncclSuccess) return fail(opening, comm, result);
  return comm;
}

void NcclOperations::close(ncclComm_t comm) {
  Lock lock(mutex_);
  if (std::erase(comms_, comm) == 0) return;
  const Clock::time_point deadline = Clock::now() + timeout_;
  ncclResult_t result = ncclCommFinalize(comm);
  for (Pause pause; result == ncclInProgress && Clock::now() < deadline; result = asynchronous_error(comm))
    pause.take(lock, failed_);
  if (result == ncclSuccess) {
    ncclCommDestroy(comm);
  } else {
    ncclCommAbort(comm);
  }
}

Status NcclOperations::look(const NcclOperation& asked) {
  if (!failure_.ok()) return failure_;
  while (!under_way_.empty()) {
    const auto through = under_way_.front().through.reached();
    if (!through.ok()) {
      return fail(
          Status(through.status().code(), under_way_.front().operation.describe() + ": " + through.status().message()));
    }
    if (!*through) break;
    free_events_.push_back(std::move(under_way_.front().through));
    under_way_.pop_front();
  }
  const NcclOperation& oldest = under_way_.empty() ? asked : under_way_.front().operation;
  for (const ncclComm_t comm : comms_) {
    const ncclResult_t error = asynchronous_error(comm);
    if (error != ncclSuccess && error != ncclInProgress) return fail(oldest, comm, error);
  }
  if (!under_way_.empty() && Clock::now() >= oldest.deadline) return fail_late(oldest);
  return {};
}

Status NcclOperations::begin(ncclComm_t comm, NcclOperation operation, ncclResult_t (*ask)(const void*),
                             const void* asked) {
  const CurrentDevice current(device_);  // events are made on it; any thread may call
  Lock lock(mutex_);
  TIERCEL_RETURN_IF_ERROR(look(operation));
  if (operation.count == 0) return {};
  operation.number = ++operations_;
  operation.timeout = timeout_;
  operation.deadline = Clock::now() + timeout_;
  auto through = take_event();
  if (!through.ok()) return fail(through.status());
  return follow(lock, comm, {operation, *std::move(through)}, ask(asked));
}

Result<CudaEvent> NcclOperations::take_event() {
  if (free_events_.empty()) return CudaEvent::create();
  CudaEvent event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

Status NcclOperations::follow(Lock& lock, ncclComm_t comm, UnderWay begun, ncclResult_t result) {
  // As long as it is in progress, the stream does not have it: an event would come before it.
  for (Pause pause; result == ncclInProgress; result = asynchronous_error(comm)) {
    if (Clock::now() >= begun.operation.deadline) return fail_late(begun.operation);
    pause.take(lock, failed_);
    if (!failure_.ok()) return failure_;
  }
  if (result != ncclSuccess) return fail(begun.operation, comm, result);
  if (Status recorded = begun.through.record(stream_); !recorded.ok()) return fail(std::move(recorded));
  under_way_.push_back(std::move(begun));
  return {};
}

Status NcclOperations::wait(std::string_view who) {
  Lock lock(mutex_);
  for (Pause pause;; pause.take(lock, failed_)) {
    TIERCEL_RETURN_IF_ERROR(look({.who = who, .verb = "waiting"}));
    if (under_way_.empty()) return {};
  }
}

void NcclOperations::abort(std::string_view who) {
  const Lock lock(mutex_);
  static_cast<void>(fail(Status::cancelled(fmt::format("{}: its communicator was aborted", who))));
}

}  // namespace tiercel
