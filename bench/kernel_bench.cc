// The CPU kernels, by themselves, beside what the machine gives: multiply-adds a second, or bytes of weights or KV a
// second.
//
//   peak/...       what the kernels multiply where everything is near, and what all threads read from memory
//   linear/...     group_linear over the weights of many layers, so that they come from memory: rows, outputs, columns
//   attention/...  one layer's attention of new tokens over a context: tokens, context, query heads, KV heads, head
//   size
//   attention/shared  one token of each of some sequences: sequences, context, tokens that their contexts share
//
// Shapes of two models: SmolLM2-135M (hidden 576, 9 heads, 3 KV heads) and one of a billion parameters (2,048, 32, 8).
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "base/thread_team.h"
#include "gguf/dequantize.h"
#include "kernels/attention_plan.h"
#include "kernels/group_linear.h"
#include "kernels/int8_kernels.h"
#include "kernels/product_peak.h"

namespace tiercel {
namespace {

// Large ones in large pages, as the engine asks for.
template <class T>
struct Buffer {
  explicit Buffer(std::size_t count) : size(count) {
    const std::size_t page = count * sizeof(T) < (std::size_t{2} << 20) ? 4096 : std::size_t{2} << 20;
    const std::size_t bytes = (count * sizeof(T) + page - 1) / page * page;
    data.reset(static_cast<T*>(std::aligned_alloc(page, bytes)));
    if (page > 4096) static_cast<void>(madvise(get(), bytes, MADV_HUGEPAGE));
  }
  T* get() const { return data.get(); }
  std::size_t size;
  std::unique_ptr<T, decltype(&std::free)> data{nullptr, std::free};
};

ThreadTeam& team() {
  static ThreadTeam all(std::max(1u, std::thread::hardware_concurrency()));
  return all;
}

Buffer<float> normals(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Buffer<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values.get()[i] = normal(random);
  return values;
}

// At least `least_bytes` of weights of one shape, as the layers of a model.
struct Layers {
  Layers(TensorType type, std::size_t outputs, std::size_t columns, std::size_t least_bytes = 64'000'000) {
    const kernels::GroupFormat format = kernels::group_format(type);
    const std::size_t bytes = kernels::group_weights_bytes(format, outputs, columns);
    std::mt19937 random(2);
    std::vector<std::byte> file(outputs * columns / 32 * block_bytes(type));
    for (auto& byte : file) byte = static_cast<std::byte>(random());
    const std::uint16_t small = float_to_half(0.01f);
    for (std::size_t at = 0; at < file.size(); at += block_bytes(type)) {
      std::memcpy(&file[at], &small, 2);
      if (type == TensorType::Q4_1) std::memcpy(&file[at + 2], &small, 2);
    }
    for (std::size_t total = 0; total < least_bytes; total += bytes) {
      tiles.emplace_back(bytes);
      kernels::pack_group_weights(type, file.data(), outputs, columns, 0, kernels::tiles_of(outputs),
                                  tiles.back().get());
      layers.push_back({format, tiles.back().get(), outputs, columns});
    }
  }
  std::vector<Buffer<std::byte>> tiles;
  std::vector<kernels::GroupWeights> layers;
};

using kernels::Products;

// Rows of x, rounded as a kernel takes them.
struct RoundedInput {
  RoundedInput(Products as, const kernels::Int8Kernel* bytes_by, bool weights_decoded, std::size_t count,
               std::size_t columns)
      : kind(as),
        int8(bytes_by),
        decoded(weights_decoded),
        rows(count),
        x(normals(rows * columns)),
        values(rows * columns),
        words(rows * columns),
        bytes(rows * columns),
        scales(rows * columns / 32),
        sums(rows * columns / 32),
        offsets(rows * columns / 32),
        paired_offsets(rows * columns / 32) {
    const std::size_t panels = kernels::panels_of(rows);
    if (kind == Products::Bf16) kernels::round_rows(x.get(), rows, columns, 0, panels, values.get(), sums.get());
    if (kind == Products::Int16 && decoded) {
      kernels::round_spans_int16(x.get(), rows, columns, 0, panels, words.get(), scales.get());
    } else if (kind == Products::Int16) {
      kernels::round_rows_int16(x.get(), rows, columns, 0, panels, words.get(), scales.get(), sums.get());
    }
    if (kind == Products::Int8) {
      int8->quantise(x.get(), rows, columns, 0, panels, bytes.get(), scales.get(), sums.get(), offsets.get(),
                     decoded ? paired_offsets.get() : nullptr);
    }
  }

