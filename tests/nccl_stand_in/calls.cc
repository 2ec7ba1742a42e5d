// NCCL's functions, and what tests control. ThreadSanitizer sees no more of a call than that it was made.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/nccl_stand_in/world.h"

namespace nccl_stand_in {
namespace {

using cuemu::Device;

struct Group {
  struct Entry {
    ncclComm* comm;
    cudaStream_t stream;
    Call call;
  };
  int depth = 0;
  std::vector<Entry> entries;
  ncclResult_t error = ncclSuccess;
};
thread_local Group group;

// What ThreadSanitizer is to see of it: that this thread uses the communicator.
void touch(ncclComm_t comm) {
  if (comm != nullptr) comm->calls = comm->calls + 1;
}

template <class Body>
ncclResult_t alone(const Body& body) {
  ncclResult_t result = ncclSuccess;
  cuemu::with_devices([&](Device& device) {
    result = body(device);
    return true;
  });
  return result;
}

// A call on a communicator that must be there.
template <class Body>
ncclResult_t call(const char* name, ncclComm_t comm, const Body& body) {
  ncclResult_t usable = alone([&](Device&) { return check_usable(comm, name); });
  if (usable != ncclSuccess) return usable;
  touch(comm);
  return alone([&](Device& device) { return body(device, *comm); });
}

ncclResult_t operation(const char* name, ncclComm_t comm, cudaStream_t stream, const Call& asked) {
  return call(name, comm, [&](Device& device, ncclComm& c) {
    ncclResult_t result = check_call(device, c, stream, asked);
    if (group.depth > 0) {
      if (result == ncclSuccess) group.entries.push_back({comm, stream, asked});
      if (result != ncclSuccess) group.error = result;
      return result;
    }
    return result != ncclSuccess ? result : issue(device, c, stream, {asked});
  });
}

// Waits, for a communicator that blocks, until what was begun is through.
ncclResult_t settle(ncclComm_t comm) {
  ncclResult_t result = ncclInProgress;
  cuemu::with_devices([&](Device& device) {
    result = poll(device, *comm);
    return result != ncclInProgress;
  });
  return result;
}

}  // namespace

void reset(std::uint64_t seed) {
  alone([&](Device& device) {
    Library& all = library();
    std::string left;
    for (const auto& comm : all.communicators) {
      if (comm->state != State::Gone)
        left += "\n  the communicator of rank " + std::to_string(comm->rank) + " is still open";
    }
    if (all.open_groups > 0) left += "\n  a group was left open";
    for (const std::string& complaint : all.complaints) left += "\n  " + complaint;
    if (!left.empty()) {
      std::fprintf(stderr, "nccl_stand_in:%s\n", left.c_str());
      std::abort();
    }
    device.finish_all();  // what was aborted is still in streams
    all = {};
    all.seed = seed;
    return ncclSuccess;
  });
}

void plan_fault(int device, int nth, Fault fault) {
  alone([&](Device&) {
    library().faults.push_back({device, nth, fault});
    return ncclSuccess;
  });
}

void plan_failed_opening(int device, ncclResult_t error, int nth) {
  alone([&](Device&) {
    library().failing_openings[device] = {nth, error};
    return ncclSuccess;
  });
}

void plan_failed_id(ncclResult_t error) {
  alone([&](Device&) {
    library().failing_id = error;
    return ncclSuccess;
  });
}

std::vector<std::string> complaints() {
  std::vector<std::string> all;
  alone([&](Device&) {
    all.swap(library().complaints);
    return ncclSuccess;
  });
  return all;
}

Counts counts() {
  Counts result;
  alone([&](Device&) {
    result = library().counts;
    return ncclSuccess;
  });
  return result;
}

}  // namespace nccl_stand_in

