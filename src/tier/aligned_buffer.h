// Bytes that begin at a page, as reading past the page cache wants them. Grows, never shrinks, keeps no content.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

#include "tier/file_system.h"

namespace tiercel {

class AlignedBuffer {
 public:
  // At least `bytes`; what was in them is gone. May throw std::bad_alloc.
  std::span<std::byte> take(std::size_t bytes) {
    const std::size_t rounded = (bytes + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment;
    if (rounded > capacity_) {
      bytes_.reset();
      capacity_ = 0;
      bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, rounded)));
      if (!bytes_) throw std::bad_alloc();
      capacity_ = rounded;
    }
    return {bytes_.get(), bytes};
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  std::size_t capacity_ = 0;
};

}  // namespace tiercel
