// The CUDA kernels and block copies, by themselves, beside what the card gives in the same run: bytes of memory and of
// the link to the host a second, multiply-adds a second. Times are the GPU's own, by events.
//
//   peak/...       a copy within the GPU's memory (bytes read and written), and of pinned memory to it and from it
//   blocks/...     KV blocks of an 8B model to the GPU and from it, as tiers move them: share of the link
//   attention/...  one layer of an 8B Llama (32 query heads, 8 KV heads, head size 128), bf16
//   linear/...     its linear layers of 4,096 x 14,336 over 4-bit weights, by rows
//   rows/...       RMSNorm and SwiGLU of 2,048 rows
//
// `share` is of the peak that bounds the case. Without a GPU it says so and ends with 3.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include "device/cuda_devices.h"
#include "device/device_block_memory.h"
#include "device/device_buffer.h"
#include "kernels/decode_attention_cuda.h"
#include "kernels/group_linear_cuda.h"
#include "kernels/prefill_attention_cuda.h"
#include "kernels/row_kernels_cuda.h"

namespace tiercel {
namespace {

namespace cuda = kernels::cuda;

constexpr KvLayout kLayer = {.layers = 1, .kv_heads = 8, .head_dim = 128, .block_tokens = 32, .dtype = DType::BF16};
constexpr std::size_t kGroup = 4, kHidden = 4096, kFeedForward = 14336;

// The seconds that the GPU takes for what `enqueue` gives the default stream.
template <class Enqueue>
double device_seconds(const Enqueue& enqueue) {
  struct Event {
    Event() { cudaEventCreateWithFlags(&event, cudaEventDefault); }
    ~Event() { cudaEventDestroy(event); }
    cudaEvent_t event;
  };
  const Event begin, end;
  cudaEventRecord(begin.event, nullptr);
  enqueue();
  cudaEventRecord(end.event, nullptr);
  cudaEventSynchronize(end.event);
  float milliseconds = 0;
  cudaEventElapsedTime(&milliseconds, begin.event, end.event);
  return milliseconds / 1e3;
}

// The best of a few, once.
double copy_bytes_per_s(cudaMemcpyKind kind) {
  static std::map<cudaMemcpyKind, double> measured;
  double& best = measured[kind];
  if (best > 0) return best;
  constexpr std::size_t kBytes = std::size_t{512} << 20;
  const auto device = DeviceBuffer::allocate(2 * kBytes, "a bench").value();
  const auto host = PinnedBuffer::allocate(kBytes, "a bench").value();
  std::memset(host.start(), 1, kBytes);
  std::byte* const to = kind == cudaMemcpyDeviceToHost ? host.start() : device.start();
  const std::byte* const from = kind == cudaMemcpyHostToDevice ? host.start() : device.start() + kBytes;
  for (int i = 0; i < 6; ++i) {
    const double seconds = device_seconds([&] { cudaMemcpyAsync(to, from, kBytes, kind, nullptr); });
    best = std::max(best, (kind == cudaMemcpyDeviceToDevice ? 2.0 : 1.0) * kBytes / seconds);
  }
  return best;
}

void report(benchmark::State& state, double bytes, double operations, double peak_bytes_per_s) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["bytes/s"] = Counter(bytes, rate, Counter::kIs1000);
  if (operations > 0) state.counters["FLOP/s"] = Counter(operations, rate, Counter::kIs1000);
  if (peak_bytes_per_s > 0) state.counters["share"] = Counter(bytes / peak_bytes_per_s, rate);
}

template <class Enqueue>
void measure(benchmark::State& state, const Enqueue& enqueue) {
  if (enqueue() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
    state.SkipWithError(cudaGetErrorString(cudaGetLastError()));
    return;
  }
  for ([[maybe_unused]] auto _ : state) state.SetIterationTime(device_seconds(enqueue));
}

DeviceBuffer zeros(std::size_t bytes) {
  auto buffer = DeviceBuffer::allocate(bytes, "a bench").value();
  cudaMemset(buffer.start(), 0, bytes);
  return buffer;
}

DeviceBuffer on_device(const std::vector<std::uint32_t>& values) {
  auto buffer = DeviceBuffer::allocate(values.size() * 4, "a bench").value();
  cudaMemcpy(buffer.start(), values.data(), values.size() * 4, cudaMemcpyHostToDevice);
  return buffer;
}
const std::uint32_t* words(const DeviceBuffer& buffer) {
  return reinterpret_cast<const std::uint32_t*>(buffer.start());
}

void peak(benchmark::State& state, cudaMemcpyKind kind) {
  const double peak = copy_bytes_per_s(kind);
  for ([[maybe_unused]] auto _ : state) state.SetIterationTime(1e9 / peak);
  report(state, 1e9, 0, 0);
}

// The host's time: threads of tiers wait for it.
void blocks(benchmark::State& state, bool to_device) {
  constexpr KvLayout kModel = {.layers = 32, .kv_heads = 8, .head_dim = 128, .block_tokens = 32, .dtype = DType::BF16};
  const auto count = static_cast<std::size_t>(state.range(0));
  const auto memory = DeviceBlockMemory::reserve(count, kModel).value();
  const auto host = memory->allocate_host(count * kModel.block_bytes());
  std::memset(host.get(), 1, count * kModel.block_bytes());
  std::vector<BlockId> ids(count);
  std::iota(ids.rbegin(), ids.rend(), 0u);
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    const Status status = to_device ? memory->load(host.get(), kModel.block_bytes(), ids)
                                    : memory->save(ids, kModel.block_bytes(), host.get());
    if (!status.ok()) return state.SkipWithError(status.message().c_str());
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  report(state, static_cast<double>(count * kModel.block_bytes()), 0,
         copy_bytes_per_s(to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost));
}

// Sequences of equal length whose blocks are in order.
struct Sequences {
  Sequences(std::size_t count, std::size_t length)
      : table_stride(kLayer.blocks_for(length)),
        arena(zeros(count * table_stride * kLayer.block_bytes())),
        tables(on_device([&] {
          std::vector<std::uint32_t> ids(count * table_stride);
          std::iota(ids.begin(), ids.end(), 0u);
          return ids;
        }())),
        lengths(on_device(std::vector<std::uint32_t>(count, static_cast<std::uint32_t>(length)))) {}
  kernels::CodedKv kv() const { return {.arena = arena.start(), .layout = {.layout = kLayer}}; }
  std::size_t table_stride;
  DeviceBuffer arena, tables, lengths;
};

void decode_attention(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0)), length = static_cast<std::size_t>(state.range(1));
  const Sequences s(rows, length);
  const std::size_t width = kLayer.kv_heads * kGroup * kLayer.head_dim;
  const DeviceBuffer q = zeros(rows * width * 2), out = zeros(rows * width * 2);
  const DeviceBuffer workspace =
      zeros(4 * std::max<std::size_t>(1, cuda::decode_attention_workspace_floats(kLayer, rows, kGroup, length)));
  measure(state, [&] {
    return cuda::decode_attention({.kv = s.kv(),
                                   .block_tables = words(s.tables),
                                   .table_stride = s.table_stride,
                                   .lengths = words(s.lengths),
                                   .rows = rows,
                                   .longest = length,
                                   .group = kGroup,
                                   .q = q.start(),
                                   .q_stride = width,
                                   .out = out.start(),
                                   .out_stride = width,
                                   .scale = 0.1f,
                                   .workspace = reinterpret_cast<float*>(workspace.start())},
                                  nullptr);
  });
  report(state, static_cast<double>(rows * length * kLayer.token_bytes()), 0,
         copy_bytes_per_s(cudaMemcpyDeviceToDevice));
}