using namespace nccl_stand_in;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t comm) {
  static const char* const nothing = "";
  const char* text = nothing;
  if (comm == nullptr) return text;
  call("ncclGetLastError", comm, [&](Device&, ncclComm& c) {
    text = c.last_error.c_str();
    return ncclSuccess;
  });
  return text;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return alone([&](Device&) {
    if (library().failing_id != ncclSuccess) return std::exchange(library().failing_id, ncclSuccess);
    std::memset(id, 0, sizeof *id);
    std::snprintf(id->internal, sizeof id->internal, "stand-in %llu", static_cast<unsigned long long>(++library().ids));
    return ncclSuccess;
  });
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  *comm = nullptr;
  const bool blocking = config == nullptr || config->blocking != 0;
  const ncclResult_t result = alone([&](Device&) {
    Library& all = library();
    if (group.depth > 0)
      return complain(nullptr, "a communicator is opened within a group, which is not emulated", ncclInvalidUsage);
    if (ranks < 1 || rank < 0 || rank >= ranks) return complain(nullptr, "a rank that cannot be", ncclInvalidArgument);
    const int device = cuemu::current_device;
    ncclResult_t failing = ncclSuccess;
    const auto planned = all.failing_openings.find(device);
    if (planned != all.failing_openings.end() && --planned->second.left == 0) {
      failing = planned->second.error;
      all.failing_openings.erase(planned);
    }
    // At once, or later, when there is a communicator already.
    if (failing != ncclSuccess && (blocking || all.seed % 2 == 0)) return failing;
    auto& world = all.worlds[id.internal];
    if (world == nullptr) {
      world = std::make_unique<World>();
      world->size = ranks;
      world->members.resize(static_cast<std::size_t>(ranks));
      world->connects_at_first_call = all.seed % 2 == 1;
      world->tells_of_aborts = all.seed % 3 == 1;
    }
    if (world->size != ranks) return complain(nullptr, "ranks that do not agree how many they are", ncclInvalidUsage);
    if (world->members[static_cast<std::size_t>(rank)] != nullptr)
      return complain(nullptr, "rank " + std::to_string(rank) + " is there twice", ncclInvalidUsage);
    for (const ncclComm* other : world->members) {
      if (other != nullptr && other->device == device)
        return complain(nullptr,
                        "rank " + std::to_string(rank) + " is on the GPU of rank " + std::to_string(other->rank),
                        ncclInvalidUsage);
    }
    const bool is_first = std::ranges::none_of(
        all.communicators, [&](const auto& each) { return each->device == device && each->state != State::Gone; });
    if (is_first) all.operations[device] = 0;
    all.communicators.push_back(std::make_unique<ncclComm>());
    ncclComm& opened = *all.communicators.back();
    opened.world = world.get();
    opened.rank = rank;
    opened.device = device;
    opened.blocking = blocking;
    opened.polls_left = blocking ? 0 : static_cast<int>((all.seed + static_cast<std::uint64_t>(rank)) % 4);
    opened.random_state = all.seed * 64 + static_cast<std::uint64_t>(rank);
    if (failing == ncclSuccess) {
      world->members[static_cast<std::size_t>(rank)] = &opened;
    } else {
      fail(opened, failing, "the network has refused");
    }
    ++all.counts.open_communicators;
    ++Device::changes;
    *comm = &opened;
    return ncclInProgress;
  });
  return result == ncclInProgress && blocking ? settle(*comm) : result;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const ncclResult_t result = call("ncclCommFinalize", comm, [&](Device&, ncclComm& c) {
    if (c.error != ncclSuccess) return complain(&c, "it is finalized after an error", c.error);
    if (c.state != State::Open || !c.hesitating.empty())
      return complain(&c, "it is finalized while a call is in progress", ncclInvalidUsage);
    c.state = State::Finalizing;
    ++Device::changes;
    return ncclInProgress;
  });
  return result == ncclInProgress && comm->blocking ? settle(comm) : result;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  return call("ncclCommDestroy", comm, [&](Device&, ncclComm& c) {
    if (c.state != State::Finalized)
      return complain(&c, "it is destroyed before ncclCommFinalize() was through", ncclInvalidUsage);
    c.state = State::Gone;
    --library().counts.open_communicators;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  return call("ncclCommAbort", comm, [&](Device& device, ncclComm& c) {
    abort(device, c);
    ++Device::changes;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  return call("ncclCommGetAsyncError", comm, [&](Device& device, ncclComm& c) {
    *error = poll(device, c);
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  return call("ncclCommCount", comm, [&](Device&, ncclComm& c) {
    *count = c.world->size;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  return call("ncclCommCuDevice", comm, [&](Device&, ncclComm& c) {
    *device = c.device;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  return call("ncclCommUserRank", comm, [&](Device&, ncclComm& c) {
    *rank = c.rank;
    return ncclSuccess;
  });
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) {
    return call("ncclAllReduce", comm, [&](Device&, ncclComm& c) {
      return complain(&c, "reductions other than sums are not emulated", ncclInvalidArgument);
    });
  }
  return operation("ncclAllReduce", comm, stream, {Kind::AllReduce, from, to, count, type, 0});
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return operation("ncclAllGather", comm, stream, {Kind::AllGather, from, to, count, type, 0});
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return operation("ncclBroadcast", comm, stream, {Kind::Broadcast, from, to, count, type, root});
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return operation("ncclSend", comm, stream, {Kind::Send, from, nullptr, count, type, peer});
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return operation("ncclRecv", comm, stream, {Kind::Receive, nullptr, to, count, type, peer});
}

ncclResult_t ncclGroupStart() {
  if (group.depth++ > 0) return ncclSuccess;
  return alone([](Device&) {
    ++library().open_groups;
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupEnd() {
  return alone([](Device& device) {
    if (group.depth == 0) return complain(nullptr, "a group is ended that was not started", ncclInvalidUsage);
    if (--group.depth > 0) return ncclSuccess;
    --library().open_groups;
    const Group ended = std::exchange(group, {});
    ncclResult_t result = ended.error;
    // One kernel for each communicator and stream, in the order of their first calls.
    std::vector<bool> taken(ended.entries.size());
    for (std::size_t i = 0; i < ended.entries.size() && ended.error == ncclSuccess; ++i) {
      if (taken[i]) continue;
      const auto& [comm, stream, first] = ended.entries[i];
      std::vector<Call> calls;
      for (std::size_t j = i; j < ended.entries.size(); ++j) {
        if (ended.entries[j].comm != comm || ended.entries[j].stream != stream) continue;
        calls.push_back(ended.entries[j].call);
        taken[j] = true;
      }
      const ncclResult_t issued = issue(device, *comm, stream, calls);
      if (issued != ncclSuccess && (result == ncclSuccess || result == ncclInProgress)) result = issued;
    }
    return result;
  });
}
