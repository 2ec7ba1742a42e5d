// Compiled without instrumentation, like grid.cc.
#include "tests/cuemu/device_state.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/cuemu/fiber.h"

namespace cuemu {
namespace {

enum class Pace { Eager, Lazy, Any };
Pace pace_of(std::uint64_t seed) { return static_cast<Pace>(seed % 3); }

}  // namespace

Device::Device(const DeviceOptions& options) : options_(options), random_state_(options.seed * 2 + 1) {
  for (int device = 0; device < std::max(options.devices, 1); ++device) {
    create_stream_on(device);
    broken_.push_back(cudaSuccess);
  }
}

Device::~Device() {
  for (const auto& stream : streams_) destroy_sanitizer_thread(stream->sanitizer_thread);
}

std::uint64_t Device::random(std::uint64_t bound) {
  std::uint64_t x = random_state_ += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return (x ^ (x >> 31)) % bound;
}

Stream* Device::create_stream() { return create_stream_on(current_device); }

Stream* Device::create_stream_on(int device) {
  streams_.push_back(std::make_unique<Stream>());
  streams_.back()->device = device;
  streams_.back()->sanitizer_thread = create_sanitizer_thread();
  return streams_.back().get();
}

void Device::destroy_stream(Stream* stream) {
  if (const Graph* const begun = stream->capture) {
    end_capture(begun);
    delete begun;
  }
  stream->destroyed = true;
  remove_finished();
}

bool Device::knows(const Stream* stream) const {
  return stream == nullptr ||
         std::ranges::any_of(streams_, [&](const auto& each) { return each.get() == stream && !each->destroyed; });
}

Stream& Device::stream(cudaStream_t handle) {
  return handle == nullptr ? *streams_[static_cast<std::size_t>(current_device)] : *handle;
}

void Device::queue(Stream& stream, std::function<void()> run) {
  if (stream.capture != nullptr) {
    stream.capture->operations.push_back(std::move(run));
    return;
  }
  stream.queue.push_back(std::make_unique<Operation>());
  stream.queue.back()->run = std::move(run);
  release(&stream.queue.back()->order);
  ++changes;
}

void Device::record(Stream& stream, Event& event) {
  event.last = std::make_shared<Completion>();
  event.last->stream = &stream;
  if (stream.capture != nullptr) return;
  stream.queue.push_back(std::make_unique<Operation>());
  stream.queue.back()->completes = event.last;
  release(&stream.queue.back()->order);
}

void Device::wait(Stream& stream, const Event& event) {
  if (event.last == nullptr || (event.last->done && stream.capture != nullptr)) return;  // nothing to wait for
  Graph* capture = event.last->done ? nullptr : event.last->stream->capture;
  if (capture != nullptr) {  // the waiting stream joins the capture
    stream.capture = capture;
    return;
  }
  wait(stream, event.last);
}

void Device::wait(Stream& stream, std::shared_ptr<Completion> completion) {
  stream.queue.push_back(std::make_unique<Operation>());
  stream.queue.back()->wait_for = std::move(completion);
  release(&stream.queue.back()->order);
}

void Device::complete(Completion& completion) {
  completion.done = true;
  completion.at = operations_run_;
  ++changes;
}

bool Device::can_run(const Stream& stream) const {
  if (stream.queue.empty()) return false;
  const auto& wait_for = stream.queue.front()->wait_for;
  return wait_for == nullptr || wait_for->done || broken(stream.device) != cudaSuccess;
}

void Device::run_front(Stream& stream) {
  const std::unique_ptr<Operation> operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  ++operations_run_;
  const bool is_counted = failing_device_ == kAllDevices || failing_device_ == stream.device;
  if (operation->run && is_counted && operations_until_failure_ > 0 && --operations_until_failure_ == 0) {
    for (int device = 0; device < static_cast<int>(broken_.size()); ++device) {
      if (failing_device_ == kAllDevices || failing_device_ == device)
        broken_[static_cast<std::size_t>(device)] = failing_;
    }
  }
  {
    const AsSanitizerThread as_stream(stream.sanitizer_thread);
    acquire(&operation->order);
    if (operation->wait_for != nullptr) acquire(&operation->wait_for->order);
    if (operation->run && broken(stream.device) == cudaSuccess) operation->run();
    if (operation->completes != nullptr) release(&operation->completes->order);
    release(&stream.order);
  }
  ++changes;
  if (operation->completes != nullptr) complete(*operation->completes);
}

bool Device::run_towards(Stream& stream) {
  Stream* next = &stream;
  // Streams may wait for each other in a circle, where ranks of a communicator do.
  for (std::size_t steps = 0; steps <= streams_.size() && next != nullptr && !next->queue.empty(); ++steps) {
    if (can_run(*next)) {
      run_front(*next);
      return true;
    }
    const Completion& awaited = *next->queue.front()->wait_for;
    next = awaited.needs ? awaited.needs() : awaited.stream;
  }
  return false;
}

void Device::end_capture(const Graph* graph) {
  for (const auto& stream : streams_) {
    if (stream->capture == graph) stream->capture = nullptr;
  }
}

void Device::drift() {
  const Pace pace = pace_of(options_.seed);
  if (pace == Pace::Lazy) return;
  std::uint64_t left = pace == Pace::Eager ? ~std::uint64_t{0} : random(4);
  while (left-- > 0) {
    std::vector<Stream*> able;
    for (const auto& stream : streams_) {
      if (can_run(*stream)) able.push_back(stream.get());
    }
    if (able.empty()) break;
    run_front(*able[random(able.size())]);
  }
  remove_finished();
}

bool Device::finish(Stream& stream) {
  drift();
  while (!stream.queue.empty()) {
    if (!run_towards(stream)) return false;
  }
  acquire(&stream.order);
  return true;
}

bool Device::finish(Completion& completion) {
  drift();
  while (!completion.done) {
    if (!run_towards(*completion.stream)) return false;
  }
  acquire(&completion.order);
  return true;
}

bool Device::finish_device(int device) {
  for (const auto& stream : streams_) {
    if (stream->device != device) continue;
    while (!stream->queue.empty()) {
      if (!run_towards(*stream)) return false;
    }
    acquire(&stream->order);
  }
  acquire_broken();
  remove_finished();
  return true;
}

void Device::plan_failure(int nth, cudaError_t error, int device) {
  operations_until_failure_ = nth;
  failing_ = error;
  failing_device_ = device;
}

void Device::acquire_broken() {
  for (const auto& stream : streams_) {
    if (broken(stream->device) != cudaSuccess) acquire(&stream->order);
  }
}

bool Device::finish_all() {
  bool finished = true;
  for (int device = 0; device < std::max(options_.devices, 1); ++device) finished = finish_device(device) && finished;
  return finished;
}

void Device::remove_finished() {
  std::erase_if(streams_, [](const auto& stream) {
    if (!stream->destroyed || !stream->queue.empty()) return false;
    destroy_sanitizer_thread(stream->sanitizer_thread);
    return true;
  });
}

bool Device::contains(const Ranges& ranges, const void* memory, std::size_t bytes) {
  const auto* begin = static_cast<const char*>(memory);
  auto range = ranges.upper_bound(begin);
  if (range == ranges.begin()) return false;
  --range;
  return begin + bytes <= range->first + range->second;
}

void* Device::allocate(std::size_t bytes) {
  if (bytes > free_bytes()) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes) != 0) return nullptr;
  allocations_[static_cast<const char*>(memory)] = bytes;
  allocated_ += bytes;
  return memory;
}

bool Device::free(void* memory) {
  const auto allocation = allocations_.find(static_cast<const char*>(memory));
  if (allocation == allocations_.end()) return false;
  allocated_ -= allocation->second;
  allocations_.erase(allocation);
  std::free(memory);
  return true;
}

bool Device::pin(void* memory, std::size_t bytes) {
  const auto* begin = static_cast<const char*>(memory);
  for (const auto& [other, size] : pinned_) {
    if (begin < other + size && other < begin + bytes) return false;
  }
  pinned_[begin] = bytes;
  return true;
}

bool Device::unpin(void* memory) { return pinned_.erase(static_cast<const char*>(memory)) == 1; }

std::string Device::leftovers() const {
  std::string text;
  const auto add = [&](std::size_t count, const char* what) {
    if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  };
  add(allocations_.size(), "allocations");
  add(pinned_.size(), "pinned ranges");
  add(static_cast<std::size_t>(std::ranges::count_if(streams_, [](const auto& each) { return !each->destroyed; })) -
          static_cast<std::size_t>(std::max(options_.devices, 1)),
      "streams");
  add(static_cast<std::size_t>(events), "events");
  add(static_cast<std::size_t>(graphs), "graphs");
  return text;
}

}  // namespace cuemu
