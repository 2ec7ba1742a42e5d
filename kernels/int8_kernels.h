// The instruction sets for which the products of bytes of group_linear.h are written. All give the same bits: sums of a
// group are whole numbers, and what follows is the same arithmetic in the same order.
#pragma once

#include <span>

#include "kernels/group_linear.h"

namespace tiercel::kernels {

struct Int8Kernel {
  const char* name;
  bool (*is_supported)();  // by this processor; without it the two below must not be called
  decltype(&quantise_rows) quantise;
  decltype(&group_linear_int8) multiply;
};

extern const Int8Kernel kAvx512Int8;  // group_linear_avx512.cc
extern const Int8Kernel kAvx2Int8;    // group_linear_avx2.cc
// All, the fastest first.
std::span<const Int8Kernel* const> int8_kernels();
// The fastest that this processor supports; null: there is none.
const Int8Kernel* int8_kernel();

}  // namespace tiercel::kernels
