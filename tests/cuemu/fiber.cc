// Compiled without instrumentation: a sanitizer must not look while stacks are exchanged.
#include "tests/cuemu/fiber.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include <pthread.h>
#include <sys/mman.h>

#if defined(CUEMU_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#elif defined(CUEMU_ASAN)
#include <sanitizer/asan_interface.h>
#endif

#if !defined(__x86_64__)
#define CUEMU_UCONTEXT
#endif
#if defined(CUEMU_UCONTEXT)
#include <ucontext.h>
#endif

#if !defined(CUEMU_UCONTEXT)
// void cuemu_switch_stack(void** save, void* load): keeps what the System V ABI has a callee keep, and exchanges the
// stack pointer.
extern "C" void cuemu_switch_stack(void** save, void* load);
asm(R"(
  .text
  .globl cuemu_switch_stack
  .type cuemu_switch_stack, @function
cuemu_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size cuemu_switch_stack, .-cuemu_switch_stack
)");
#endif

namespace cuemu {
namespace {

// Frames grow under sanitizers. Untouched pages cost nothing.
constexpr std::size_t kStackBytes = 256 * 1024;
constexpr std::size_t kGuardBytes = 4096;

// Who was switched to last, so that a fiber that enters knows itself.
thread_local Context* running = nullptr;

}  // namespace

Context context_of_this_thread() {
  Context context;
#if defined(CUEMU_ASAN)
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &context.stack_bottom, &context.stack_bytes);
    pthread_attr_destroy(&attributes);
  }
#elif defined(CUEMU_TSAN)
  context.sanitizer_thread = __tsan_get_current_fiber();
#endif
  return context;
}

void switch_context(Context& from, Context& to) {
  running = &to;
#if defined(CUEMU_TSAN)
  __tsan_switch_to_fiber(to.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
#elif defined(CUEMU_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
#if defined(CUEMU_UCONTEXT)
  ucontext_t saved;
  from.stack_pointer = &saved;
  swapcontext(&saved, static_cast<ucontext_t*>(to.stack_pointer));
#else
  cuemu_switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(CUEMU_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

Fiber::Fiber(std::function<void()> entry) : entry_(std::move(entry)) {
  mapping_ = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED || mprotect(mapping_, kGuardBytes, PROT_NONE) != 0) {
    std::perror("cuemu: no memory for a fiber's stack");
    std::abort();
  }
  stack_bottom = static_cast<char*>(mapping_) + kGuardBytes;
  stack_bytes = kStackBytes;
  sanitizer_thread = create_sanitizer_thread();
#if defined(CUEMU_UCONTEXT)
  auto* context = reinterpret_cast<ucontext_t*>(static_cast<char*>(stack_bottom) + kStackBytes) - 1;
  getcontext(context);
  context->uc_stack.ss_sp = stack_bottom;
  context->uc_stack.ss_size = kStackBytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, &Fiber::enter, 0);
  stack_pointer = context;
#else
  // As if enter() had been called: its return address (none) lies where a call would leave it, 8 below a multiple
  // of 16.
  void** top = reinterpret_cast<void**>(static_cast<char*>(stack_bottom) + kStackBytes) - 2;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the six registers that the switch takes back
  stack_pointer = top;
#endif
}

Fiber::~Fiber() {
  destroy_sanitizer_thread(sanitizer_thread);
#if defined(CUEMU_ASAN)
  __asan_unpoison_memory_region(stack_bottom, stack_bytes);  // another mapping may come to lie here
#endif
  munmap(mapping_, kStackBytes + kGuardBytes);
}

void Fiber::enter() {
  auto* self = static_cast<Fiber*>(running);
#if defined(CUEMU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  self->entry_();
  std::abort();
}

void* create_sanitizer_thread() {
#if defined(CUEMU_TSAN)
  return __tsan_create_fiber(0);
#else
  return nullptr;
#endif
}

void destroy_sanitizer_thread([[maybe_unused]] void* thread) {
#if defined(CUEMU_TSAN)
  __tsan_destroy_fiber(thread);
#endif
}

AsSanitizerThread::AsSanitizerThread([[maybe_unused]] void* thread) : before_(nullptr) {
#if defined(CUEMU_TSAN)
  before_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync);
#endif
}

AsSanitizerThread::~AsSanitizerThread() {
#if defined(CUEMU_TSAN)
  __tsan_switch_to_fiber(before_, __tsan_switch_to_fiber_no_sync);
#endif
}

void release([[maybe_unused]] void* address) {
#if defined(CUEMU_TSAN)
  __tsan_release(address);
#endif
}

void acquire([[maybe_unused]] void* address) {
#if defined(CUEMU_TSAN)
  __tsan_acquire(address);
#endif
}

Unseen::Unseen() {
#if defined(CUEMU_TSAN)
  __tsan_ignore_thread_begin();
#endif
}

Unseen::~Unseen() {
#if defined(CUEMU_TSAN)
  __tsan_ignore_thread_end();
#endif
}

}  // namespace cuemu
