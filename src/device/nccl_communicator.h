// Ranks on GPUs, each with one of its own: device memory, by NCCL. Across processes, or the threads of one process.
//
// Operations are ordered in the stream that the communicator is opened with, and no call but wait() and barrier() waits
// for the GPU. Deadlines are seen by calls, not by a watcher: call wait() before anything else that waits for that
// stream, or a lost rank holds it up for good. A deadline runs from the call on, so that it includes what is in the
// stream before the operation.
//
// After a failure NCCL's kernels have been ended and the stream goes on; what was to come after them in it runs, with
// whatever lies in the buffers. The other ranks hear of it where NCCL tells them (Unavailable); otherwise they fail at
// their own deadlines (DeadlineExceeded). The same goes for operations under way elsewhere when one is destroyed: it
// waits for those of its own and for the other ranks' leaving, for timeout_ms at most.
//
// A send and its receive are through together: two ranks that both send first wait for each other until the deadline.
// NCCL adds up each piece of a buffer in another order of ranks, so that the bits of a float sum of three or more ranks
// depend on where in the buffer it is.
#pragma once

#include <array>
#include <memory>

#include "ranks/communicator.h"
#include "tiercel/status.h"

namespace tiercel {

class CudaStream;

// Ok, or the Unavailable of everything below where tiercel was built without NCCL.
Status find_nccl();

// By which the ranks of one communicator know each other: any rank makes it, and all are given the same bytes. Of use
// once.
using NcclId = std::array<char, 128>;
Result<NcclId> create_nccl_id();

// On the calling thread's current GPU. Waits for the other ranks, for options.open_timeout_ms at most. `stream` is of
// that GPU, and outlives the communicator.
//   InvalidArgument    options that cannot be; two ranks on one GPU
//   Unavailable        no usable GPU, or NCCL cannot connect the ranks
//   DeadlineExceeded   somebody did not come
Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions& options, const NcclId& id,
                                                             const CudaStream& stream);
// With an id of rank 0's, which it tells the others by `host`: a communicator of host memory between the same ranks,
// whose statuses these are too. There all have come here before any waits for NCCL.
Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions& options, Communicator& host,
                                                             const CudaStream& stream);

}  // namespace tiercel
