#include "model/linear.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <bit>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "gguf/dequantize.h"
#include "kernels/bf16.h"
#include "kernels/swiglu.h"

namespace tiercel {
namespace {

constexpr std::size_t kOutputGrain = kernels::kTileOutputs;  // outputs of a part over groups
constexpr std::size_t kProductGrain = 64;  // outputs of a product's part: whole tiles of the matrix units
// From so many rows for each thread on, threads share the rows of a product, below its outputs.
constexpr std::size_t kRowsPerThread = 64;
constexpr std::size_t kTileRows = 16;
// Up to so many panels are rounded faster than a thread is woken.
constexpr std::size_t kPanelsRoundedAlone = 1;

std::uint16_t* bf16_data(const at::Tensor& tensor) { return reinterpret_cast<std::uint16_t*>(tensor.data_ptr()); }

// Row `output` of a matrix as float32.
void unpack_row(const GgufTensor& matrix, std::size_t output, std::span<float> out) {
  dequantize(matrix.type, matrix.data.subspan(output * matrix.row_bytes(), matrix.row_bytes()), out);
}

// The library behind the product compiles, and keeps, code for every shape it meets: milliseconds and a hundred KiB
// each. So it meets few: rows are filled up, to what its tiles hold anyway.
std::size_t rounded_rows(std::size_t rows) {
  if (rows <= kTileRows) return std::bit_ceil(rows);
  const std::size_t unit = rows <= 8 * kTileRows ? kTileRows : 4 * kTileRows;
  return (rows + unit - 1) / unit * unit;
}

template <class Run>
double seconds_of(const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// How many times as long `a` takes as `b`, each by the fastest of some runs that take turns: what else the machine does
// slows both, or neither. The first run of each is not counted.
template <class RunA, class RunB>
double time_ratio(const RunA& a, const RunB& b) {
  constexpr double kEnough = 5e-3;
  constexpr int kLeastRuns = 3, kMostRuns = 8;
  a();
  b();
  double best_a = 1e9, best_b = 1e9, total = 0;
  for (int i = 0; i < kLeastRuns || (i < kMostRuns && total < kEnough); ++i) {
    const double seconds_a = seconds_of(a), seconds_b = seconds_of(b);
    best_a = std::min(best_a, seconds_a);
    best_b = std::min(best_b, seconds_b);
    total += seconds_a + seconds_b;
  }
  return best_a / best_b;
}

// The processor multiplies tiles of bf16 (AMX).
bool has_matrix_units() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kFeatures = 7, kAmxBf16 = 1u << 22;
  return __get_cpuid_count(kFeatures, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0;
#else
  return false;
#endif
}

}  // namespace

kernels::Products group_products(Rounding rounding) {
  if (rounding >= Rounding::Int8 && kernels::has_int8_products()) return kernels::Products::Int8;
  if (rounding != Rounding::None && kernels::prefers_int16_products()) return kernels::Products::Int16;
  if (rounding != Rounding::None && kernels::has_bf16_products()) return kernels::Products::Bf16;
  return kernels::Products::F32;
}

std::string LinearPlan::describe(TensorType weights, kernels::Products products) const {
  constexpr std::string_view kNames[] = {"f32", "bf16", "int16", "int8"};
  const auto groups = fmt::format("{} groups by {}", to_string(weights), kNames[static_cast<std::size_t>(products)]);
  if (product == Product::None) return groups;
  const auto name = product == Product::Bf16 ? "bf16" : "f32";
  if (!kernels::has_groups(weights)) return fmt::format("{} product", name);
  if (from_rows <= 1) return fmt::format("prompts {} product, the rest {}", name, groups);
  return fmt::format("1-{} rows {}, {}+ rows {} product", from_rows - 1, groups, from_rows, name);
}

namespace {

// Rounds all panels: round(first, last) by the threads that pay.
template <class Round>
void round_panels(ThreadTeam& team, std::size_t rows, const Round& round) {
  const std::size_t panels = kernels::panels_of(rows);
  panels <= kPanelsRoundedAlone ? round(std::size_t{0}, panels) : team.run_parts(panels, 1, round);
}

template <class Value>
Value* at_least(std::vector<Value>& values, std::size_t count) {
  if (values.size() < count) values.resize(count);
  return values.data();
}

}  // namespace

kernels::Bf16Rows RoundedRows::round(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns) {
  std::uint16_t* values = at_least(values_, rows * columns);
  float* sums = at_least(sums_, rows * columns / kernels::kGroupColumns);
  round_panels(team, rows, [&](std::size_t first, std::size_t last) {
    kernels::round_rows(x, rows, columns, first, last, values, sums);
  });
  return {values, sums};
}

kernels::Int16Rows RoundedRows::round_int16(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns) {
  const std::size_t groups = rows * columns / kernels::kGroupColumns;
  std::int16_t* values = at_least(words_, rows * columns);
  float *scales = at_least(scales_, groups), *sums = at_least(sums_, groups);
  round_panels(team, rows, [&](std::size_t first, std::size_t last) {
    kernels::round_rows_int16(x, rows, columns, first, last, values, scales, sums);
  });
  return {values, scales, sums};
}

kernels::Int16Spans RoundedRows::round_spans(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns) {
  std::int16_t* values = at_least(words_, rows * columns);
  float* scales = at_least(scales_, rows * kernels::spans_of(columns));
  round_panels(team, rows, [&](std::size_t first, std::size_t last) {
    kernels::round_spans_int16(x, rows, columns, first, last, values, scales);
  });
  return {values, scales};
}

kernels::Int8Rows RoundedRows::quantise(ThreadTeam& team, const float* x, std::size_t rows, std::size_t columns,
                                        bool paired) {
  const std::size_t groups = rows * columns / kernels::kGroupColumns;
  std::int8_t* values = at_least(bytes_, rows * columns);
  float *scales = at_least(scales_, groups), *sums = at_least(sums_, groups);
  std::int32_t* offsets = at_least(offsets_, groups);
  std::int32_t* paired_offsets = paired ? at_least(paired_offsets_, groups) : nullptr;
  round_panels(team, rows, [&](std::size_t first, std::size_t last) {
    kernels::quantise_rows(x, rows, columns, first, last, values, scales, sums, offsets, paired_offsets);
  });
  return {values, scales, sums, offsets, paired_offsets};
}

Linear::Linear(std::span<const GgufTensor> parts, Rounding rounding)
    : parts_(parts.begin(), parts.end()), has_groups_(true), rounding_(rounding) {
  for (const GgufTensor& part : parts_) {
    outputs_ += part.rows();
    columns_ = part.columns();
    has_groups_ = has_groups_ && kernels::has_groups(part.type);
  }
}

namespace {

// Of a part in memory: parts begin at multiples of 64.
std::size_t bytes_of_groups(const GgufTensor& part) {
  const std::size_t bytes = kernels::group_weights_bytes(kernels::group_format(part.type), part.rows(), part.columns());
  return (bytes + 63) & ~std::size_t{63};
}

}  // namespace

std::size_t Linear::packed_bytes() const { return groups_bytes() + (packed_.defined() ? packed_.nbytes() : 0); }

std::size_t Linear::groups_bytes() const {
  std::size_t bytes = 0;
  for (const GgufTensor& part : parts_) bytes += has_groups_ ? bytes_of_groups(part) : 0;
  return bytes;
}

void Linear::pack_groups(ThreadTeam& team, std::byte* memory) {
  if (!has_groups_) return;
  for (const GgufTensor& part : parts_) {
    groups_.push_back(memory);
    team.run_parts(kernels::tiles_of(part.rows()), 1, [&](std::size_t begin, std::size_t end) {
      kernels::pack_group_weights(part.type, part.data.data(), part.rows(), part.columns(), begin, end, memory);
    });
    memory += bytes_of_groups(part);
  }
}

std::size_t Linear::bytes_for(Product product) const {
  return product == Product::None ? 0 : outputs_ * columns_ * (product == Product::Bf16 ? 2 : 4);
}

Linear::Cost Linear::cost(std::size_t rows) const {
  const double multiplications = static_cast<double>(rows * outputs_ * columns_);
  if (has_groups_ && rows < plan_.from_rows) {
    return {group_products(rounding_), multiplications, static_cast<double>(packed_bytes() - bytes_for(plan_.product))};
  }
  return {plan_.product == Product::Bf16 ? kernels::Products::Bf16 : kernels::Products::F32, multiplications,
          static_cast<double>(bytes_for(plan_.product))};
}

void Linear::set_plan(const LinearPlan& plan, ThreadTeam& team) {
  if (plan.product != plan_.product || plan.product == Product::None) pack(plan.product, team);
  plan_ = plan;
}

void Linear::pack(Product product, ThreadTeam& team) {
  packed_.reset();
  if (product == Product::None) return;
  const auto rows = static_cast<std::int64_t>(outputs_), columns = static_cast<std::int64_t>(columns_);
  packed_ = at::empty({rows, columns}, product == Product::Bf16 ? at::kBFloat16 : at::kFloat);
  std::size_t first = 0;
  for (const GgufTensor& part : parts_) {
    team.run_parts(part.rows(), kOutputGrain, [&](std::size_t begin, std::size_t end) {
      std::vector<float> row(columns_);
      for (std::size_t o = begin; o < end; ++o) {
        if (product == Product::F32) {
          unpack_row(part, o, {packed_.data_ptr<float>() + (first + o) * columns_, columns_});
        } else {
          unpack_row(part, o, row);
          kernels::float_to_bf16(row.data(), bf16_data(packed_) + (first + o) * columns_, columns_);
        }
      }
    });
    first += part.rows();
  }
}

Linear::Means Linear::means_over_groups(std::size_t rows) const {
  const bool int16 = group_products(rounding_) == kernels::Products::Int16;
  return rows >= (int16 ? kernels::kDecodedInt16Rows : kernels::kDecodedRows) ? Means::DecodedGroups : Means::Groups;
}

Linear::Means Linear::means(Arithmetic arithmetic, std::size_t rows) const {
  switch (arithmetic) {
    case Arithmetic::Any:
      if (!has_groups_ || rows >= plan_.from_rows) return Means::Product;
      return means_over_groups(rows);
    case Arithmetic::Prefill: return packed_.defined() ? Means::FixedProduct : Means::DecodedGroups;
    case Arithmetic::Decode: return has_groups_ ? Means::Groups : Means::FixedProduct;
  }
  return Means::Product;
}

void Linear::forward(Arithmetic arithmetic, ThreadTeam& team, const float* x, std::size_t rows, float* y,
                     RoundedRows& rounded) const {
  switch (const Means by = means(arithmetic, rows); by) {
    case Means::Product: return forward_product(team, x, rows, y);
    case Means::FixedProduct: return multiply_fixed(team, x, rows, y);
    default: multiply_groups(team, round(team, x, rows, rounded, by), rows, y);
  }
}

// Outputs of each half that a thread computes at once: of many rows as many as stay near, of few what is a good part of
// its share, since weights are read faster in long runs.
std::size_t Linear::gated_outputs(std::size_t rows, std::size_t threads) const {
  constexpr std::size_t kFewParts = 3, kOutputsOfMany = 4 * kOutputGrain;
  if (rows > kernels::kBlockRows) return kOutputsOfMany;
  const std::size_t part = (outputs_ / 2 + kFewParts * threads - 1) / (kFewParts * threads);
  return (part + kOutputGrain - 1) / kOutputGrain * kOutputGrain;
}

std::size_t Linear::gated_floats(std::size_t rows, std::size_t threads) const {
  const std::size_t few = std::min(rows, kernels::kBlockRows);
  const std::size_t over_groups =
      threads * 2 * std::max(rows * gated_outputs(rows, threads), few * gated_outputs(few, threads));
  return std::max(over_groups, packed_.defined() ? rows * outputs_ : 0);  // some arithmetics take groups all the same
}

void Linear::forward_gated(Arithmetic arithmetic, ThreadTeam& team, const float* x, std::size_t rows, float* workspace,
                           float* y, RoundedRows& rounded) const {
  const std::size_t width = outputs_ / 2;
  assert(parts_.size() == 2 && parts_.front().rows() == width);
  const Means by = means(arithmetic, rows);
  if (by == Means::Product || by == Means::FixedProduct) {
    forward(arithmetic, team, x, rows, workspace, rounded);
    team.run_parts(rows, 1, [&](std::size_t begin, std::size_t end) {
      kernels::swiglu(workspace + begin * outputs_, end - begin, width, y + begin * width, width);
    });
    return;
  }
  const GroupInput input = round(team, x, rows, rounded, by);
  const std::size_t at_once = gated_outputs(rows, team.threads());
  team.run((width + at_once - 1) / at_once, [&](std::size_t i, std::size_t thread) {
    const std::size_t begin = i * at_once, end = std::min(width, begin + at_once), count = end - begin;
    float* const both = workspace + thread * 2 * rows * at_once;  // [rows][gate, up]
    multiply_part(input, 0, rows, begin, end, both - begin, 2 * count);
    multiply_part(input, 1, rows, begin, end, both + count - begin, 2 * count);
    kernels::swiglu(both, rows, count, y + begin, width);
  });
}

void Linear::multiply_fixed(ThreadTeam& team, const float* x, std::size_t rows, float* y) const {
  const std::size_t tiles = (rows + kPrefillRows - 1) / kPrefillRows;
  if (plan_.keeps_bits && tiles < team.threads()) {
    for (std::size_t first = 0; first < rows; first += kPrefillRows) {
      share_outputs(team, x + first * columns_, std::min(kPrefillRows, rows - first), y + first * outputs_);
    }
    return;
  }
  team.run(tiles, [&](std::size_t i, std::size_t) {
    const std::size_t first = i * kPrefillRows, used = std::min(kPrefillRows, rows - first);
    multiply(x + first * columns_, kPrefillRows, used, 0, outputs_, y + first * outputs_);
  });
}

void Linear::share_outputs(ThreadTeam& team, const float* x, std::size_t rows, float* y) const {
  const std::size_t filled = rounded_rows(rows);
  team.run_parts(outputs_, kProductGrain,
                 [&](std::size_t begin, std::size_t end) { multiply(x, filled, rows, begin, end, y); });
}

bool Linear::product_keeps_bits(ThreadTeam& team) const {
  if (!packed_.defined()) return false;
  std::vector<float> x(kPrefillRows * columns_), whole(kPrefillRows * outputs_), parts(whole.size());
  // Values of many magnitudes: sums in another order would differ somewhere.
  std::uint32_t random = 1;
  for (float& value : x) {
    random = random * 1664525u + 1013904223u;
    value =
        std::ldexp(static_cast<float>(static_cast<std::int32_t>(random)) * 0x1p-31f, static_cast<int>(random % 13) - 6);
  }
  multiply(x.data(), kPrefillRows, kPrefillRows, 0, outputs_, whole.data());
  for (std::size_t rows = 1; rows <= kPrefillRows; rows = rounded_rows(rows) + 1) {
    share_outputs(team, x.data(), rows, parts.data());
    if (std::memcmp(parts.data(), whole.data(), rows * outputs_ * sizeof(float)) != 0) return false;
  }
  return true;
}

void Linear::forward_groups(ThreadTeam& team, const float* x, std::size_t rows, float* y, RoundedRows& rounded) const {
  multiply_groups(team, round(team, x, rows, rounded, means_over_groups(rows)), rows, y);
}

Linear::GroupInput Linear::round(ThreadTeam& team, const float* x, std::size_t rows, RoundedRows& rounded,
                                 Means means) const {
  GroupInput input{.products = group_products(rounding_),
                   .decoded = means == Means::DecodedGroups,
                   .x = x,
                   .bf16 = {},
                   .int16 = {},
                   .spans = {},
                   .int8 = {}};
  if (input.products == kernels::Products::Bf16) input.bf16 = rounded.round(team, x, rows, columns_);
  if (input.products == kernels::Products::Int16) {
    if (input.decoded) {
      input.spans = rounded.round_spans(team, x, rows, columns_);
    } else {
      input.int16 = rounded.round_int16(team, x, rows, columns_);
    }
  }
  if (input.products == kernels::Products::Int8) {
    const bool paired = input.decoded && rounding_ == Rounding::CoarseInt8 && kernels::prefers_paired_products();
    input.int8 = rounded.quantise(team, x, rows, columns_, paired);
  }
  return input;
}

void Linear::multiply_part(const GroupInput& input, std::size_t part, std::size_t rows, std::size_t begin,
                           std::size_t end, float* y, std::size_t y_stride) const {
  assert(groups_.size() == parts_.size());
  const kernels::GroupWeights weights{.format = kernels::group_format(parts_[part].type),
                                      .tiles = groups_[part],
                                      .outputs = parts_[part].rows(),
                                      .columns = columns_};
  switch (input.products) {
    case kernels::Products::F32:
      return kernels::group_linear(weights, input.x, columns_, rows, y, y_stride, begin, end);
    case kernels::Products::Bf16:
      return (input.decoded ? kernels::group_linear_decoded : kernels::group_linear_bf16)(weights, input.bf16, rows, y,
                                                                                          y_stride, begin, end);
    case kernels::Products::Int16:
      if (input.decoded) {
        return kernels::group_linear_decoded_int16(weights, input.spans, rows, y, y_stride, begin, end);
      }
      return kernels::group_linear_int16(weights, input.int16, rows, y, y_stride, begin, end);
    case kernels::Products::Int8: return kernels::group_linear_int8(weights, input.int8, rows, y, y_stride, begin, end);
  }
}

void Linear::multiply_groups(ThreadTeam& team, const GroupInput& input, std::size_t rows, float* y) const {
  // Tiles of all parts, one after another.
  std::size_t tiles = 0;
  for (const GgufTensor& part : parts_) tiles += kernels::tiles_of(part.rows());
  team.run_parts(tiles, 1, [&](std::size_t begin, std::size_t end) {
    std::size_t first_tile = 0, first_output = 0;
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const std::size_t outputs = parts_[p].rows(), here = kernels::tiles_of(outputs);
      const std::size_t from = std::max(begin, first_tile), to = std::min(end, first_tile + here);
      if (from < to) {
        multiply_part(input, p, rows, (from - first_tile) * kOutputGrain,
                      std::min(outputs, (to - first_tile) * kOutputGrain), y + first_output, outputs_);
      }
      first_tile += here;
      first_output += outputs;
    }
  });
}

void Linear::forward_product(ThreadTeam& team, const float* x, std::size_t rows, float* y) const {
  assert(packed_.defined());
  if (rows >= kRowsPerThread * team.threads()) {
    const std::size_t each = (rows + team.threads() - 1) / team.threads();
    team.run((rows + each - 1) / each, [&](std::size_t i, std::size_t) {
      const std::size_t first = i * each, count = std::min(each, rows - first);
      multiply(x + first * columns_, rounded_rows(count), count, 0, outputs_, y + first * outputs_);
    });
  } else {
    share_outputs(team, x, rows, y);
  }
}

void Linear::multiply(const float* x, std::size_t rows, std::size_t used, std::size_t first_output,
                      std::size_t last_output, float* y) const {
  const c10::InferenceMode no_gradients;  // a setting of each thread
  const std::size_t outputs = last_output - first_output;
  const bool bf16 = packed_.scalar_type() == at::kBFloat16;
  at::Tensor input =
      at::empty({static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns_)}, packed_.options());
  if (bf16) {
    kernels::float_to_bf16(x, bf16_data(input), used * columns_);
  } else {
    std::copy_n(x, used * columns_, input.data_ptr<float>());
  }
  std::memset(static_cast<std::byte*>(input.data_ptr()) + used * columns_ * input.element_size(), 0,
              (rows - used) * columns_ * input.element_size());
  const at::Tensor weights =
      packed_.narrow(0, static_cast<std::int64_t>(first_output), static_cast<std::int64_t>(outputs));
  const at::Tensor result = at::linear(input, weights);
  for (std::size_t r = 0; r < used; ++r) {
    float* out = y + r * outputs_ + first_output;
    bf16 ? kernels::bf16_to_float(bf16_data(result) + r * outputs, out, outputs)
         : static_cast<void>(std::copy_n(result.data_ptr<float>() + r * outputs, outputs, out));
  }
}

