// A sliding window over figures that only grow. Time is cut into slots; the window is the last kWindowSlots of them,
// the one that goes on included. What came within it is a difference between now and the state at its first slot's
// beginning, which was marked then: adding a sample costs nothing more.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tiercel {

inline constexpr std::size_t kWindowSlots = 6;

// The first slot of the window that ends with `slot`.
constexpr std::uint64_t first_slot_of_window(std::uint64_t slot) {
  return slot - (slot < kWindowSlots ? slot : kWindowSlots - 1);
}

// The states of something that one thread at a time writes, as they were when slots began. State: atomics, stored with
// release and loaded with acquire (a seqlock without fences: Boehm, "Can seqlocks get along with programming language
// memory models?", 2012). A slot in which nothing happens is not marked.
template <class State>
class WindowMarks {
 public:
  // Before what happens in `slot`: calls fill(state) where it is the first. Slots never go back.
  template <class Fill>
  void begin(std::uint64_t slot, const Fill& fill) {
    if (slot == current_) return;
    current_ = slot;
    std::atomic<std::uint64_t>& of_mark = slots_[slot % kMarks];
    of_mark.store(kNone, std::memory_order_relaxed);
    fill(marks_[slot % kMarks]);
    of_mark.store(slot, std::memory_order_release);
  }
  // The state of the slot that goes on. There must be one.
  State& current() { return marks_[current_ % kMarks]; }

  // Any thread: read(the state before all that happened from slot `first` on), or read(null) where nothing did.
  template <class Read>
  auto read_since(std::uint64_t first, const Read& read) const {
    const WindowMarks* const self = this;
    return read_all_since({&self, 1}, first,
                          [&](std::span<const State* const> states) { return read(states.front()); });
  }
  // The same of several together: read(a state of each, or null).
  template <class Read>
  static auto read_all_since(std::span<const WindowMarks* const> all, std::uint64_t first, const Read& read) {
    std::vector<std::uint64_t> slots(all.size());
    std::vector<const State*> states(all.size());
    for (;;) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        slots[i] = all[i]->earliest_since(first);
        states[i] = slots[i] == kNone ? nullptr : &all[i]->marks_[slots[i] % kMarks];
      }
      auto result = read(std::span<const State* const>(states));
      // Only a slot's beginning, a window later, overwrites a mark.
      const auto is_still_there = [&](std::size_t i) {
        return slots[i] == kNone || all[i]->slots_[slots[i] % kMarks].load(std::memory_order_relaxed) == slots[i];
      };
      std::size_t whole = 0;
      while (whole < all.size() && is_still_there(whole)) ++whole;
      if (whole == all.size()) return result;
    }
  }
  // Any thread: the states of all slots from `first` on.
  template <class Visit>
  void visit_since(std::uint64_t first, const Visit& visit) const {
    for (std::size_t i = 0; i < kMarks; ++i) {
      const std::uint64_t slot = slots_[i].load(std::memory_order_acquire);
      if (slot >= first && slot != kNone) visit(marks_[i]);
    }
  }

 private:
  static constexpr std::uint64_t kNone = UINT64_MAX;
  static constexpr std::size_t kMarks = kWindowSlots + 1;

  std::uint64_t earliest_since(std::uint64_t first) const {
    std::uint64_t earliest = kNone;
    for (const auto& slot : slots_) {
      const std::uint64_t marked = slot.load(std::memory_order_acquire);
      if (marked >= first && marked < earliest) earliest = marked;
    }
    return earliest;
  }

  struct Slot : std::atomic<std::uint64_t> {
    Slot() : atomic(kNone) {}
  };

  std::array<Slot, kMarks> slots_;  // of each mark; kNone: of none yet, or it is being written
  std::array<State, kMarks> marks_{};
  std::uint64_t current_ = kNone;  // the writer's
};

// A counter of events that any thread adds to.
class SharedCounter {
 public:
  void add(std::uint64_t slot) {
    total_.fetch_add(1, std::memory_order_acq_rel);
    std::atomic<std::uint64_t>& word = slots_[slot % slots_.size()];
    std::uint64_t seen = word.load(std::memory_order_relaxed), next;
    do {
      next = seen >> kCountBits == (slot & kSlotMask) ? seen + 1 : slot << kCountBits | 1;
    } while (!word.compare_exchange_weak(seen, next, std::memory_order_release, std::memory_order_relaxed));
  }

  std::uint64_t total() const { return total_.load(std::memory_order_acquire); }
  std::uint64_t between(std::uint64_t first_slot, std::uint64_t last_slot) const {
    std::uint64_t sum = 0;
    for (std::uint64_t slot = first_slot; slot <= last_slot; ++slot) {
      const std::uint64_t word = slots_[slot % slots_.size()].load(std::memory_order_acquire);
      if (word >> kCountBits == (slot & kSlotMask)) sum += word & ((std::uint64_t{1} << kCountBits) - 1);
    }
    return sum;
  }

 private:
  // A slot's number, cut, and what was counted in it, in one word: no thread ever sees the one without the other.
  static constexpr unsigned kCountBits = 40;
  static constexpr std::uint64_t kSlotMask = (std::uint64_t{1} << (64 - kCountBits)) - 1;

  std::atomic<std::uint64_t> total_ = 0;
  std::array<std::atomic<std::uint64_t>, kWindowSlots + 1> slots_{};
};

}  // namespace tiercel
