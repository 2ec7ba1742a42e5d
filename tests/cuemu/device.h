// The emulated GPUs behind the CUDA runtime, as tests control it.
//
// Streams are queues that run when somebody calls into the runtime: which operations of which streams run then, beyond
// those that the call waits for, is drawn by the seed. So a missing wait between streams shows as wrong data, the same
// at every run; and ThreadSanitizer, for which each stream is a thread ordered only by events and synchronisation,
// reports it as a race. A third of the seeds run everything at once, a third nothing that is not waited for, a third as
// they please.
//
// Device memory is malloc's, a piece for each allocation, so AddressSanitizer knows its ends; nothing keeps the host
// from reading it. The default stream waits for no other and no other for it, which is weaker than CUDA promises.
// Copies from memory that is not pinned read it before they return, copies to it return when all is there. Host
// functions in streams, managed memory, and graphs by any other way than capture are not there.
//
// Several devices differ in what CUDA keeps by device: the current one of a thread, streams, events, and what a call
// for a whole device waits for, and what is broken. Memory is everybody's.
//
// Not thread-safe; what is declared in <cuda_runtime_api.h> is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <cuda_runtime_api.h>

namespace cuemu {

struct DeviceOptions {
  std::uint64_t seed = 0;
  std::size_t memory_bytes = std::size_t{1} << 30;
  int compute_major = 9, compute_minor = 0;
  int devices = 1;  // 0: as on a machine without one
};

// New devices, without errors, streams or memory. Aborts, naming what is left, if those before were not given back
// everything they gave. The calling thread's current device is the first; other threads set theirs.
void reset_device(const DeviceOptions& options);

// The `nth` call from now on of the function of that name, 1 being the next, does nothing and returns `error`. Kernels
// are launched by "cudaLaunchKernelEx".
void fail_call(std::string_view function, int nth, cudaError_t error);
// The `nth` operation that runs from now on fails while it runs: nothing more runs, and from the next wait on every
// call returns `error`, as after a kernel's illegal access; on all devices, or where one is named, of its operations
// and on that one.
constexpr int kAllDevices = -1;
void fail_operation(int nth, cudaError_t error, int device = kAllDevices);

// What has happened since reset_device().
struct DeviceCounts {
  int launches = 0;
  int copies = 0;           // to or from the device, and within it; each of a batch counts
  int pageable_copies = 0;  // of these, those that had to wait for memory that is not pinned
  int copy_calls = 0;       // a batch is one
  int graph_launches = 0;
};
DeviceCounts device_counts();
std::size_t allocated_bytes();

}  // namespace cuemu
