#include "kernels/rope.h"

#include <cmath>

namespace tiercel::kernels {

void rope_angles(const double* frequencies, std::size_t pairs, std::size_t position, float* cos_sin) {
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    cos_sin[2 * i] = static_cast<float>(std::cos(angle));
    cos_sin[2 * i + 1] = static_cast<float>(std::sin(angle));
  }
}

void rope(float* heads, std::size_t head_count, std::size_t head_dim, const float* cos_sin, std::size_t pairs) {
  for (std::size_t h = 0; h < head_count; ++h, heads += head_dim) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
      const float a = heads[2 * i], b = heads[2 * i + 1];
      heads[2 * i] = a * c - b * s;
      heads[2 * i + 1] = a * s + b * c;
    }
  }
}

}  // namespace tiercel::kernels
