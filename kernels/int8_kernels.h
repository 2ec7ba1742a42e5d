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

// What kAvx512Int8 multiplies paired rows and 4-bit weights with from so many rows on, to the same bits
// (paired_linear_avx512.cc).
inline constexpr std::size_t kPairedRows = 96;
void multiply_paired_avx512(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                            std::size_t first_output, std::size_t last_output);
// VPDPBUSD wants one factor unsigned, one signed: of x in -120 .. 120 and w in 0 .. 15, x + w + 120 and x + w - 8 are.
inline constexpr std::int8_t kPairedUnsigned = 120, kPairedSigned = -8;
static_assert(kPairedLargest + 15 + kPairedSigned <= 127 && -kPairedLargest + kPairedUnsigned >= 0);

extern const Int8Kernel kAvx512Int8;  // group_linear_avx512.cc
extern const Int8Kernel kAvx2Int8;    // group_linear_avx2.cc
// All, the fastest first.
std::span<const Int8Kernel* const> int8_kernels();
// The fastest that this processor supports; null: there is none.
const Int8Kernel* int8_kernel();

}  // namespace tiercel::kernels
