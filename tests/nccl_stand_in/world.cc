// Compiled without instrumentation, like the emulated runtime.
#include "tests/nccl_stand_in/world.h"

#include <algorithm>

#include "tests/cuemu/fiber.h"
#include "tests/nccl_stand_in/exchange.h"

namespace nccl_stand_in {
namespace {

int draw(ncclComm& comm, std::uint64_t bound) {
  std::uint64_t x = comm.random_state += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<int>((x ^ (x >> 31)) % bound);
}

bool is_message(Kind kind) { return kind == Kind::Send || kind == Kind::Receive; }

// Whether two ranks' calls can be one operation.
bool agree(const Call& a, const Call& b) {
  if (a.count != b.count || a.type != b.type) return false;
  return is_message(a.kind) || (a.kind == b.kind && (a.kind != Kind::Broadcast || a.other == b.other));
}

void disagree(Meeting& meeting, const ncclComm& comm, const Call& call, std::size_t number,
              const Meeting::Side& other) {
  meeting.disagreed = true;
  complain(&comm,
           describe(call) + " is number " + std::to_string(number + 1) + ", which for rank " +
               std::to_string(other.kernel->comm->rank) + " is " + describe(other.call),
           ncclInvalidUsage);
}

Meeting& join_collective(Kernel& kernel, const Call& call) {
  World& world = *kernel.comm->world;
  const std::size_t number = kernel.comm->collectives++;
  if (number == world.collectives.size()) {
    world.collectives.push_back(std::make_unique<Meeting>());
    world.collectives.back()->sides.resize(static_cast<std::size_t>(world.size));
  }
  Meeting& meeting = *world.collectives[number];
  for (const Meeting::Side& side : meeting.sides) {
    if (side.kernel == nullptr || agree(side.call, call)) continue;
    disagree(meeting, *kernel.comm, call, number, side);
    break;
  }
  meeting.sides[static_cast<std::size_t>(kernel.comm->rank)] = {&kernel, call};
  return meeting;
}

Meeting& join_message(Kernel& kernel, const Call& call) {
  const bool sends = call.kind == Kind::Send;
  const int rank = kernel.comm->rank;
  World::Messages& messages =
      kernel.comm->world->messages[sends ? std::pair(rank, call.other) : std::pair(call.other, rank)];
  const std::size_t number = sends ? messages.sent++ : messages.received++;
  if (number == messages.meetings.size()) {
    messages.meetings.push_back(std::make_unique<Meeting>());
    messages.meetings.back()->sides.resize(2);
  }
  Meeting& meeting = *messages.meetings[number];
  const Meeting::Side& other = meeting.sides[sends ? 1 : 0];
  if (other.kernel != nullptr && !agree(other.call, call)) disagree(meeting, *kernel.comm, call, number, other);
  meeting.sides[sends ? 0 : 1] = {&kernel, call};
  return meeting;
}

// The stream that has to come to its kernel before this one can be through.
cuemu::Stream* awaited_stream(const Kernel& kernel) {
  for (const Meeting* meeting : kernel.meetings) {
    if (meeting->through || meeting->disagreed) continue;
    for (const Meeting::Side& side : meeting->sides) {
      if (side.kernel != nullptr && side.kernel->in_stream && !side.kernel->begun && !side.kernel->aborted)
        return side.kernel->stream;
    }
  }
  return nullptr;
}

void finish_if_through(cuemu::Device& device, Kernel& kernel) {
  const bool through = std::ranges::all_of(kernel.meetings, [](const Meeting* each) { return each->through; });
  if (through && !kernel.done->done) device.complete(*kernel.done);
}

// Its stream has come to it. Runs as that stream.
void begin(cuemu::Device& device, Kernel& kernel) {
  if (kernel.aborted) return;
  kernel.begun = true;
  cuemu::release(&kernel.order);
  for (Meeting* meeting : kernel.meetings) {
    const bool all = std::ranges::all_of(meeting->sides, [](const Meeting::Side& side) {
      return side.kernel != nullptr && side.kernel->begun && !side.kernel->aborted;
    });
    if (!all || meeting->disagreed || meeting->through) continue;
    for (const Meeting::Side& side : meeting->sides) cuemu::acquire(&side.kernel->order);
    exchange(*meeting);
    const cuemu::Unseen unseen;
    meeting->through = true;
    for (const Meeting::Side& side : meeting->sides) {
      cuemu::release(&side.kernel->done->order);
      finish_if_through(device, *side.kernel);
    }
  }
  const cuemu::Unseen unseen;
  finish_if_through(device, kernel);  // an empty group
}

void give_to_stream(cuemu::Device& device, Kernel& kernel) {
  kernel.in_stream = true;
  ++library().counts.operations;
  if (kernel.may_begin != nullptr) device.wait(*kernel.stream, kernel.may_begin);
  device.queue(*kernel.stream, [&device, &kernel] { begin(device, kernel); });
  kernel.done->needs = [&kernel] { return awaited_stream(kernel); };
  device.wait(*kernel.stream, kernel.done);
}

// All communicators of the device, and the others hear of it.
void die(int device) {
  for (const auto& comm : library().communicators) {
    if (comm->device != device || comm->state == State::Gone) continue;
    fail(*comm, ncclUnhandledCudaError, "the GPU has fallen off the bus");
    for (ncclComm* other : comm->world->members) {
      if (other != nullptr && other != comm.get()) other->polls_until_remote_error = draw(*other, 4);
    }
  }
}

// What a planned fault makes of the device's operation of that number.
ncclResult_t apply_faults(ncclComm& comm, Kernel& kernel, int number) {
  auto& faults = library().faults;
  const auto planned = std::ranges::find_if(
      faults, [&](const auto& fault) { return fault.device == comm.device && fault.nth == number; });
  if (planned == faults.end()) return ncclSuccess;
  const Fault fault = planned->fault;
  faults.erase(planned);
  if (fault == Fault::Dead) {
    die(comm.device);
    return ncclUnhandledCudaError;
  }
  kernel.may_begin = std::make_shared<cuemu::Completion>();
  kernel.may_begin->needs = []() -> cuemu::Stream* { return nullptr; };
  kernel.polls_until_it_may = fault == Fault::Slow ? kSlowPolls : 0;
  return ncclSuccess;
}

bool within(const void* inner, std::size_t bytes, const void* outer, std::size_t outer_bytes) {
  const auto *a = static_cast<const char*>(inner), *b = static_cast<const char*>(outer);
  return a < b + outer_bytes && b < a + bytes;
}

// The call that is in progress; ncclInProgress while it still is.
ncclResult_t go_on(cuemu::Device& device, ncclComm& comm) {
  if (comm.polls_left > 0) {
    --comm.polls_left;
    return ncclInProgress;
  }
  if (!comm.hesitating.empty()) {
    const bool connects = comm.operations == 1 && comm.world->connects_at_first_call;
    const auto& members = comm.world->members;
    if (connects && std::ranges::any_of(members, [](const ncclComm* each) { return each->operations == 0; }))
      return ncclInProgress;
    for (Kernel* kernel : comm.hesitating) give_to_stream(device, *kernel);
    comm.hesitating.clear();
  }
  if (comm.state == State::Opening) {
    if (!comm.world->complete()) return ncclInProgress;
    comm.state = State::Open;
  }
  if (comm.state == State::Finalizing) {
    for (const Kernel* kernel : comm.kernels) {
      while (!kernel->done->done) {
        if (!device.run_towards(*kernel->stream)) return ncclInProgress;
      }
    }
    const bool all_leave = std::ranges::all_of(comm.world->members, [](const ncclComm* each) {
      return each->state != State::Open && each->state != State::Opening;
    });
    if (!all_leave) return ncclInProgress;
    comm.state = State::Finalized;
  }
  return ncclSuccess;
}

}  // namespace

bool World::complete() const {
  return std::ranges::none_of(members, [](const ncclComm* each) { return each == nullptr; });
}

Library& library() {
  static auto* const only = new Library;  // not destroyed: threads may outlive main()
  return *only;
}

std::size_t bytes_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    default: return 1;
  }
}

