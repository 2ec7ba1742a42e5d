#include "kernels/quant_linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant_linear.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::Rebind<std::int32_t, DF>;
using DU = hn::Rebind<std::uint32_t, DF>;
using DU8 = hn::Rebind<std::uint8_t, DF>;
using DI8 = hn::Rebind<std::int8_t, DF>;
using VF = hn::Vec<DF>;

constexpr std::size_t kGroup = 32;  // weights that share a scale, in all three formats
constexpr std::size_t kLanes = hn::MaxLanes(DF());
constexpr std::size_t kVectors = kGroup / kLanes;

// Nearest value with the 8 significant bits of bf16 (Veltkamp's splitting: three float operations).
HWY_INLINE VF RoundToBf16(VF v) {
  const VF scaled = hn::Mul(v, hn::Set(DF(), 65537.0f));
  return hn::Sub(scaled, hn::Sub(scaled, v));
}

// A half in a block's head: its scale, or its minimum where the format has one.
HWY_INLINE VF LoadHalf(const std::uint8_t* half) {
  const hn::CappedTag<float, 1> d1;
  const auto value =
      hn::LoadU(hn::Rebind<hwy::float16_t, decltype(d1)>(), reinterpret_cast<const hwy::float16_t*>(half));
  return hn::Set(DF(), hn::GetLane(hn::PromoteTo(d1, value)));
}

// A format decodes one block of 32 weights into kVectors vectors, in order.
struct Q4_1 {
  static constexpr std::size_t kBytes = 20;
  static HWY_INLINE void Decode(const std::uint8_t* block, VF (&w)[kVectors]) {
    const VF scale = LoadHalf(block), minimum = LoadHalf(block + 2);
    for (std::size_t i = 0; i < kVectors / 2; ++i) {
      const auto nibbles = hn::PromoteTo(DI(), hn::LoadU(DU8(), block + 4 + i * kLanes));
      w[i] = hn::MulAdd(hn::ConvertTo(DF(), hn::And(nibbles, hn::Set(DI(), 15))), scale, minimum);
      w[i + kVectors / 2] = hn::MulAdd(hn::ConvertTo(DF(), hn::ShiftRight<4>(nibbles)), scale, minimum);
    }
  }
};

struct Q4_0 {
  static constexpr std::size_t kBytes = 18;
  static HWY_INLINE void Decode(const std::uint8_t* block, VF (&w)[kVectors]) {
    const VF scale = LoadHalf(block);
    const auto eight = hn::Set(DI(), 8);
    for (std::size_t i = 0; i < kVectors / 2; ++i) {
      const auto nibbles = hn::PromoteTo(DI(), hn::LoadU(DU8(), block + 2 + i * kLanes));
      w[i] = hn::Mul(hn::ConvertTo(DF(), hn::Sub(hn::And(nibbles, hn::Set(DI(), 15)), eight)), scale);
      w[i + kVectors / 2] = hn::Mul(hn::ConvertTo(DF(), hn::Sub(hn::ShiftRight<4>(nibbles), eight)), scale);
    }
  }
};

struct Q8_0 {
  static constexpr std::size_t kBytes = 34;
  static HWY_INLINE void Decode(const std::uint8_t* block, VF (&w)[kVectors]) {
    const VF scale = LoadHalf(block);
    for (std::size_t i = 0; i < kVectors; ++i) {
      const auto values = hn::LoadU(DI8(), reinterpret_cast<const std::int8_t*>(block) + 2 + i * kLanes);
      w[i] = hn::Mul(hn::ConvertTo(DF(), hn::PromoteTo(DI(), values)), scale);
    }
  }
};

template <class Format, bool kRound>
HWY_INLINE void DecodeRounded(const std::uint8_t* block, VF (&w)[kVectors]) {
  Format::Decode(block, w);
  if constexpr (kRound) {
    for (auto& v : w) v = RoundToBf16(v);
  }
}

// kRows x kOutputs results. Each has one accumulator that takes the columns in order, whatever the tile's shape.
template <class Format, bool kRound, int kRows, int kOutputs>
HWY_INLINE void Tile(const std::uint8_t* w, std::size_t row_bytes, std::size_t columns, const float* x,
                     std::size_t x_stride, float* y, std::size_t y_stride) {
  VF sums[kOutputs][kRows];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(DF());
  }
  for (std::size_t c = 0, offset = 0; c < columns; c += kGroup, offset += Format::kBytes) {
    for (int o = 0; o < kOutputs; ++o) {
      VF weights[kVectors];
      DecodeRounded<Format, kRound>(w + o * row_bytes + offset, weights);
      for (int r = 0; r < kRows; ++r) {
        for (std::size_t i = 0; i < kVectors; ++i) {
          sums[o][r] = hn::MulAdd(weights[i], hn::LoadU(DF(), x + r * x_stride + c + i * kLanes), sums[o][r]);
        }
      }
    }
  }
  for (int o = 0; o < kOutputs; ++o) {
    for (int r = 0; r < kRows; ++r) {
      VF sum = hn::SumOfLanes(DF(), sums[o][r]);
      if constexpr (kRound) sum = RoundToBf16(sum);
      y[r * y_stride + o] = hn::GetLane(sum);
    }
  }
}