void prefill_attention(benchmark::State& state) {
  const auto queries = static_cast<std::size_t>(state.range(0)), length = static_cast<std::size_t>(state.range(1));
  const Sequences s(1, length);
  const std::size_t width = kLayer.kv_heads * kGroup * kLayer.head_dim;
  const DeviceBuffer q = zeros(queries * width * 2), out = zeros(queries * width * 2);
  const DeviceBuffer begins = on_device({0, static_cast<std::uint32_t>(queries)});
  measure(state, [&] {
    return cuda::prefill_attention({.kv = s.kv(),
                                    .block_tables = words(s.tables),
                                    .table_stride = s.table_stride,
                                    .query_begins = words(begins),
                                    .lengths = words(s.lengths),
                                    .sequences = 1,
                                    .most_queries = queries,
                                    .group = kGroup,
                                    .q = q.start(),
                                    .q_stride = width,
                                    .out = out.start(),
                                    .out_stride = width,
                                    .scale = 0.1f},
                                   nullptr);
  });
  const double seen = static_cast<double>(queries) * (static_cast<double>(length) - static_cast<double>(queries) / 2);
  report(state, 0, 4 * seen * static_cast<double>(width), 0);
}

void linear(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0));
  const std::size_t bytes = cuda::device_weights_bytes(cuda::WeightCode::Group4, DType::BF16, kFeedForward, kHidden);
  constexpr std::size_t kCopies = 8;  // so that weights come from memory
  const DeviceBuffer weights = zeros(kCopies * bytes);
  const DeviceBuffer x = zeros(rows * kHidden * 2), y = zeros(rows * kFeedForward * 2);
  std::size_t turn = 0;
  measure(state, [&] {
    return cuda::linear({.dtype = DType::BF16,
                         .w = {.code = cuda::WeightCode::Group4,
                               .data = weights.start() + turn++ % kCopies * bytes,
                               .outputs = kFeedForward,
                               .columns = kHidden},
                         .x = x.start(),
                         .x_stride = kHidden,
                         .rows = rows,
                         .y = y.start(),
                         .y_stride = kFeedForward},
                        nullptr);
  });
  report(state, static_cast<double>(bytes + rows * (kHidden + kFeedForward) * 2),
         2.0 * static_cast<double>(rows * kHidden * kFeedForward), copy_bytes_per_s(cudaMemcpyDeviceToDevice));
}

