// A linear layer y = x W^T that keeps its weights in the packings that pay on this machine.
//
// Two ways to compute it, which differ by rounding only.
//
// Groups: our kernels over quantised weights, packed as small as in the file (kernels/group_linear.h), for any number
// of rows; for many rows of bf16 they are decoded first.
//
// Product: LibTorch's matrix product over weights unpacked to bf16 or float32. It takes more memory, and is faster for
// many rows where the processor has matrix units (AMX). From how many rows on differs by machine, so it is measured
// when a model is loaded (`choose_product`), never assumed. Weights that are not quantised have the product only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "gguf/gguf_file.h"
#include "kernels/group_linear.h"
#include "kernels/product_peak.h"
#include "model/model_runner.h"

namespace tiercel {

// Element type that a product multiplies in; None: there is no product.
enum class Product : std::uint8_t { None, Bf16, F32 };

// Rows of the fixed-shape products of Arithmetic::Prefill: large enough for nearly all of the speed, small enough to
// pad.
inline constexpr std::size_t kPrefillRows = 64;

// What a layer's activations may be rounded to; where the processor has no products for it, to less, or not at all.
// CoarseInt8: for many rows bytes are up to kernels::kPairedLargest, where that is faster.
enum class Rounding : std::uint8_t { None, Bf16, Int8, CoarseInt8 };

// What they are multiplied as, over groups, on this processor.
kernels::Products group_products(Rounding rounding);

// How one kind of layer is computed: by the product from `from_rows` rows on, over groups below.
struct LinearPlan {
  Product product = Product::None;
  std::size_t from_rows = SIZE_MAX;
  // The product's bits for a row are the same at every number of rows up to kPrefillRows, and for a part of the outputs
  // (Linear::product_keeps_bits), so that threads may share the outputs of a few rows.
  bool keeps_bits = false;

  std::string describe(TensorType weights, kernels::Products products) const;
};

// Where rows of x are rounded for a layer; one at a time. Grows to the largest it is asked for.
class RoundedRows {
 public:
  kernels::Bf16Rows round(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns);
  kernels::Int16Rows round_int16(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns);
  kernels::Int16Spans round_spans(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns);
  // Paired: for the products of many rows (kernels/group_linear.h).
  kernels::Int8Rows quantise(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns, bool paired);

 private:
  std::vector<std::uint16_t> values_;
  std::vector<std::int16_t> words_;
  std::vector<std::int8_t> bytes_;
  std::vector<float> scales_, sums_;
  std::vector<std::int32_t> offsets_, paired_offsets_;
};

class Linear {
 public:
  Linear() = default;
  // The rows of `parts` one after another are the outputs; all have the same columns, a multiple of 32.
  Linear(std::span<const GgufTensor> parts, Rounding rounding);

  std::size_t outputs() const { return outputs_; }
  std::size_t columns() const { return columns_; }
  // Weights in a type that only a product can use (F32, F16, BF16).
  bool needs_product() const { return !has_groups_; }
  Rounding rounding() const { return rounding_; }
  TensorType weights_type() const { return parts_.front().type; }
  std::size_t packed_bytes() const;
  std::size_t bytes_for(Product product) const;

  // How so many rows are multiplied, and the bytes of weights that are read for them.
  struct Cost {
    kernels::Products products;
    double multiplications, bytes;
  };
  Cost cost(std::size_t rows) const;

  // Packs the groups into `memory`, of groups_bytes() from a multiple of 64 on, which outlives the layer. Call it once,
  // before anything is computed.
  std::size_t groups_bytes() const;
  void pack_groups(ThreadTeam& team, std::byte* memory);
  // Packs weights for plan.product where that is not done yet, drops them where it is None.
  void set_plan(const LinearPlan& plan, ThreadTeam& team);
  const LinearPlan& plan() const { return plan_; }

