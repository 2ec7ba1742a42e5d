// Execution contexts that one operating system thread switches between. ThreadSanitizer sees each as a thread of its
// own, ordered with others only where the emulator says so; AddressSanitizer knows its stack.
#pragma once

#include <cstddef>
#include <functional>

namespace cuemu {

// Where an execution stands while another one has the processor.
struct Context {
  void* stack_pointer = nullptr;  // of the machine, or a ucontext_t where there is no switch in assembly
  void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
  void* sanitizer_thread = nullptr;  // ThreadSanitizer's
  void* fake_stack = nullptr;        // AddressSanitizer's
};

// The context of the thread that calls it.
Context context_of_this_thread();

// Goes on in `to`; returns when somebody switches back to `from`. A switch orders nothing.
void switch_context(Context& from, Context& to);

// A context with a stack of its own. It calls `entry`, which never returns: it switches away for good.
class Fiber : public Context {
 public:
  explicit Fiber(std::function<void()> entry);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

 private:
  static void enter();

  std::function<void()> entry_;
  void* mapping_ = nullptr;
};

// Happens-before edges as ThreadSanitizer sees them: what came before release() is before what follows acquire() of the
// same address.
void release(void* address);
void acquire(void* address);

// While one lives, ThreadSanitizer ignores what the running context does: the emulator's own locks and tables must
// order nothing that a real device would not.
class Unseen {
 public:
  Unseen();
  ~Unseen();
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

// A context that ThreadSanitizer alone knows, on the stack of whoever runs it: a stream's. Null without
// ThreadSanitizer.
void* create_sanitizer_thread();
void destroy_sanitizer_thread(void* thread);
class AsSanitizerThread {
 public:
  explicit AsSanitizerThread(void* thread);
  ~AsSanitizerThread();
  AsSanitizerThread(const AsSanitizerThread&) = delete;
  AsSanitizerThread& operator=(const AsSanitizerThread&) = delete;

 private:
  void* before_;
};

}  // namespace cuemu
