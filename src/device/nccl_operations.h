// What is under way by NCCL in a stream: operations of a communicator and of those over some of its ranks alone, with
// one deadline for each and one failure for all.
//
// NCCL is called so that it never blocks (ncclConfig_t::blocking = 0): a call that takes longer is in progress, and
// asked for until a deadline. So a mutex around each call is held only for a moment, and abort() gets it at any time.
// Thread-safe.
#pragma once

#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "device/cuda_stream.h"
#include "tiercel/status.h"

namespace tiercel {

// What NCCL says of its own failures; nothing where it says nothing.
std::string nccl_details(ncclComm_t comm);

struct NcclOperation {
  using Clock = std::chrono::steady_clock;

  std::string_view who = {};  // "rank 1 of 4"
  std::string_view verb;      // "all-reduce"
  std::size_t count = 0;
  std::string_view unit = "bytes";
  std::string_view way = {};  // "to", and
  std::uint32_t peer = 0;
  std::uint64_t number = 0;
  std::chrono::milliseconds timeout = {};
  Clock::time_point deadline = {};

  std::string describe() const;
};

class NcclOperations {
 public:
  using Clock = NcclOperation::Clock;

  // In a stream of GPU `device`, which outlives this.
  NcclOperations(int device, const CudaStream& stream, std::uint64_t timeout_ms)
      : device_(device), stream_(stream), timeout_(timeout_ms) {}

  // For operations' `who`: as long as this.
  std::string_view keep(std::string who);
  // A communicator of `size` ranks, of which this one is `rank`; all are given the same id. Waits for them until the
  // deadline, `timeout_ms` from its beginning.
  Result<ncclComm_t> open(const ncclUniqueId& id, std::uint32_t rank, std::uint32_t size, NcclOperation opening);
  // Waits for its operations and for the other ranks' leaving, for a timeout at most.
  void close(ncclComm_t comm);

  // Gives the stream what `call` asks NCCL for, of `comm`. An operation without a count is none.
  template <class Call>
  Status begin(ncclComm_t comm, const NcclOperation& operation, const Call& call) {
    return begin(
        comm, operation, [](const void* asked) { return (*static_cast<const Call*>(asked))(); }, &call);
  }
  // Until all that was begun is through.
  Status wait(std::string_view who);
  void abort(std::string_view who);
  // Of operations that begin from now on.
  void set_timeout_ms(std::uint64_t timeout_ms) {
    const Lock lock(mutex_);
    timeout_ = std::chrono::milliseconds(timeout_ms);
  }

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct UnderWay {
    NcclOperation operation;
    CudaEvent through;
  };

  Status begin(ncclComm_t comm, NcclOperation operation, ncclResult_t (*ask)(const void*), const void* asked);
  // Under mutex_.
  Result<CudaEvent> take_event();
  Status follow(Lock& lock, ncclComm_t comm, UnderWay begun, ncclResult_t result);
  // Forgets what is through; fails with the first error or missed deadline of what is not. Where nothing is under way,
  // an error is said of what is `asked` for now.
  Status look(const NcclOperation& asked);
  static ncclResult_t asynchronous_error(ncclComm_t comm);
  // The first failure ends everything: NCCL's kernels are taken from the GPU.
  Status fail(Status status);
  Status fail(const NcclOperation& operation, ncclComm_t comm, ncclResult_t error);
  Status fail_late(const NcclOperation& operation);

  const int device_;
  const CudaStream& stream_;

  std::mutex mutex_;
  std::chrono::milliseconds timeout_;
  std::condition_variable failed_;
  std::list<std::string> names_;
  Status failure_;                 // the first
  std::vector<ncclComm_t> comms_;  // those that are open; none after a failure
  std::uint64_t operations_ = 0;
  std::deque<UnderWay> under_way_;  // in the order of the stream
  std::vector<CudaEvent> free_events_;
};

}  // namespace tiercel
