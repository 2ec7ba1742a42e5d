// How the CUDA runtime's functions reach the emulated device: one call at a time. Compiled without instrumentation,
// like grid.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "tests/cuemu/device_state.h"
#include "tests/cuemu/fiber.h"

namespace cuemu {

// Not a std::mutex, which ThreadSanitizer would see: its order is none that a device gives.
class Lock {
 public:
  Lock() { take(); }
  ~Lock() { give(); }
  // Lets others have it until one of them changes something.
  void wait() {
    const std::uint32_t seen = Device::changes;
    give();
    Device::changes.wait(seen);
    take();
  }

 private:
  static void take() {
    while (taken.test_and_set(std::memory_order_acquire)) taken.wait(true, std::memory_order_relaxed);
  }
  static void give() {
    taken.clear(std::memory_order_release);
    taken.notify_one();
  }
  static inline std::atomic_flag taken;
};

Device& device();

// Kept as the calling thread's last error where it is one.
cudaError_t note(cudaError_t error);

// What a call of this function fails with before it does anything; success where it does not.
cudaError_t refusal(Device& d, std::string_view function);

// One call into the runtime: alone with the device, unless it is broken or the call is to fail.
template <class Body>
cudaError_t call(const char* function, const Body& body) {
  const Unseen unseen;
  const Lock lock;
  Device& d = device();
  if (const cudaError_t refused = refusal(d, function); refused != cudaSuccess) return refused;
  const cudaError_t error = body(d);
  d.drift();
  Device::changes.notify_all();
  return note(error);
}

// One that waits until `finish` says that what it waits for has come, which is on this device.
template <class Finish>
cudaError_t waiting_call(const char* function, int on, const Finish& finish) {
  const Unseen unseen;
  Lock lock;
  if (const cudaError_t refused = refusal(device(), function); refused != cudaSuccess) return refused;
  while (!finish(device())) {
    Device::changes.notify_all();
    lock.wait();
  }
  device().drift();
  Device::changes.notify_all();
  return note(device().broken(on));
}

cudaError_t finish_current_device(const char* function);

bool is_capturing(const Device& d, cudaStream_t stream);

}  // namespace cuemu
