// Compiled without instrumentation: the tables of the emulator are none of the kernel's memory.
#include "tests/cuemu/grid.h"

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuemu/fiber.h"

namespace cuemu {

const ThreadPlace* place = nullptr;

namespace {

constexpr unsigned kWarp = 32;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}
  unsigned below(unsigned bound) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<unsigned>((state_ >> 32) * bound >> 32);
  }

 private:
  std::uint64_t state_;
};

enum class ThreadState { Ready, AtBarrier, InWarp, Returned };

struct Thread {
  ThreadPlace place;
  unsigned index = 0;  // in the block
  ThreadState state = ThreadState::Ready;
  std::source_location where;  // of the barrier that it waits at
  Context* context = nullptr;
  // Of the warp operation that it waits for, or that has just been done.
  std::uint64_t value = 0, result = 0;
  int source = 0;
  std::vector<AsyncCopy> copies;  // those from first_copy on are under way
  std::size_t first_copy = 0;
  unsigned commits = 0;
};

// Lanes of a warp that are to meet at one operation.
struct Meeting {
  WarpOperation operation{};
  unsigned mask = 0, arrived = 0, leaving = 0;
  std::source_location where;
  char order = 0;  // its address orders memory for ThreadSanitizer
};

struct Warp {
  unsigned lanes = 0;        // that the block has and that have not returned
  std::uint64_t in_use = 0;  // of its meetings, a bit each
  Meeting meetings[kWarp + 1];
};

// Calls `body` with the number of each bit that is set, ascending.
template <class Bits, class Body>
void for_each_bit(Bits bits, const Body& body) {
  for (; bits != 0; bits &= bits - 1) body(static_cast<unsigned>(std::countr_zero(bits)));
}

struct SharedVariable {
  std::source_location where;
  void* memory = nullptr;
};

