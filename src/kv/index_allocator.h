// Memory for the flat arrays that are indexed by block: aligned to cache lines, and in huge pages where they are large.
//
// A lookup in an index of millions of blocks reads at random places of hundreds of MiB. In pages of 4 KiB each of those
// reads also misses the processor's address cache, which takes as long again.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

namespace tiercel {

template <class T>
struct IndexAllocator {
  using value_type = T;
  static constexpr std::size_t kCacheLine = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  IndexAllocator() = default;
  template <class Other>
  IndexAllocator(const IndexAllocator<Other>&) {}  // NOLINT(google-explicit-constructor): as the standard asks

  T* allocate(std::size_t count) {
    if (count > (SIZE_MAX - kHugePage) / sizeof(T)) throw std::bad_alloc();
    const std::size_t bytes = count * sizeof(T);
    const std::size_t alignment = alignment_of(count);
    if (alignment == kCacheLine) return static_cast<T*>(::operator new(bytes, std::align_val_t(alignment)));
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw std::bad_alloc();
    static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));  // a wish; without it things are slower only
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) noexcept {
    if (alignment_of(count) == kCacheLine) return ::operator delete(memory, std::align_val_t(kCacheLine));
    std::free(memory);
  }
  friend bool operator==(const IndexAllocator&, const IndexAllocator&) { return true; }

 private:
  static std::size_t alignment_of(std::size_t count) {
    return count * sizeof(T) < 2 * kHugePage ? kCacheLine : kHugePage;
  }
};

// One element per block.
template <class T>
using BlockArray = std::vector<T, IndexAllocator<T>>;

}  // namespace tiercel
