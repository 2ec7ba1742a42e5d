#include "kernels/int8_kernels.h"

#include <algorithm>
#include <cassert>

namespace tiercel::kernels {
std::span<const Int8Kernel* const> int8_kernels() {
  static constexpr const Int8Kernel* kAll[] = {&kAvx512Int8, &kAvx2Int8};
  return kAll;
}

const Int8Kernel* int8_kernel() {
  static const Int8Kernel* const kernel = [] {
    const auto found = std::ranges::find_if(int8_kernels(), [](const Int8Kernel* one) { return one->is_supported(); });
    return found == int8_kernels().end() ? nullptr : *found;
  }();
  return kernel;
}

bool prefers_paired_products() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool prefers = kAvx512Int8.is_supported() && !__builtin_cpu_is("intel");
  return prefers;
#else
  return false;
#endif
}

bool has_int8_products() { return int8_kernel() != nullptr; }

void quantise_rows(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                   std::size_t last_panel, std::int8_t* values, float* scales, float* sums, std::int32_t* offsets,
                   std::int32_t* paired_offsets) {
  assert(has_int8_products());
  int8_kernel()->quantise(x, rows, columns, first_panel, last_panel, values, scales, sums, offsets, paired_offsets);
}

void group_linear_int8(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output) {
  assert(has_int8_products());
  int8_kernel()->multiply(w, x, rows, y, y_stride, first_output, last_output);
}

}  // namespace tiercel::kernels
