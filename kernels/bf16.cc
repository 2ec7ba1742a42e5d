#include "kernels/bf16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bf16.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {

// Plain loops: the compiler vectorises them for each target, remainders included.
void FloatToBf16(const float* HWY_RESTRICT in, std::uint16_t* HWY_RESTRICT out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, in + i, 4);
    out[i] = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

void Bf16ToFloat(const std::uint16_t* HWY_RESTRICT in, float* HWY_RESTRICT out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t bits = std::uint32_t{in[i]} << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
}

const char* SimdName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {

HWY_EXPORT(FloatToBf16);
HWY_EXPORT(Bf16ToFloat);
HWY_EXPORT(SimdName);

void float_to_bf16(const float* in, std::uint16_t* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(FloatToBf16)(in, out, count);
}
void bf16_to_float(const std::uint16_t* in, float* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(Bf16ToFloat)(in, out, count);
}
const char* simd_name() { return HWY_DYNAMIC_DISPATCH(SimdName)(); }

}  // namespace tiercel::kernels
#endif