  void multiply(const kernels::GroupWeights& w, float* y, std::size_t begin, std::size_t end) const {
    switch (kind) {
      case Products::F32: return kernels::group_linear(w, x.get(), w.columns, rows, y, w.outputs, begin, end);
      case Products::Bf16:
        return (decoded ? kernels::group_linear_decoded : kernels::group_linear_bf16)(w, {values.get(), sums.get()},
                                                                                      rows, y, w.outputs, begin, end);
      case Products::Int16:
        if (decoded) {
          return kernels::group_linear_decoded_int16(w, {words.get(), scales.get()}, rows, y, w.outputs, begin, end);
        }
        return kernels::group_linear_int16(w, {words.get(), scales.get(), sums.get()}, rows, y, w.outputs, begin, end);
      case Products::Int8:
        return int8->multiply(
            w, {bytes.get(), scales.get(), sums.get(), offsets.get(), decoded ? paired_offsets.get() : nullptr}, rows,
            y, w.outputs, begin, end);
    }
  }

  const Products kind;
  const kernels::Int8Kernel* const int8;
  const bool decoded;
  const std::size_t rows;
  const Buffer<float> x;
  const Buffer<std::uint16_t> values;
  const Buffer<std::int16_t> words;
  const Buffer<std::int8_t> bytes;
  const Buffer<float> scales, sums;
  const Buffer<std::int32_t> offsets, paired_offsets;
};

void linear(benchmark::State& state, TensorType type, Products kind, const kernels::Int8Kernel* int8 = nullptr,
            bool decoded = false) {
  const auto rows = static_cast<std::size_t>(state.range(0)), outputs = static_cast<std::size_t>(state.range(1)),
             columns = static_cast<std::size_t>(state.range(2));
  if (int8 ? !int8->is_supported() : !kernels::has_products(kind)) return state.SkipWithError("not on this processor");
  const Layers weights(type, outputs, columns);
  const RoundedInput x(kind, int8, decoded, rows, columns);
  Buffer<float> y(rows * outputs);
  std::size_t layer = 0;
  for (auto _ : state) {
    const kernels::GroupWeights& w = weights.layers[layer++ % weights.layers.size()];
    team().run_parts(kernels::tiles_of(outputs), 1, [&](std::size_t begin, std::size_t end) {
      x.multiply(w, y.get(), begin * 16, std::min(end * 16, outputs));
    });
    benchmark::DoNotOptimize(y.get());
  }
  const double products = static_cast<double>(outputs * columns) * static_cast<double>(state.iterations());
  state.counters["FLOP/s"] = benchmark::Counter(2 * products * static_cast<double>(rows), benchmark::Counter::kIsRate);
  state.counters["weights_bytes/s"] =
      benchmark::Counter(static_cast<double>(weights.tiles.front().size) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

void attention(benchmark::State& state, DType dtype, const kernels::AttentionKernel& kernel) {
  const auto tokens = static_cast<std::size_t>(state.range(0)), context = static_cast<std::size_t>(state.range(1)),
             heads = static_cast<std::size_t>(state.range(2)), kv_heads = static_cast<std::size_t>(state.range(3)),
             dim = static_cast<std::size_t>(state.range(4));
  if ((&kernel == &kernels::kBf16Attention || &kernel == &kernels::kWidenedAttention) && !kernels::has_bf16_products())
    return state.SkipWithError("no AVX512-BF16");
  if (&kernel == &kernels::kInt8Attention && !kernels::has_int8_attention())
    return state.SkipWithError("no AVX512-VNNI");
  if (&kernel == &kernels::kInt16Attention && !kernels::has_int16_attention())
    return state.SkipWithError("no faster than bf16 here");
  const KvLayout layout{.layers = 30,
                        .kv_heads = static_cast<std::uint32_t>(kv_heads),
                        .head_dim = static_cast<std::uint32_t>(dim),
                        .block_tokens = 32,
                        .dtype = dtype};
  const std::size_t length = context + tokens, blocks = layout.blocks_for(length), group = heads / kv_heads;
  Buffer<std::byte> arena(blocks * layout.block_stride());
  std::memset(arena.get(), 0x3c, arena.size);
  std::vector<BlockId> table(blocks);
  for (std::size_t i = 0; i < blocks; ++i) table[i] = static_cast<BlockId>(i);
  const auto q = normals(tokens * heads * dim);
  Buffer<float> out(tokens * heads * dim);
  kernels::AttentionPlan plan(kernel, layout, group, team().threads());
  Buffer<float> workspace(plan.workspace_floats());
  plan.set_workspace(workspace.get());
  plan.add({.kv = {arena.get(), layout},
            .block_table = table.data(),
            .first_position = context,
            .tokens = tokens,
            .group = group,
            .q = q.get(),
            .q_stride = heads * dim,
            .out = out.get(),
            .out_stride = heads * dim,
            .scale = 0.125f,
            .style = tokens > 1 ? kernels::AttentionStyle::Prefill : kernels::AttentionStyle::Decode});
  plan.finish();
  std::size_t layer = 0;
  for (auto _ : state) {
    layer = (layer + 1) % layout.layers;
    plan.run(team(), layer);
    benchmark::DoNotOptimize(out.get());
  }
  const double seen =
      static_cast<double>(tokens) * (static_cast<double>(context) + static_cast<double>(tokens + 1) / 2);
  const double iterations = static_cast<double>(state.iterations());
  state.counters["FLOP/s"] =
      benchmark::Counter(4 * seen * static_cast<double>(heads * dim) * iterations, benchmark::Counter::kIsRate);
  state.counters["kv_bytes/s"] = benchmark::Counter(
      static_cast<double>(length * layout.token_bytes() / layout.layers) * iterations, benchmark::Counter::kIsRate);
}

void read_memory(benchmark::State& state) {
  Buffer<std::uint64_t> memory(std::size_t{32} << 20);
  std::memset(memory.get(), 1, memory.size * 8);
  for (auto _ : state) {
    team().run_parts(memory.size, 4096, [&](std::size_t begin, std::size_t end) {
      std::uint64_t sum = 0;
      for (std::size_t i = begin; i < end; ++i) sum += memory.get()[i];
      benchmark::DoNotOptimize(sum);
    });
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(memory.size * 8) * state.iterations());
}

// What the instruction gives by itself (kernels/product_peak.h), on all threads.
void peak(benchmark::State& state, Products kind) {
  if (!kernels::has_products(kind)) return state.SkipWithError("not on this processor");
  constexpr std::uint64_t kRounds = 1'000'000;
  std::atomic<std::uint64_t> products = 0;
  for (auto _ : state) {
    team().run(team().threads(),
               [&](std::size_t, std::size_t) { products += kernels::multiply_registers(kind, kRounds); });
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * static_cast<double>(products.load()), benchmark::Counter::kIsRate);
}

// One token of each of some sequences, whose contexts have their first tokens in the same blocks, or all in their own.
void shared_attention(benchmark::State& state) {
  const auto sequences = static_cast<std::size_t>(state.range(0)), context = static_cast<std::size_t>(state.range(1)),
             shared = static_cast<std::size_t>(state.range(2));
  constexpr std::size_t kHeads = 9, kKvHeads = 3, kDim = 64;
  if (!kernels::has_bf16_products()) return state.SkipWithError("no AVX512-BF16");
  const KvLayout layout{.layers = 4, .kv_heads = kKvHeads, .head_dim = kDim, .block_tokens = 32, .dtype = DType::BF16};
  const std::size_t blocks = layout.blocks_for(context + 1), shared_blocks = shared / 32;
  Buffer<std::byte> arena(sequences * blocks * layout.block_bytes());
  std::memset(arena.get(), 0x3c, arena.size);
  std::vector<BlockId> tables(sequences * blocks);
  for (std::size_t i = 0; i < tables.size(); ++i) {
    tables[i] = static_cast<BlockId>(i % blocks < shared_blocks ? i % blocks : i);
  }
  const auto q = normals(sequences * kHeads * kDim);
  Buffer<float> out(sequences * kHeads * kDim);
  kernels::AttentionPlan plan(kernels::decode_attention(), layout, kHeads / kKvHeads, team().threads());
  Buffer<float> workspace(plan.workspace_floats());
  plan.set_workspace(workspace.get());
  std::size_t layer = 0;
  for (auto _ : state) {
    if (layer = (layer + 1) % layout.layers; layer == 0) plan.clear();
    for (std::size_t i = 0; i < sequences && plan.tasks() == 0; ++i) {
      plan.add({.kv = {arena.get(), layout},
                .block_table = &tables[i * blocks],
                .first_position = context,
                .tokens = 1,
                .group = kHeads / kKvHeads,
                .q = q.get() + i * kHeads * kDim,
                .q_stride = kHeads * kDim,
                .out = out.get() + i * kHeads * kDim,
                .out_stride = kHeads * kDim,
                .scale = 0.125f});
    }
    if (plan.tasks() == 0) plan.finish();
    plan.run(team(), layer);
    benchmark::DoNotOptimize(out.get());
  }
}

BENCHMARK(read_memory)->Name("peak/read")->UseRealTime();
BENCHMARK_CAPTURE(peak, f32, Products::F32)->Name("peak/f32")->UseRealTime();
BENCHMARK_CAPTURE(peak, bf16, Products::Bf16)->Name("peak/bf16")->UseRealTime();
BENCHMARK_CAPTURE(peak, int16, Products::Int16)->Name("peak/int16")->UseRealTime();
BENCHMARK_CAPTURE(peak, int8, Products::Int8)->Name("peak/int8")->UseRealTime();

void linear_shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t rows : {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 256, 1024}) bench->Args({rows, 3072, 576});
  for (const std::int64_t rows : {1, 8, 32, 48, 256, 1024}) bench->Args({rows, 576, 1536});
  for (const std::int64_t rows : {1, 8, 32, 256}) bench->Args({rows, 8192, 2048});
  bench->UseRealTime();
}
void head_shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t rows : {1, 8, 32}) bench->Args({rows, 49152, 576});
  bench->UseRealTime();
}
BENCHMARK_CAPTURE(linear, int8_Q4, TensorType::Q4_1, Products::Int8, &kernels::kAvx512Int8)
    ->Name("linear/int8/Q4")
    ->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, avx2_Q4, TensorType::Q4_1, Products::Int8, &kernels::kAvx2Int8)
    ->Name("linear/int8_avx2/Q4")
    ->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, bf16_Q4, TensorType::Q4_1, Products::Bf16)->Name("linear/bf16/Q4")->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, decoded_Q4, TensorType::Q4_1, Products::Bf16, nullptr, true)
    ->Name("linear/decoded/Q4")
    ->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, int16_Q4, TensorType::Q4_1, Products::Int16)->Name("linear/int16/Q4")->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, decoded_int16_Q4, TensorType::Q4_1, Products::Int16, nullptr, true)
    ->Name("linear/decoded_int16/Q4")
    ->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, int8_paired_Q4, TensorType::Q4_1, Products::Int8, &kernels::kAvx512Int8, true)
    ->Name("linear/int8_paired/Q4")
    ->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, f32_Q4, TensorType::Q4_1, Products::F32)->Name("linear/f32/Q4")->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, int8_Q8, TensorType::Q8_0, Products::Int8, &kernels::kAvx512Int8)
    ->Name("linear/int8/Q8")
    ->Apply(head_shapes);