  // y[rows][outputs] = x[rows][columns] W^T, both dense. Any: the fastest way for so many rows. The other two give a
  // row the same bits in every batch, each fast for its purpose. Prefill: products of a fixed shape (where the plan has
  // no product, groups, decoded or paired as for many rows). Decode: groups (products where the type has none).
  // LibTorch must be set to one thread on each of the team's.
  void forward(Arithmetic arithmetic, ThreadTeam& team, const float* x, std::size_t rows, float* y,
               RoundedRows& rounded) const;
  // Of a layer whose two parts are a gate and what it lets through, each with half of the outputs:
  // y[rows][outputs / 2] = silu(gate) * other (kernels/swiglu.h). `workspace` has gated_floats() of the most
  // rows: over groups each thread takes some outputs of both at a time, which stay near.
  void forward_gated(Arithmetic arithmetic, ThreadTeam& team, const float* x, std::size_t rows, float* workspace,
                     float* y, RoundedRows& rounded) const;
  std::size_t gated_floats(std::size_t rows, std::size_t threads) const;

  // Whether products of fewer rows, and of a part of the outputs, have the same bits on this machine: tried out.
  bool product_keeps_bits(ThreadTeam& team) const;

  // The fastest over groups, and by the product.
  void forward_groups(ThreadTeam& team, const float* x, std::size_t rows, float* y, RoundedRows& rounded) const;
  void forward_product(ThreadTeam& team, const float* x, std::size_t rows, float* y) const;

 private:
  // Groups as they are, or decoded (bytes: as they are, with paired rows where these are faster); the product, of the
  // shape at hand or a fixed one.
  enum class Means : std::uint8_t { Groups, DecodedGroups, Product, FixedProduct };
  Means means_over_groups(std::size_t rows) const;  // the fastest
  Means means(Arithmetic arithmetic, std::size_t rows) const;

  // Rows as they are multiplied over groups.
  struct GroupInput {
    kernels::Products products;
    bool decoded;
    const float* x;
    kernels::Bf16Rows bf16;
    kernels::Int16Rows int16;
    kernels::Int16Spans spans;  // instead, if decoded
    kernels::Int8Rows int8;
  };
  std::size_t gated_outputs(std::size_t rows, std::size_t threads) const;
  GroupInput round(ThreadTeam& team, const float* x, std::size_t rows, RoundedRows& rounded, Means means) const;
  // Outputs begin .. end - 1 of a part, into these of y[row][y_stride].
  void multiply_part(const GroupInput& input, std::size_t part, std::size_t rows, std::size_t begin, std::size_t end,
                     float* y, std::size_t y_stride) const;
  void multiply_groups(ThreadTeam& team, const GroupInput& input, std::size_t rows, float* y) const;
  // Fixed-shape products.
  void multiply_fixed(ThreadTeam& team, const float* x, std::size_t rows, float* y) const;
  // The product of all rows, each thread for its part of the outputs.
  void share_outputs(ThreadTeam& team, const float* x, std::size_t rows, float* y) const;
  void pack(Product product, ThreadTeam& team);
  // One product of `rows` rows, of which `used` are there, by the outputs from first_output on; on the calling thread.
  void multiply(const float* x, std::size_t rows, std::size_t used, std::size_t first_output, std::size_t last_output,
                float* y) const;

  std::vector<GgufTensor> parts_;
  std::size_t outputs_ = 0;
  std::size_t columns_ = 0;
  bool has_groups_ = false;
  Rounding rounding_ = Rounding::Bf16;
  LinearPlan plan_;
  std::vector<const std::byte*> groups_;  // of each part
  at::Tensor packed_;                     // [outputs][columns], bf16 or float32
};

// The fastest plan for a layer like `sample` on this machine, by timing both ways at growing row counts up to
// `max_rows`. Packs into `sample`.
LinearPlan choose_product(Linear& sample, std::size_t max_rows, ThreadTeam& team);

}  // namespace tiercel
