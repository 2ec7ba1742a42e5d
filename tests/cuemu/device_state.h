// Streams, events and memory of the emulated devices. One mutex guards all of it; ThreadSanitizer does not see it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuemu/device.h"
#include "tests/cuemu/grid.h"

namespace cuemu {

// One record of an event: whether the stream has come there. Or something else that streams wait for.
struct Completion {
  Stream* stream = nullptr;
  // Where it is not one stream that brings it about: the one that has to go on for it now, or null where none of those
  // that there are can help.
  std::function<Stream*()> needs;
  bool done = false;
  std::uint64_t at = 0;  // operations that had run before it
  char order = 0;        // its address orders memory for ThreadSanitizer
};

struct Operation {
  std::function<void()> run;              // what it does; empty for a wait or a record
  std::shared_ptr<Completion> wait_for;   // runs after this
  std::shared_ptr<Completion> completes;  // said to be done when it has run
  char order = 0;                         // from whoever queued it
};

struct Graph {
  std::vector<std::function<void()>> operations;  // in the order of their capture, in which they also run
};

struct Stream {
  int device = 0;
  std::deque<std::unique_ptr<Operation>> queue;
  void* sanitizer_thread = nullptr;
  Graph* capture = nullptr;
  bool destroyed = false;  // by the program; it goes when its queue has run
  char order = 0;          // from its operations to whoever waits for it
};

struct Event {
  int device = 0;
  std::shared_ptr<Completion> last;
};

// Of the calling thread, as cudaSetDevice() has it.
inline thread_local int current_device = 0;

// All devices that there are.
class Device {
 public:
  explicit Device(const DeviceOptions& options);
  ~Device();

  Stream* create_stream();
  void destroy_stream(Stream* stream);
  bool knows(const Stream* stream) const;
  Stream& stream(cudaStream_t handle);  // the current device's default one for null

  // An operation at the end of a stream, or of the graph that it captures.
  void queue(Stream& stream, std::function<void()> run);
  void record(Stream& stream, Event& event);
  void wait(Stream& stream, const Event& event);
  void wait(Stream& stream, std::shared_ptr<Completion> completion);
  // What streams wait for without one that brings it about.
  void complete(Completion& completion);
  // Runs what must run until the stream is empty, or the event has come. False where that takes what another thread has
  // not given yet.
  bool finish(Stream& stream);
  bool finish(Completion& completion);
  bool finish_device(int device);
  bool finish_all();
  // The operation that is the nth from now on breaks the device, or all of them.
  void plan_failure(int nth, cudaError_t error, int device);
  // What every call about this device returns; success where it is not broken.
  cudaError_t broken(int device) const { return broken_[static_cast<std::size_t>(device)]; }
  // Of broken devices, whose streams run nothing more: what they did came before what the caller does now.
  void acquire_broken();
  // The stream's next operation, or, while that waits, one of the stream that it waits for. False where none can run.
  bool run_towards(Stream& stream);
  void end_capture(const Graph* graph);
  // Runs as much as the seed likes.
  void drift();

  void* allocate(std::size_t bytes);
  bool free(void* memory);
  std::size_t free_bytes() const { return options_.memory_bytes - allocated_; }
  std::size_t allocated() const { return allocated_; }
  // Whether all of it lies within one allocation, or one pinned range.
  bool is_device(const void* memory, std::size_t bytes) const { return contains(allocations_, memory, bytes); }
  bool is_pinned(const void* memory, std::size_t bytes) const { return contains(pinned_, memory, bytes); }
  bool pin(void* memory, std::size_t bytes);
  bool unpin(void* memory);
  std::size_t allocation_count() const { return allocations_.size(); }
  std::string leftovers() const;

  const DeviceOptions& options() const { return options_; }
  std::uint64_t random(std::uint64_t bound);

  // Grows with everything that may let a stream go on.
  static inline std::atomic<std::uint32_t> changes = 0;

  DeviceCounts counts;
  int events = 0, graphs = 0;
  struct PlannedFailure {
    std::string function;
    int calls_left;
    cudaError_t error;
  };
  std::vector<PlannedFailure> planned_failures;
  std::map<const void*, int> dynamic_shared_limits;  // by kernel, where raised

 private:
  using Ranges = std::map<const char*, std::size_t>;
  static bool contains(const Ranges& ranges, const void* memory, std::size_t bytes);
  Stream* create_stream_on(int device);
  bool can_run(const Stream& stream) const;
  void run_front(Stream& stream);
  void remove_finished();

  DeviceOptions options_;
  std::uint64_t random_state_;
  std::vector<std::unique_ptr<Stream>> streams_;  // the first are the devices' default ones
  Ranges allocations_, pinned_;
  std::size_t allocated_ = 0;
  std::uint64_t operations_run_ = 0;
  std::vector<cudaError_t> broken_;   // by device
  int operations_until_failure_ = 0;  // 0: none is planned
  int failing_device_ = kAllDevices;
  cudaError_t failing_ = cudaSuccess;
};

// Runs `body` alone with the devices, unseen by ThreadSanitizer, as a call into the runtime does. While `body` returns
// false it waits for other threads' calls, and tries again.
void with_devices(const std::function<bool(Device&)>& body);

// Behind the templates of <cuda_runtime.h>, which this cannot include: its names of indices are macros.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value);

}  // namespace cuemu
