#include "kernels/rms_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void RmsNorm(float* HWY_RESTRICT x, const float* HWY_RESTRICT residual, const float* HWY_RESTRICT weight, float epsilon,
             std::size_t rows, std::size_t width, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t whole = width / lanes * lanes;
  for (std::size_t r = 0; r < rows; ++r, x += width, out += width) {
    auto squares = hn::Zero(d), more = squares;  // two sums, that wait less for each other
    float tail = 0;
    const auto take = [&](std::size_t i, auto& sum) HWY_ATTR {
      auto v = hn::LoadU(d, x + i);
      if (residual) hn::StoreU(v = hn::Add(v, hn::LoadU(d, residual + i)), d, x + i);
      sum = hn::MulAdd(v, v, sum);
    };
    std::size_t first = 0;
    for (; first + 2 * lanes <= whole; first += 2 * lanes) {
      take(first, squares);
      take(first + lanes, more);
    }
    if (first < whole) take(first, squares);
    squares = hn::Add(squares, more);
    for (std::size_t i = whole; i < width; ++i) {
      if (residual) x[i] += residual[i];
      tail += x[i] * x[i];
    }
    if (residual) residual += width;
    const float mean = (hn::GetLane(hn::SumOfLanes(d, squares)) + tail) / static_cast<float>(width);
    const float scale = 1.0f / std::sqrt(mean + epsilon);
    const auto scales = hn::Set(d, scale);
    for (std::size_t i = 0; i < whole; i += lanes) {
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scales), hn::LoadU(d, weight + i)), d, out + i);
    }
    for (std::size_t i = whole; i < width; ++i) out[i] = x[i] * scale * weight[i];
  }
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {
HWY_EXPORT(RmsNorm);
void rms_norm(float* x, const float* residual, const float* weight, float epsilon, std::size_t rows, std::size_t width,
              float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, residual, weight, epsilon, rows, width, out);
}
}  // namespace tiercel::kernels
#endif