std::string describe(const Call& call) {
  static const char* const kinds[] = {"all-reduce", "all-gather", "broadcast", "send", "receive"};
  static const char* const types[] = {"int8",    "uint8",   "int32",   "uint32",   "int64",      "uint64",
                                      "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2"};
  std::string text =
      std::string(kinds[static_cast<int>(call.kind)]) + " of " + std::to_string(call.count) + " " + types[call.type];
  if (call.kind == Kind::Broadcast || call.kind == Kind::Receive) text += " from rank " + std::to_string(call.other);
  if (call.kind == Kind::Send) text += " to rank " + std::to_string(call.other);
  return text;
}

ncclResult_t complain(const ncclComm* comm, const std::string& what, ncclResult_t result) {
  library().complaints.push_back((comm == nullptr ? "" : "rank " + std::to_string(comm->rank) + ": ") + what);
  return result;
}

void fail(ncclComm& comm, ncclResult_t error, const std::string& what) {
  comm.error = error;
  comm.last_error = what;
}

ncclResult_t check_usable(const ncclComm* comm, const char* what) {
  const bool known = std::ranges::any_of(library().communicators, [&](const auto& each) { return each.get() == comm; });
  if (!known) return complain(nullptr, std::string(what) + " with no communicator", ncclInvalidArgument);
  if (comm->state == State::Gone)
    return complain(comm, std::string(what) + " after the communicator's end", ncclInvalidArgument);
  return ncclSuccess;
}

