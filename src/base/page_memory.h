// Memory straight from the system, in large pages where it has them: fewer faults when it is first written, fewer
// translations when it is read, and reading ahead that does not end every 4 KiB.
//
// Costs nothing until it is written. Owns the mapping; move-only.
#pragma once

#include <cstddef>

#include "tiercel/status.h"

namespace tiercel {

class PageMemory {
 public:
  PageMemory() = default;  // none
  // At least 1 byte, zero, at a multiple of 4096. Unavailable where the system gives no address space.
  static Result<PageMemory> reserve(std::size_t bytes);

  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;
  ~PageMemory();

  // Has the system back these bytes now, at whole pages, as a first write would; what is in them stays, and others may
  // write them meanwhile. False: the system cannot, or has no memory.
  bool populate(std::size_t offset, std::size_t bytes) const;

  std::byte* start() const { return start_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* start_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tiercel