void rms_norm(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0));
  const DeviceBuffer x = zeros(rows * kHidden * 2), delta = zeros(rows * kHidden * 2), out = zeros(rows * kHidden * 2),
                     weight = zeros(kHidden * 4);
  measure(state, [&] {
    return cuda::rms_norm({.dtype = DType::BF16,
                           .x = x.start(),
                           .residual = delta.start(),
                           .weight = reinterpret_cast<const float*>(weight.start()),
                           .out = out.start(),
                           .epsilon = 1e-5f,
                           .rows = rows,
                           .width = kHidden},
                          nullptr);
  });
  report(state, static_cast<double>(rows * kHidden * 2 * 4), 0, copy_bytes_per_s(cudaMemcpyDeviceToDevice));
}

void swiglu(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0));
  const DeviceBuffer gate_up = zeros(rows * 2 * kFeedForward * 2), out = zeros(rows * kFeedForward * 2);
  measure(state, [&] {
    return cuda::swiglu(
        {.dtype = DType::BF16, .gate_up = gate_up.start(), .out = out.start(), .rows = rows, .width = kFeedForward},
        nullptr);
  });
  report(state, static_cast<double>(rows * kFeedForward * 2 * 3), 0, copy_bytes_per_s(cudaMemcpyDeviceToDevice));
}

void register_all() {
  const auto add = [](const char* name, auto... arguments) {
    return benchmark::RegisterBenchmark(name, arguments...)->UseManualTime()->Unit(benchmark::kMicrosecond);
  };
  add("peak/memory", peak, cudaMemcpyDeviceToDevice)->Iterations(1);
  add("peak/to_device", peak, cudaMemcpyHostToDevice)->Iterations(1);
  add("peak/from_device", peak, cudaMemcpyDeviceToHost)->Iterations(1);
  add("blocks/load", blocks, true)->Arg(8)->Arg(64);
  add("blocks/save", blocks, false)->Arg(8)->Arg(64);
  add("attention/decode", decode_attention)->Args({1, 8192})->Args({32, 8192})->Args({128, 1024});
  add("attention/prefill", prefill_attention)->Args({2048, 2048})->Args({2048, 8192});
  add("linear/group4", linear)->Arg(1)->Arg(8)->Arg(32)->Arg(256)->Arg(2048);
  add("rows/rms_norm", rms_norm)->Arg(2048);
  add("rows/swiglu", swiglu)->Arg(2048);
}

}  // namespace
}  // namespace tiercel

int main(int argc, char** argv) {
  const tiercel::CudaDevices known = tiercel::list_cuda_devices();
  if (known.devices.empty()) {
    std::fprintf(stderr, "gpu_bench: there is no GPU: %s\n", known.note.c_str());
    return 3;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("gpu", known.devices.front().name);
  tiercel::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
