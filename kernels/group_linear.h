// y = x W^T for weights in groups (group_weights.h), for any number of rows of x: one row costs the reading of the
// weights, many cost their arithmetic. CPU.
//
// The bits of a result depend on its own row of x and on W alone: not on how many rows there are, nor on how outputs
// are split among calls. So a token's arithmetic is the same in every batch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/group_weights.h"

namespace tiercel::kernels {

// y[r * y_stride + o] = sum over c of x[r * x_stride + c] * W[o][c], for r < rows and first_output <= o < last_output.
// first_output is a multiple of 16, and so is last_output unless it is w.outputs. Float32 throughout. Highway.
void group_linear(const GroupWeights& w, const float* x, std::size_t x_stride, std::size_t rows, float* y,
                  std::size_t y_stride, std::size_t first_output, std::size_t last_output);

// Those below take rows of x rounded, in panels of up to 12 rows that pass the weights together. A panel is
// [group][row][32 columns], so that a step of the kernel finds what it needs side by side; numbers that belong to a
// group are [group][row]. Panels lie one after another, densely. Rows are taken from the beginning of any block on.
inline constexpr std::size_t kPanelRows = 12;
inline constexpr std::size_t kPanelsInBlock = 8;
inline constexpr std::size_t kBlockRows = kPanelRows * kPanelsInBlock;
inline std::size_t panels_of(std::size_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }
// The first row of a panel. Those of the last block, if it is not whole, are as equal as can be.
inline std::size_t panel_begin(std::size_t rows, std::size_t panel) {
  const std::size_t blocks = std::min(panel / kPanelsInBlock, rows / kBlockRows), rest = rows - blocks * kBlockRows;
  if (rest >= kBlockRows) return panel * kPanelRows;
  return blocks * kBlockRows + (panel - blocks * kPanelsInBlock) * rest / std::max<std::size_t>(1, panels_of(rest));
}

// Rows rounded to bf16, with the sum of every group's columns (of the rounded values), which a group's minimum is
// multiplied with.
struct Bf16Rows {
  const std::uint16_t* values = nullptr;
  const float* sums = nullptr;

  // From the first row of a panel on.
  Bf16Rows from(std::size_t row, std::size_t columns) const {
    return {values + row * columns, sums + row * (columns / kGroupColumns)};
  }
};

// Whether this processor multiplies bf16 (AVX512-BF16). Without it the three below must not be called.
bool has_bf16_products();
// Rounds the panels first_panel .. last_panel - 1 of `rows` rows of x, which are dense; columns is a multiple of 32.
void round_rows(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel, std::size_t last_panel,
                std::uint16_t* values, float* sums);
// As above, with weights exact (a nibble or a byte is one in bf16 too; scales and sums are float32).
void group_linear_bf16(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output);

// As above, with weights rounded to bf16 too: an error as small as that of x, and a third faster for many rows. Other
// bits, the same in every batch.
void group_linear_decoded(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                          std::size_t first_output, std::size_t last_output);
// From so many rows on it is the faster of the two: weights are decoded once for all of them.
inline constexpr std::size_t kDecodedRows = 36;

// Rows as integers of 16 bits, each group of 32 columns with a scale of its own, and its sum (of the rounded values).
struct Int16Rows {
  const std::int16_t* values = nullptr;
  const float* scales = nullptr;
  const float* sums = nullptr;

  // From the first row of a panel on.
  Int16Rows from(std::size_t row, std::size_t columns) const {
    const std::size_t groups = row * (columns / kGroupColumns);
    return {values + row * columns, scales + groups, sums + groups};
  }
};

// Whether this processor multiplies these (AVX512-VNNI). Without it the two below must not be called.
bool has_int16_products();
// Whether it does so faster than bf16: Intel's begin one VDPBF16PS in two cycles, and four VPDPWSSD, which multiply as
// many pairs each.
bool prefers_int16_products();
void round_rows_int16(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                      std::size_t last_panel, std::int16_t* values, float* scales, float* sums);
// As group_linear(), with weights exact.
void group_linear_int16(const GroupWeights& w, const Int16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                        std::size_t first_output, std::size_t last_output);

// Rows as integers of 14 bits, each span of four groups of columns (or what is left of them) with a scale of its own.
inline constexpr std::size_t kSpanGroups = 4;
inline std::size_t spans_of(std::size_t columns) { return (columns / kGroupColumns + kSpanGroups - 1) / kSpanGroups; }
struct Int16Spans {
  const std::int16_t* values = nullptr;
  const float* scales = nullptr;  // [span][row]

  // From the first row of a panel on.
  Int16Spans from(std::size_t row, std::size_t columns) const {
    return {values + row * columns, scales + row * spans_of(columns)};
  }
};

// Where has_int16_products().
void round_spans_int16(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                       std::size_t last_panel, std::int16_t* values, float* scales);
// As group_linear(), with weights as integers too, the largest of an output's span being kLargestDecodedWeight: what is
// rounded away is about as much as in bf16, and many rows are multiplied in five sixths of the time.
inline constexpr std::int32_t kLargestDecodedWeight = 2044;
void group_linear_decoded_int16(const GroupWeights& w, const Int16Spans& x, std::size_t rows, float* y,
                                std::size_t y_stride, std::size_t first_output, std::size_t last_output);
// From so many rows on it is faster than with weights as they are.
inline constexpr std::size_t kDecodedInt16Rows = 28;

// Rows as bytes, each group of 32 columns with a scale of its own, in the order in which weights have their columns
// (kColumnOrder), and its sum (of the rounded values). A group's largest value is 127: what is rounded away is at most
// a 254th of it, as in llama.cpp's Q8_1. In paired rows it is kPairedLargest, and a 240th.
inline constexpr std::int32_t kPairedLargest = 120;
struct Int8Rows {
  const std::int8_t* values = nullptr;
  const float* scales = nullptr;
  const float* sums = nullptr;
  const std::int32_t* offsets = nullptr;  // -128 times a group's sum of bytes
  // Not null: rows quantised for many of them, up to kPairedLargest instead of 127. Then 4-bit weights are multiplied
  // with half as many multiplications where that is faster (paired_linear_avx512.cc): the offsets are for that.
  const std::int32_t* paired_offsets = nullptr;

  // From the first row of a panel on.
  Int8Rows from(std::size_t row, std::size_t columns) const {
    const std::size_t groups = row * (columns / kGroupColumns);
    return {values + row * columns, scales + groups, sums + groups, offsets + groups,
            paired_offsets ? paired_offsets + groups : nullptr};
  }
};

// Whether paired rows are the faster ones for many rows: where additions have units of their own beside those that
// multiply, which they have not on Intel's processors.
bool prefers_paired_products();
// Whether this processor multiplies bytes (AVX512-VNNI, or AVX2). Without it the two below must not be called.
bool has_int8_products();
// `paired_offsets`: null, or the rows become paired ones. (Only kernels that use the offsets set them.)
void quantise_rows(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel,
                   std::size_t last_panel, std::int8_t* values, float* scales, float* sums, std::int32_t* offsets,
                   std::int32_t* paired_offsets = nullptr);
// As group_linear(), with weights exact.
void group_linear_int8(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output);

}  // namespace tiercel::kernels