bool same_place(const std::source_location& a, const std::source_location& b) {
  if (a.line() != b.line()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string text(const std::source_location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

std::string text(const Thread& t) {
  const uint3 i = t.place.thread;
  return "thread (" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

std::string text(unsigned mask) {
  char hexadecimal[16];
  std::snprintf(hexadecimal, sizeof hexadecimal, "0x%08x", mask);
  return hexadecimal;
}

[[noreturn]] void defect(const Thread& t, const std::string& what) {
  const uint3 b = t.place.block;
  std::fprintf(stderr, "cuemu: block (%u,%u,%u) %s: %s\n", b.x, b.y, b.z, text(t).c_str(), what.c_str());
  std::abort();
}

void* allocate_shared(std::size_t bytes) {
  const Unseen unseen;
  void* memory = std::malloc(bytes);
  std::memset(memory, 0xff, bytes);
  return memory;
}

// One block at a time, on fibers that are kept from block to block.
class Grid {
 public:
  void run(const LaunchShape& shape, const std::function<void()>& kernel);

  int barrier(Barrier kind, int predicate, const std::source_location& where);
  std::uint64_t meet(WarpOperation operation, unsigned mask, std::uint64_t value, int source,
                     const std::source_location& where);
  void* shared_variable(std::size_t bytes, const std::source_location& where);
  void* dynamic_shared() const { return dynamic_shared_; }
  void fence();
  Thread& running() { return *running_; }
  unsigned draw(unsigned bound) { return random_.below(bound); }

 private:
  void run_block(const LaunchShape& shape, uint3 block, std::vector<std::unique_ptr<Fiber>>& fibers);
  [[noreturn]] void live();  // what a fiber does, over and over
  void leave();
  void yield();
  void make_ready(Thread& t);
  Meeting& meeting_of(Warp& warp, WarpOperation operation, unsigned mask, const std::source_location& where);
  void complete(Thread* lanes, Meeting& meeting);
  [[noreturn]] void report_absent(unsigned mask, const std::source_location& where);
  [[noreturn]] void report_standstill();

  // Two sets of fibers take turns, so that ThreadSanitizer orders no block after the one before it.
  std::vector<std::unique_ptr<Fiber>> fibers_[2];
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Thread*> ready_;
  Thread* running_ = nullptr;
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  Random random_{0};

  unsigned returned_ = 0, at_barrier_ = 0, counted_ = 0;
  unsigned generation_ = 0;
  Barrier barrier_kind_{};
  int barrier_result_[2] = {};
  Thread* first_at_barrier_ = nullptr;
  char barrier_order_[2] =
      {};  // by generation: who is late in leaving one must not be ordered after who has reached the next
  char start_order_ = 0, end_order_ = 0, fence_order_ = 0;

  std::vector<SharedVariable> shared_;
  void* dynamic_shared_ = nullptr;
};

void Grid::run(const LaunchShape& shape, const std::function<void()>& kernel) {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  kernel_ = &kernel;
  random_ = Random(shape.seed);
  scheduler_ = context_of_this_thread();
  for (auto& fibers : fibers_) {
    const Unseen unseen;
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>([this] { live(); }));
  }
  release(&start_order_);
  const unsigned blocks = shape.grid.x * shape.grid.y * shape.grid.z;
  // From a block drawn by the seed on, forwards or backwards: a kernel must not rely on any order.
  const unsigned first = random_.below(blocks);
  const bool backwards = random_.below(2) == 1;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned b = (first + (backwards ? blocks - i : i)) % blocks;
    run_block(shape, {b % shape.grid.x, b / shape.grid.x % shape.grid.y, b / shape.grid.x / shape.grid.y},
              fibers_[i % 2]);
  }
  acquire(&end_order_);
}

void Grid::run_block(const LaunchShape& shape, uint3 block, std::vector<std::unique_ptr<Fiber>>& fibers) {
  const unsigned count = shape.block.x * shape.block.y * shape.block.z;
  {
    const Unseen unseen;
    threads_.assign(count, Thread());
    warps_.assign((count + kWarp - 1) / kWarp, Warp());
    ready_.clear();
    returned_ = at_barrier_ = 0;
    if (shape.dynamic_shared_bytes > 0) dynamic_shared_ = allocate_shared(shape.dynamic_shared_bytes);
    for (unsigned i = 0; i < count; ++i) {
      Thread& t = threads_[i];
      t.index = i;
      t.context = fibers[i].get();
      t.place = {{i % shape.block.x, i / shape.block.x % shape.block.y, i / shape.block.x / shape.block.y},
                 block,
                 shape.block,
                 shape.grid,
                 i % kWarp};
      warps_[i / kWarp].lanes |= 1u << t.place.lane;
      ready_.push_back(&t);
    }
  }
  const unsigned next = random_.below(count);
  running_ = std::exchange(ready_[next], ready_.back());
  ready_.pop_back();
  place = &running_->place;
  switch_context(scheduler_, *running_->context);

  const Unseen unseen;
  for (const SharedVariable& variable : shared_) std::free(variable.memory);
  shared_.clear();
  std::free(std::exchange(dynamic_shared_, nullptr));
}

void Grid::live() {
  for (;;) {
    acquire(&start_order_);
    (*kernel_)();
    release(&end_order_);
    leave();
  }
}

void Grid::leave() {
  Thread& t = *running_;
  t.state = ThreadState::Returned;
  ++returned_;
  if (t.first_copy < t.copies.size()) defect(t, "it returned while copies to shared memory were under way");
  if (at_barrier_ > 0) {
    defect(t, "divergent barrier: it returned, but " + text(*first_at_barrier_) + " waits for it at __syncthreads of " +
                  text(first_at_barrier_->where));
  }
  Warp& warp = warps_[t.index / kWarp];
  warp.lanes &= ~(1u << t.place.lane);
  for_each_bit(warp.in_use, [&](unsigned i) {
    const Meeting& m = warp.meetings[i];
    if (m.mask >> t.place.lane & 1u && m.arrived != m.mask) {
      defect(t,
             "bad mask: it returned, but other lanes wait for it, by mask " + text(m.mask) + ", at " + text(m.where));
    }
  });
  if (returned_ == threads_.size()) {
    switch_context(*t.context, scheduler_);
  } else {
    yield();
  }
}

// Goes on with a thread drawn from those that can; it may be the one that yields.
void Grid::yield() {
  if (ready_.empty()) report_standstill();
  Thread& from = *running_;
  const unsigned next = random_.below(static_cast<unsigned>(ready_.size()));
  running_ = std::exchange(ready_[next], ready_.back());
  ready_.pop_back();
  place = &running_->place;
  if (running_ != &from) switch_context(*from.context, *running_->context);
}

void Grid::make_ready(Thread& t) {
  t.state = ThreadState::Ready;
  ready_.push_back(&t);
}

void Grid::report_standstill() {
  for (const Thread& t : threads_) {
    if (t.state != ThreadState::InWarp) continue;
    const Warp& warp = warps_[t.index / kWarp];
    for_each_bit(warp.in_use, [&](unsigned i) {
      const Meeting& m = warp.meetings[i];
      if ((m.arrived >> t.place.lane & 1u) == 0 || m.arrived == m.mask) return;
      defect(t, "bad mask: it waits at " + text(m.where) + " for lanes " + text(m.mask & ~m.arrived) + " of mask " +
                    text(m.mask) + ", which wait elsewhere");
    });
  }
  defect(*first_at_barrier_,
         "divergent barrier: not all threads reach the __syncthreads of " + text(first_at_barrier_->where));
}

int Grid::barrier(Barrier kind, int predicate, const std::source_location& where) {
  Thread& t = *running_;
  t.where = where;
  if (returned_ > 0) {
    const Thread* gone = &threads_[0];
    while (gone->state != ThreadState::Returned) ++gone;
    defect(t,
           "divergent barrier: it waits at __syncthreads of " + text(where) + ", but " + text(*gone) + " has returned");
  }
  if (at_barrier_ == 0) {
    first_at_barrier_ = &t;
    barrier_kind_ = kind;
    counted_ = 0;
  } else if (!same_place(first_at_barrier_->where, where) || barrier_kind_ != kind) {
    defect(t, "divergent barrier: it waits at __syncthreads of " + text(where) + ", but " + text(*first_at_barrier_) +
                  " waits at that of " + text(first_at_barrier_->where));
  }
  const unsigned own = generation_ % 2;
  release(&barrier_order_[own]);
  counted_ += predicate != 0;
  t.state = ThreadState::AtBarrier;
  if (++at_barrier_ == threads_.size()) {
    barrier_result_[own] = kind == Barrier::Count ? static_cast<int>(counted_)
                           : kind == Barrier::And ? counted_ == threads_.size()
                                                  : counted_ > 0;
    at_barrier_ = 0;
    ++generation_;
    for (Thread& each : threads_) make_ready(each);
  }
  yield();
  acquire(&barrier_order_[own]);
  return barrier_result_[own];
}

std::uint64_t Grid::meet(WarpOperation operation, unsigned mask, std::uint64_t value, int source,
                         const std::source_location& where) {
  Thread& t = *running_;
  t.value = value;
  t.source = source;
  const unsigned own = 1u << t.place.lane;
  Warp& warp = warps_[t.index / kWarp];
  if ((mask & own) == 0)
    defect(t, "bad mask: mask " + text(mask) + " does not name the calling lane, at " + text(where));
  if ((mask & ~warp.lanes) != 0) report_absent(mask, where);
  Meeting& meeting = meeting_of(warp, operation, mask, where);
  if (operation == WarpOperation::Sync) release(&meeting.order);
  meeting.arrived |= own;
  t.state = ThreadState::InWarp;
  if (meeting.arrived == meeting.mask) complete(&t - t.place.lane, meeting);
  yield();
  if (operation == WarpOperation::Sync) acquire(&meeting.order);
  meeting.leaving &= ~own;
  if (meeting.leaving == 0) warp.in_use &= ~(std::uint64_t{1} << (&meeting - warp.meetings));
  return t.result;
}

// That of the lanes that are there already, or another.
Meeting& Grid::meeting_of(Warp& warp, WarpOperation operation, unsigned mask, const std::source_location& where) {
  Thread& t = *running_;
  for (std::uint64_t left = warp.in_use; left != 0; left &= left - 1) {
    Meeting& m = warp.meetings[std::countr_zero(left)];
    if (m.arrived == m.mask) continue;
    if (m.mask == mask && m.operation == operation && same_place(m.where, where)) return m;
    // A lane that already waits there for us would be waited for here.
    if ((m.arrived & mask) != 0 && (m.mask >> t.place.lane & 1u) != 0) {
      defect(t, "bad mask: it waits at " + text(where) + " with mask " + text(mask) + ", but lanes " +
                    text(m.arrived & mask) + " of it wait at " + text(m.where) + " with mask " + text(m.mask));
    }
  }
  const int unused = std::countr_one(warp.in_use);
  warp.in_use |= std::uint64_t{1} << unused;
  Meeting& meeting = warp.meetings[unused];
  meeting.operation = operation;
  meeting.mask = mask;
  meeting.arrived = 0;
  meeting.where = where;
  return meeting;
}

// The first lane of the mask that is not there to meet.
void Grid::report_absent(unsigned mask, const std::source_location& where) {
  const Thread& t = *running_;
  const int lane = std::countr_zero(mask & ~warps_[t.index / kWarp].lanes);
  const bool was_there = t.index - t.place.lane + static_cast<unsigned>(lane) < threads_.size();
  defect(t, "bad mask: mask " + text(mask) + " names lane " + std::to_string(lane) +
                (was_there ? ", which has returned, at " : ", which the block does not have, at ") + text(where));
}

void Grid::complete(Thread* lanes, Meeting& m) {
  std::uint64_t ballot = 0;
  if (m.operation == WarpOperation::Ballot)
    for_each_bit(m.mask, [&](unsigned lane) { ballot |= std::uint64_t{lanes[lane].value != 0} << lane; });
  for_each_bit(m.mask, [&](unsigned lane) {
    Thread& t = lanes[lane];
    switch (m.operation) {
      case WarpOperation::Sync: break;
      case WarpOperation::Ballot: t.result = ballot; break;
      case WarpOperation::Shuffle: {
        const bool inside = t.source >= 0 && t.source < static_cast<int>(kWarp);
        if (inside && (m.mask >> t.source & 1u) == 0) {
          defect(t, "bad mask: it reads lane " + std::to_string(t.source) + ", which mask " + text(m.mask) +
                        " does not name, at " + text(m.where));
        }
        t.result = inside ? lanes[t.source].value : t.value;
        break;
      }
      case WarpOperation::Match:
        t.result = 0;
        for_each_bit(m.mask,
                     [&](unsigned other) { t.result |= std::uint64_t{lanes[other].value == t.value} << other; });
    }
    make_ready(t);
  });
  m.leaving = m.mask;
}

void* Grid::shared_variable(std::size_t bytes, const std::source_location& where) {
  for (const SharedVariable& variable : shared_) {
    if (variable.where.column() == where.column() && same_place(variable.where, where)) return variable.memory;
  }
  const Unseen unseen;
  shared_.push_back({where, allocate_shared(bytes)});
  return shared_.back().memory;
}

void Grid::fence() {
  acquire(&fence_order_);
  release(&fence_order_);
}

Grid& grid() {
  static Grid* const only = new Grid;  // never destroyed: streams may outlive main()
  return *only;
}

}  // namespace

void run_kernel(const LaunchShape& shape, const std::function<void()>& kernel) { grid().run(shape, kernel); }

int block_barrier(Barrier kind, int predicate, const std::source_location& where) {
  return grid().barrier(kind, predicate, where);
}

std::uint64_t warp_operation(WarpOperation operation, unsigned mask, std::uint64_t value, int source,
                             const std::source_location& where) {
  return grid().meet(operation, mask, value, source, where);
}

void* shared_variable(std::size_t bytes, const std::source_location& where) {
  return grid().shared_variable(bytes, where);
}

void* dynamic_shared_memory() { return grid().dynamic_shared(); }

void thread_fence() { grid().fence(); }

bool begin_async_copy(const AsyncCopy& copy) {
  if (grid().draw(2) == 0) return true;
  const Unseen unseen;
  Thread& t = grid().running();
  if (t.first_copy == t.copies.size()) {
    t.copies.clear();
    t.first_copy = 0;
  }
  t.copies.push_back(copy);
  t.copies.back().group = t.commits;
  return false;
}

void commit_async_copies() { ++grid().running().commits; }

bool take_async_copy(unsigned groups_left, AsyncCopy& copy) {
  Thread& t = grid().running();
  if (t.first_copy == t.copies.size() || t.copies[t.first_copy].group + groups_left >= t.commits) return false;
  copy = t.copies[t.first_copy++];
  return true;
}

}  // namespace cuemu
