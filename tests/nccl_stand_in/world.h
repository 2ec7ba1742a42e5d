// The ranks of a communicator, their operations, and how these meet. All of it is used under with_devices() alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuemu/device_state.h"
#include "tests/nccl_stand_in/nccl_stand_in.h"

namespace nccl_stand_in {

struct World;
struct Kernel;

enum class Kind { AllReduce, AllGather, Broadcast, Send, Receive };

// What a rank asked for by one function.
struct Call {
  Kind kind = Kind::AllReduce;
  const void* from = nullptr;
  void* to = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclInt8;
  int other = 0;  // the root, or the peer
};

// A collective operation, or a send and its receive: what several ranks' calls have in common.
struct Meeting {
  struct Side {
    Kernel* kernel = nullptr;
    Call call;
  };
  std::vector<Side> sides;  // by rank; the sender's before the receiver's
  bool disagreed = false;   // it is never through
  bool through = false;
};

// A call, or a group of them, in its stream.
struct Kernel {
  ncclComm* comm = nullptr;
  cuemu::Stream* stream = nullptr;
  std::vector<Meeting*> meetings;
  std::shared_ptr<cuemu::Completion> may_begin;  // null: at once
  int polls_until_it_may = 0;                    // of the world; 0: never
  bool in_stream = false, begun = false, aborted = false;
  std::shared_ptr<cuemu::Completion> done = std::make_shared<cuemu::Completion>();
  char order = 0;  // from what came before it in its stream to those whom it meets
};

enum class State { Opening, Open, Finalizing, Finalized, Gone };

}  // namespace nccl_stand_in

struct ncclComm {
  // Written by every call, in view of ThreadSanitizer: two threads at once are a race.
  int calls = 0;

  nccl_stand_in::World* world = nullptr;
  int rank = 0, device = 0;
  bool blocking = true;
  nccl_stand_in::State state = nccl_stand_in::State::Opening;
  ncclResult_t error = ncclSuccess;
  std::string last_error;
  int polls_until_remote_error = -1;               // negative: there is none
  int polls_left = 0;                              // of the call that is in progress
  std::vector<nccl_stand_in::Kernel*> hesitating;  // called, not yet in their streams
  std::vector<nccl_stand_in::Kernel*> kernels;     // all
  int operations = 0;
  std::size_t collectives = 0;
  std::uint64_t random_state = 0;
};

namespace nccl_stand_in {

// All communicators that were opened with one id.
struct World {
  int size = 0;
  std::vector<ncclComm*> members;  // by rank; null: has not come
  bool connects_at_first_call = false, tells_of_aborts = false;
  std::vector<std::unique_ptr<Meeting>> collectives;  // in the order of calls
  struct Messages {
    std::vector<std::unique_ptr<Meeting>> meetings;
    std::size_t sent = 0, received = 0;
  };
  std::map<std::pair<int, int>, Messages> messages;  // by sender and receiver
  std::vector<std::unique_ptr<Kernel>> kernels;

  bool complete() const;
};

// Everything that there is.
struct Library {
  std::uint64_t seed = 0;
  std::uint64_t ids = 0;
  std::map<std::string, std::unique_ptr<World>> worlds;
  std::vector<std::unique_ptr<ncclComm>> communicators;  // those that are gone too, to know them again
  std::vector<std::string> complaints;
  struct PlannedFault {
    int device, nth;
    Fault fault;
  };
  std::vector<PlannedFault> faults;
  struct PlannedOpening {
    int left;
    ncclResult_t error;
  };
  std::map<int, PlannedOpening> failing_openings;  // by device
  std::map<int, int> operations;                   // by device
  ncclResult_t failing_id = ncclSuccess;
  Counts counts;
  int open_groups = 0;
};
Library& library();

std::size_t bytes_of(ncclDataType_t type);
std::string describe(const Call& call);
// Of a communicator that must be open; complains where it is not.
ncclResult_t check_usable(const ncclComm* comm, const char* what);
// Said of a rank; returns `result`.
ncclResult_t complain(const ncclComm* comm, const std::string& what, ncclResult_t result);

// Whether the call's memory and ranks are as they must be.
ncclResult_t check_call(const cuemu::Device& device, const ncclComm& comm, cudaStream_t stream, const Call& call);
// Calls that become one kernel.
ncclResult_t issue(cuemu::Device& device, ncclComm& comm, cudaStream_t stream, const std::vector<Call>& calls);
// One more look at the communicator: what was in progress goes on.
ncclResult_t poll(cuemu::Device& device, ncclComm& comm);
// Its kernels end where they are; it is gone.
void abort(cuemu::Device& device, ncclComm& comm);
void fail(ncclComm& comm, ncclResult_t error, const std::string& what);

}  // namespace nccl_stand_in