BENCHMARK_CAPTURE(linear, bf16_Q8, TensorType::Q8_0, Products::Bf16)->Name("linear/bf16/Q8")->Apply(head_shapes);
BENCHMARK_CAPTURE(linear, int16_Q8, TensorType::Q8_0, Products::Int16)->Name("linear/int16/Q8")->Apply(head_shapes);
BENCHMARK_CAPTURE(linear, decoded_int16_Q8, TensorType::Q8_0, Products::Int16, nullptr, true)
    ->Name("linear/decoded_int16/Q8")
    ->Apply(head_shapes);

void attention_shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t context : {100, 2000, 8000}) bench->Args({1, context, 9, 3, 64});
  bench->Args({8, 2000, 9, 3, 64})
      ->Args({512, 1500, 9, 3, 64})
      ->Args({1, 8000, 32, 8, 64})
      ->Args({512, 1500, 32, 8, 64});
  bench->UseRealTime();
}
BENCHMARK_CAPTURE(attention, bf16, DType::BF16, kernels::kBf16Attention)
    ->Name("attention/bf16")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, widened, DType::BF16, kernels::kWidenedAttention)
    ->Name("attention/widened")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, int8, DType::Int8, kernels::kBf16Attention)
    ->Name("attention/int8")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, bytes, DType::BF16, kernels::kInt8Attention)
    ->Name("attention/bytes")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, bytes_int8, DType::Int8, kernels::kInt8Attention)
    ->Name("attention/bytes_int8")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, words, DType::BF16, kernels::kInt16Attention)
    ->Name("attention/words")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, words_int8, DType::Int8, kernels::kInt16Attention)
    ->Name("attention/words_int8")
    ->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, f32, DType::BF16, kernels::kAttention)->Name("attention/f32")->Apply(attention_shapes);
BENCHMARK_CAPTURE(attention, f32_int8, DType::Int8, kernels::kAttention)
    ->Name("attention/f32_int8")
    ->Apply(attention_shapes);
BENCHMARK(shared_attention)
    ->Name("attention/shared")
    ->Args({32, 256, 0})
    ->Args({32, 256, 128})
    ->Args({32, 256, 160})
    ->Args({32, 2048, 0})
    ->Args({32, 2048, 1920})
    ->Args({8, 2048, 0})
    ->Args({8, 2048, 1920})
    ->UseRealTime();

}  // namespace
}  // namespace tiercel