ncclResult_t check_call(const cuemu::Device& device, const ncclComm& comm, cudaStream_t stream, const Call& call) {
  const std::string text = describe(call);
  if (comm.state != State::Open || !comm.hesitating.empty())
    return complain(&comm, text + " while another call is in progress", ncclInvalidUsage);
  if (comm.error != ncclSuccess) return complain(&comm, text + " after an error", comm.error);
  const int device_of_stream = stream == nullptr ? cuemu::current_device : stream->device;
  if (!device.knows(stream) || device_of_stream != comm.device)
    return complain(&comm, text + " in a stream that is not of its device", ncclInvalidUsage);
  if (stream != nullptr && stream->capture != nullptr)
    return complain(&comm, text + " in a captured stream, which is not emulated", ncclInvalidUsage);
  const bool with_other = call.kind == Kind::Broadcast || is_message(call.kind);
  if (with_other &&
      (call.other < 0 || call.other >= comm.world->size || (is_message(call.kind) && call.other == comm.rank)))
    return complain(&comm, text + ", which is none that it can mean", ncclInvalidArgument);
  if (call.kind == Kind::AllReduce && (call.type == ncclFloat8e4m3 || call.type == ncclFloat8e5m2))
    return complain(&comm, text + " is not emulated", ncclInvalidArgument);

  const std::size_t bytes = call.count * bytes_of(call.type);
  const std::size_t to_bytes =
      call.kind == Kind::AllGather ? bytes * static_cast<std::size_t>(comm.world->size) : bytes;
  const bool reads = call.kind != Kind::Receive && (call.kind != Kind::Broadcast || call.other == comm.rank);
  const bool writes = call.kind != Kind::Send;
  if (bytes == 0) return ncclSuccess;
  if ((reads && !device.is_device(call.from, bytes)) || (writes && !device.is_device(call.to, to_bytes)))
    return complain(&comm, text + " of memory that is not the GPU's, or too short", ncclInvalidArgument);
  const auto* in_place = static_cast<const char*>(call.to) +
                         (call.kind == Kind::AllGather ? bytes * static_cast<std::size_t>(comm.rank) : 0);
  if (reads && writes && call.from != in_place && within(call.from, bytes, call.to, to_bytes))
    return complain(&comm, text + " of memory that overlaps its result", ncclInvalidArgument);
  return ncclSuccess;
}

ncclResult_t issue(cuemu::Device& device, ncclComm& comm, cudaStream_t stream, const std::vector<Call>& calls) {
  World& world = *comm.world;
  world.kernels.push_back(std::make_unique<Kernel>());
  Kernel& kernel = *world.kernels.back();
  kernel.comm = &comm;
  kernel.stream = &device.stream(stream);
  ++comm.operations;
  const int number = ++library().operations[comm.device];
  if (const ncclResult_t result = apply_faults(comm, kernel, number); result != ncclSuccess) return result;
  for (const Call& call : calls)
    kernel.meetings.push_back(is_message(call.kind) ? &join_message(kernel, call) : &join_collective(kernel, call));
  comm.kernels.push_back(&kernel);
  comm.hesitating.push_back(&kernel);
  comm.polls_left = comm.blocking ? 0 : draw(comm, 4);
  return go_on(device, comm);
}

ncclResult_t poll(cuemu::Device& device, ncclComm& comm) {
  for (const auto& kernel : comm.world->kernels) {
    if (kernel->polls_until_it_may > 0 && kernel->in_stream && --kernel->polls_until_it_may == 0)
      device.complete(*kernel->may_begin);
  }
  if (comm.error == ncclSuccess && comm.state != State::Opening && comm.polls_until_remote_error >= 0 &&
      comm.polls_until_remote_error-- == 0)
    fail(comm, ncclRemoteError, "a remote rank has closed its connection");
  return comm.error != ncclSuccess ? comm.error : go_on(device, comm);
}

void abort(cuemu::Device& device, ncclComm& comm) {
  for (Kernel* kernel : comm.kernels) {
    if (kernel->done->done) continue;
    kernel->aborted = true;
    kernel->polls_until_it_may = 0;
    if (kernel->may_begin != nullptr) device.complete(*kernel->may_begin);
    device.complete(*kernel->done);
  }
  comm.hesitating.clear();
  comm.state = State::Gone;
  --library().counts.open_communicators;
  ++library().counts.aborts;
  if (!comm.world->tells_of_aborts) return;
  for (ncclComm* other : comm.world->members) {
    if (other != nullptr && other->state != State::Gone && other->polls_until_remote_error < 0)
      other->polls_until_remote_error = draw(*other, 4);
  }
}

}  // namespace nccl_stand_in
