// NCCL on the emulated GPUs (tests/cuemu), as tests control it. Ranks are threads of one process, each with a device of
// its own, on which there may be several communicators.
//
// An operation is a kernel in its stream: it begins when the stream comes there, is through when all whom it takes have
// begun, and moves data then. A rank whose kernel waits forever holds up its stream, as on a GPU; only ncclCommAbort()
// ends it. The seed draws how NCCL hesitates: a call on a communicator that does not block may return ncclInProgress,
// and gives its kernel to the stream some ncclCommGetAsyncError() later, the first one perhaps only when all ranks have
// called; whether ranks are told that another one has aborted, or wait.
//
// Where NCCL would hang, crash or compute nonsense (ranks that disagree, memory that is not the device's, use after the
// end, groups left open), the stand-in hangs or refuses too, and says what was wrong: complaints().
//
// NCCL wants one thread at a time on a communicator: two at once are a race for ThreadSanitizer.
//
// Not there: graph capture, splitting, ncclCommInitAll, reductions other than sums, what is not in include/nccl.h. A
// broadcast and a send are through on all sides at once, which NCCL does not promise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nccl.h>

namespace nccl_stand_in {

// Everything is forgotten. Aborts, naming them, if communicators or groups are left, or complaints that no test has
// asked for. Call it before cuemu::reset_device().
void reset(std::uint64_t seed);

enum class Fault {
  Dead,  // its GPU is gone: the call fails, and the other ranks hear of it (ncclRemoteError) after a while
  Hung,  // the call returns, and the kernel never begins
  Slow,  // the kernel begins after kSlowPolls more calls of ncclCommGetAsyncError() by any rank
};
constexpr int kSlowPolls = 200;
// Of that GPU's `nth` operation, 1 being the first and a group one, of whichever communicator: counted from when the
// first of those that are open now was opened.
void plan_fault(int device, int nth, Fault fault);
// The `nth` opening of a communicator on that GPU from now on fails: at once or, by the seed, while it is in progress.
void plan_failed_opening(int device, ncclResult_t error, int nth = 1);
void plan_failed_id(ncclResult_t error);

// "rank 1: all-reduce of 7 float32 is operation 3, which for rank 0 is all-reduce of 8 float32", ... And forgets them.
std::vector<std::string> complaints();

struct Counts {
  int open_communicators = 0;
  int operations = 0;  // kernels that were given to streams
  int aborts = 0;
};
Counts counts();

}  // namespace nccl_stand_in