template <class Format, bool kRound, int kRows>
void RowTile(const std::uint8_t* w, std::size_t columns, const float* x, std::size_t x_stride, float* y,
             std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  const std::size_t row_bytes = columns / kGroup * Format::kBytes;
  // Enough independent sums to hide the latency of a multiply-add, as the registers allow: 32 of 16 lanes, else 16.
  constexpr int kOutputs = kLanes == 16 ? (kRows <= 4 ? 4 : 16 / kRows) : (kRows <= 2 ? 4 / kRows : 1);
  std::size_t o = first_output;
  for (; o + kOutputs <= last_output; o += kOutputs) {
    Tile<Format, kRound, kRows, kOutputs>(w + o * row_bytes, row_bytes, columns, x, x_stride, y + o, y_stride);
  }
  for (; o < last_output; ++o) {
    Tile<Format, kRound, kRows, 1>(w + o * row_bytes, row_bytes, columns, x, x_stride, y + o, y_stride);
  }
}

template <class Format, bool kRound>
void AllRows(const QuantMatrix& m, const float* x, std::size_t x_stride, std::size_t rows, float* y,
             std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  const auto* w = reinterpret_cast<const std::uint8_t*>(m.data);
  std::size_t r = 0;
  const auto run = [&]<int kRows>() {
    for (; r + kRows <= rows; r += kRows) {
      RowTile<Format, kRound, kRows>(w, m.columns, x + r * x_stride, x_stride, y + r * y_stride, y_stride, first_output,
                                     last_output);
    }
  };
  if constexpr (kLanes == 16) run.template operator()<16>();  // 32 registers
  run.template operator()<8>();
  run.template operator()<4>();
  run.template operator()<2>();
  run.template operator()<1>();
}

template <class Function>
void WithFormat(TensorType type, Rounding rounding, Function f) {
  const bool round = rounding == Rounding::Bf16;
  switch (type) {
    case TensorType::Q4_0: return round ? f.template operator()<Q4_0, true>() : f.template operator()<Q4_0, false>();
    case TensorType::Q4_1: return round ? f.template operator()<Q4_1, true>() : f.template operator()<Q4_1, false>();
    case TensorType::Q8_0: return round ? f.template operator()<Q8_0, true>() : f.template operator()<Q8_0, false>();
    default: HWY_ABORT("quant_linear: unsupported weight type");
  }
}

void QuantLinear(const QuantMatrix& m, Rounding rounding, const float* x, std::size_t x_stride, std::size_t rows,
                 float* y, std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  WithFormat(m.type, rounding, [&]<class Format, bool kRound>() {
    AllRows<Format, kRound>(m, x, x_stride, rows, y, y_stride, first_output, last_output);
  });
}

void DequantizeRow(const QuantMatrix& m, Rounding rounding, std::size_t output, float* out) {
  WithFormat(m.type, rounding, [&]<class Format, bool kRound>() {
    const auto* block = reinterpret_cast<const std::uint8_t*>(m.data) + output * (m.columns / kGroup * Format::kBytes);
    for (std::size_t c = 0; c < m.columns; c += kGroup, block += Format::kBytes) {
      VF weights[kVectors];
      DecodeRounded<Format, kRound>(block, weights);
      for (std::size_t i = 0; i < kVectors; ++i) hn::StoreU(weights[i], DF(), out + c + i * kLanes);
    }
  });
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {

HWY_EXPORT(QuantLinear);
HWY_EXPORT(DequantizeRow);

bool is_quant_linear_type(TensorType type) {
  return type == TensorType::Q4_0 || type == TensorType::Q4_1 || type == TensorType::Q8_0;
}

void quant_linear(const QuantMatrix& weights, Rounding rounding, const float* x, std::size_t x_stride, std::size_t rows,
                  float* y, std::size_t y_stride, std::size_t first_output, std::size_t last_output) {
  HWY_DYNAMIC_DISPATCH(QuantLinear)(weights, rounding, x, x_stride, rows, y, y_stride, first_output, last_output);
}

void dequantize_row(const QuantMatrix& weights, Rounding rounding, std::size_t output, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeRow)(weights, rounding, output, out);
}

}  // namespace tiercel::kernels
#endif