LinearPlan choose_product(Linear& sample, std::size_t max_rows, ThreadTeam& team) {
  // Without matrix units nothing multiplies bf16 faster than the groups' kernel, which the product would also have to
  // beat by enough to be worth its memory.
  const bool fast_groups = group_products(sample.rounding()) != kernels::Products::F32;
  if (!sample.needs_product() && fast_groups && !has_matrix_units()) return {};
  constexpr std::size_t kFirstRows = 64;  // where the search for the crossing begins
  constexpr std::size_t kTypeRows = 64;   // a small prefill, to compare element types
  std::vector<float> x(std::max(max_rows, kTypeRows) * sample.columns(), 0.5f);
  std::vector<float> y(std::max(max_rows, kTypeRows) * sample.outputs());
  RoundedRows rounded;
  const auto product = [&](const Linear& linear, std::size_t rows) {
    return [&, rows] { linear.forward_product(team, x.data(), rows, y.data()); };
  };

  // Float32 activations are multiplied in float32; else bf16, unless float32 is clearly faster here: it takes twice the
  // memory.
  LinearPlan plan{.product = Product::F32};
  if (sample.rounding() != Rounding::None) {
    plan.product = Product::Bf16;
    sample.set_plan(plan, team);
    Linear other = sample;
    other.set_plan({.product = Product::F32}, team);
    if (time_ratio(product(other, kTypeRows), product(sample, kTypeRows)) < 0.7) plan.product = Product::F32;
  }
  sample.set_plan(plan, team);
  if (sample.needs_product()) {
    plan.from_rows = 1;
    return plan;
  }

  // A product costs memory, so it must win clearly.
  const auto product_wins = [&](std::size_t rows) {
    return time_ratio(product(sample, rows), [&] { sample.forward_groups(team, x.data(), rows, y.data(), rounded); }) <
           0.85;
  };
  std::size_t rows = std::min(kFirstRows, max_rows);
  if (product_wins(rows)) {
    while (rows > 1 && product_wins(rows / 2)) rows /= 2;
  } else {
    do {
      rows *= 2;
      if (rows > max_rows) return {};
    } while (!product_wins(rows));
  }
  plan.from_rows = rows;
  return plan;
}

}  // namespace tiercel
