#include "kernels/rope.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void Rope(float* HWY_RESTRICT heads, std::size_t head_count, std::size_t head_dim, const float* HWY_RESTRICT cos_sin,
          std::size_t pairs) {
  std::size_t rotated = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no neighbours to turn with
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  for (; rotated + lanes <= 2 * pairs; rotated += lanes) {
    const auto angles = hn::LoadU(d, cos_sin + rotated);
    const auto cosines = hn::DupEven(angles), sines = hn::DupOdd(angles);
    const auto signed_sines = hn::OddEven(sines, hn::Neg(sines));
    float* at = heads + rotated;
    for (std::size_t h = 0; h < head_count; ++h, at += head_dim) {
      const auto x = hn::LoadU(d, at);
      hn::StoreU(hn::MulAdd(hn::Reverse2(d, x), signed_sines, hn::Mul(x, cosines)), d, at);
    }
  }
#endif
  for (std::size_t i = rotated; i < 2 * pairs; i += 2) {
    float* at = heads + i;
    for (std::size_t h = 0; h < head_count; ++h, at += head_dim) {
      const float a = at[0], b = at[1], c = cos_sin[i], s = cos_sin[i + 1];
      at[0] = a * c - b * s;
      at[1] = a * s + b * c;
    }
  }
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {

void rope_angles(const double* frequencies, std::size_t pairs, std::size_t position, float* cos_sin) {
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    cos_sin[2 * i] = static_cast<float>(std::cos(angle));
    cos_sin[2 * i + 1] = static_cast<float>(std::sin(angle));
  }
}

HWY_EXPORT(Rope);
void rope(float* heads, std::size_t head_count, std::size_t head_dim, const float* cos_sin, std::size_t pairs) {
  HWY_DYNAMIC_DISPATCH(Rope)(heads, head_count, head_dim, cos_sin, pairs);
}

}  // namespace tiercel::kernels
#endif
