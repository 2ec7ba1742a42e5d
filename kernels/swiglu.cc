#include "kernels/swiglu.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^-x, within 1e-6 of it where it is not far above or below 1: the whole part of the power of two goes into the
// exponent, the rest through the minimax polynomial on [-1/2, 1/2], whose 7e-8 a float32 hardly tells. Half of the work
// of Highway's Exp, which is exact to the last bit.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfNegative(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto bounded = hn::Max(hn::Min(hn::Mul(x, hn::Set(d, -1.44269504f)), hn::Set(d, 126.0f)), hn::Set(d, -126.0f));
  const auto whole = hn::Round(bounded), part = hn::Sub(bounded, whole);
  auto power = hn::Set(d, 0.0013276472f);
  power = hn::MulAdd(power, part, hn::Set(d, 0.0096755410f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.055507131f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.24022120f));
  power = hn::MulAdd(power, part, hn::Set(d, 0.69314694f));
  power = hn::MulAdd(power, part, hn::Set(d, 1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, power), hn::ShiftLeft<23>(hn::ConvertTo(di, whole))));
}

void Swiglu(const float* HWY_RESTRICT gate_up, std::size_t rows, std::size_t width, float* HWY_RESTRICT out,
            std::size_t out_stride) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  const auto one = hn::Set(d, 1.0f);
  const auto activate = [&](auto gate, auto up)
                            HWY_ATTR { return hn::Mul(hn::Div(gate, hn::Add(one, ExpOfNegative(d, gate))), up); };
  HWY_ALIGN float tail[3 * hn::MaxLanes(hn::ScalableTag<float>())];
  for (std::size_t r = 0; r < rows; ++r, gate_up += 2 * width, out += out_stride) {
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      hn::StoreU(activate(hn::LoadU(d, gate_up + i), hn::LoadU(d, gate_up + width + i)), d, out + i);
    }
    if (i == width) continue;
    for (std::size_t j = 0; j < lanes; ++j) {
      tail[j] = i + j < width ? gate_up[i + j] : 0;
      tail[lanes + j] = i + j < width ? gate_up[width + i + j] : 0;
    }
    hn::StoreU(activate(hn::LoadU(d, tail), hn::LoadU(d, tail + lanes)), d, tail + 2 * lanes);
    for (std::size_t j = 0; i + j < width; ++j) out[i + j] = tail[2 * lanes + j];
  }
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {
HWY_EXPORT(Swiglu);
void swiglu(const float* gate_up, std::size_t rows, std::size_t width, float* out, std::size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(Swiglu)(gate_up, rows, width, out, out_stride);
}
}  // namespace tiercel::kernels
#endif
