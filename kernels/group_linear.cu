// A warp multiplies tiles of 32 outputs with rows of x, 8 at a time: weights are A of m16n8k16, rows of x B. Which of a
// group's columns an operand's place stands for is free as long as it is the same in both; so a lane takes 8
// neighbours, and so it is with outputs, of which a lane has 4.
#include <cuda_pipeline_primitives.h>

#include "kernels/group_linear_cuda.h"
#include "kernels/weight_parts.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kColumns = kDeviceGroupColumns, kOutputs = kDeviceTileOutputs, kRowsOfTile = 8;

template <class T>
__device__ const T* row_of_x(const LinearArgs& a, std::size_t row) {
  return static_cast<const T*>(a.x) + row * a.x_stride;
}

// Four neighbouring results of a row; those beyond the last output are left out.
template <class T>
__device__ void store(T* row, std::size_t output, std::size_t outputs, const float (&values)[4]) {
  T* to = row + output;
  struct alignas(4 * sizeof(T)) Four {
    T values[4];
  };
  if (output + 4 <= outputs && reinterpret_cast<std::size_t>(to) % sizeof(Four) == 0) {
    *reinterpret_cast<Four*>(to) = {
        {from_float<T>(values[0]), from_float<T>(values[1]), from_float<T>(values[2]), from_float<T>(values[3])}};
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (output + j < outputs) to[j] = from_float<T>(values[j]);
  }
}
template <class T>
__device__ void store(const LinearArgs& a, std::size_t row, std::size_t output, const float (&values)[4]) {
  if (a.float_output) {
    store(static_cast<float*>(a.y) + row * a.y_stride, output, a.w.outputs, values);
  } else {
    store(static_cast<T*>(a.y) + row * a.y_stride, output, a.w.outputs, values);
  }
}

// Results of a tile of outputs with 8 rows. Of lane 4 g + t: rows 2 t and 2 t + 1, outputs 4 g + j.
struct Sums {
  float values[2][4] = {};  // as products leave them

  __device__ float& at(int row, int j) { return values[j / 2][j % 2 * 2 + row]; }
};

// 8 rows' columns of a group as B: of lane 4 g + t row g, columns 8 t .. 8 t + 7.
template <class T>
struct RowsOfX {
  unsigned b[2][2];

  __device__ RowsOfX(const Quad& quad)  // NOLINT
      : b{{quad.values[0], quad.values[1]}, {quad.values[2], quad.values[3]}} {}

  // Of rows 2 t and 2 t + 1.
  __device__ float2 sums() const {
    constexpr unsigned kAllOnes[4] = {kOnes<T>, kOnes<T>, kOnes<T>, kOnes<T>};
    float c[4] = {};
    multiply_add<T>(c, kAllOnes, b[0]);
    multiply_add<T>(c, kAllOnes, b[1]);
    return make_float2(c[0], c[1]);
  }
};

// A group of a tile as A.
template <class T, class Part>
struct Weights {
  unsigned a[2][2][4];
  float scales[4], minima[4];

  __device__ explicit Weights(const Part& part) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int p = 0; p < 4; ++p) a[j / 2][p / 2][j % 2 + p % 2 * 2] = part.template pair<T>(j, p);
      if constexpr (Part::kHasScale) scales[j] = part.scale(j);
      if constexpr (Part::kHasMinimum) minima[j] = part.minimum(j);
    }
  }

  // `x_sums` counts only where weights have a minimum.
  __device__ void multiply_add_to(Sums& sums, const RowsOfX<T>& x, const float2& x_sums) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float(&sum)[4] = sums.values[half];
      if constexpr (!Part::kHasScale) {
        multiply_add<T>(sum, a[half][0], x.b[0]);
        multiply_add<T>(sum, a[half][1], x.b[1]);
      } else {
        float c[4] = {};
        multiply_add<T>(c, a[half][0], x.b[0]);
        multiply_add<T>(c, a[half][1], x.b[1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = 2 * half + i / 2;
          if constexpr (Part::kHasMinimum) sum[i] = __fmaf_rn(minima[j], i % 2 == 0 ? x_sums.x : x_sums.y, sum[i]);
          sum[i] = __fmaf_rn(scales[j], c[i], sum[i]);
        }
      }
    }
  }
};

// Decode. Block: some rows (x) of one tile of outputs (y); its warps take groups in turn. Blocks of the same weights
// run at the same time.
constexpr int kDecodeThreads = 256, kDecodeWarps = kDecodeThreads / kWarpLanes;

// Adds up what the warps have, in their order.
template <class T, int kRowTiles>
__device__ void combine(const LinearArgs& a, Sums (&sums)[kRowTiles], std::size_t first_row, int rows) {
  constexpr int kStride = kOutputs + 4;  // so that rows lie in different banks
  __shared__ __align__(16) float partials[kDecodeWarps][kRowTiles * kRowsOfTile][kStride];
  const int warp = threadIdx.x / kWarpLanes, g = threadIdx.x % kWarpLanes / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const Pack<float> four = {{sums[n].at(row, 0), sums[n].at(row, 1), sums[n].at(row, 2), sums[n].at(row, 3)}};
      four.store(partials[warp][kRowsOfTile * n + 2 * t + row], g);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * kOutputs / 4; i += kDecodeThreads) {
    const int row = i / (kOutputs / 4), four = i % (kOutputs / 4);
    float sum[4] = {};
    for (int w = 0; w < kDecodeWarps; ++w) {
      const Pack<float> partial = Pack<float>::load(partials[w][row], four);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += partial.values[j];
    }
    store<T>(a, first_row + row, blockIdx.y * kOutputs + 4 * four, sum);
  }
}

template <class T, WeightCode code, int kRowTiles>
__global__ void __launch_bounds__(kDecodeThreads, 2) multiply_rows(const __grid_constant__ LinearArgs a) {
  using P = Part<T, code>;
  constexpr unsigned kGroupBytes = device_group_bytes(code, kDTypeOf<T>);
  // Of a warp: groups that are under way together, as many as registers allow.
  constexpr int kAtOnce = code == WeightCode::Group4 ? (kRowTiles > 2 ? 2 : 4) : 2;
  const std::size_t first_row = static_cast<std::size_t>(blockIdx.x) * (kRowTiles * kRowsOfTile);
  const int rows = static_cast<int>(min(a.rows - first_row, static_cast<std::size_t>(kRowTiles * kRowsOfTile)));
  const unsigned groups = a.w.columns / kColumns;
  const int warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes, g = lane / 4, t = lane % 4;
  const std::byte* tile = tile_of<T, code>(a.w, blockIdx.y);

  // Rows beyond the last are the last one again: no result that is stored depends on them.
  const std::byte* x_of_rows = reinterpret_cast<const std::byte*>(row_of_x<T>(a, first_row));
  unsigned x_of_lane[kRowTiles];
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const unsigned row = min(kRowsOfTile * n + g, rows - 1);
    x_of_lane[n] = static_cast<unsigned>((row * a.x_stride + 8 * t) * sizeof(T));
  }

  Sums sums[kRowTiles];
  for (unsigned first = warp; first < groups; first += kAtOnce * kDecodeWarps) {
    P parts[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const unsigned group = first + i * kDecodeWarps;
      if (group < groups) parts[i] = P::template load<Reads::Once>(tile + group * kGroupBytes, lane);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const unsigned group = first + i * kDecodeWarps;
      if (group >= groups) break;
      const Weights<T, P> weights(parts[i]);
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        const RowsOfX<T> x =
            load_quad<Reads::Again>(x_of_rows + (x_of_lane[n] + group * static_cast<unsigned>(kColumns * sizeof(T))));
        weights.multiply_add_to(sums[n], x, P::kHasMinimum ? x.sums() : float2{});
      }
    }
  }
  combine<T>(a, sums, first_row, rows);
}

// The same in float32: a lane multiplies its part of the weights itself.
template <WeightCode code>
__global__ void __launch_bounds__(kDecodeThreads, 2) multiply_float_rows(const __grid_constant__ LinearArgs a) {
  using P = Part<float, code>;
  constexpr unsigned kGroupBytes = device_group_bytes(code, DType::F32);
  const std::size_t first_row = static_cast<std::size_t>(blockIdx.x) * kRowsOfTile;
  const int rows = static_cast<int>(min(a.rows - first_row, static_cast<std::size_t>(kRowsOfTile)));
  const unsigned groups = a.w.columns / kColumns;
  const int warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes, t = lane % 4;
  const std::byte* tile = tile_of<float, code>(a.w, blockIdx.y);

  float own[kRowsOfTile][4] = {};  // over this lane's columns
  for (unsigned group = warp; group < groups; group += kDecodeWarps) {
    const P part = P::template load<Reads::Again>(tile + group * kGroupBytes, lane);
    float weights[4][8];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 8; ++i) weights[j][i] = part.value(j, i);
    }
#pragma unroll
    for (int row = 0; row < kRowsOfTile; ++row) {
      if (row >= rows) break;
      const float* columns = row_of_x<float>(a, first_row + row) + group * kColumns + 8 * t;
      const Pack<float> x[2] = {Pack<float>::load(columns, 0), Pack<float>::load(columns, 1)};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) own[row][j] = __fmaf_rn(weights[j][i], x[i / 4].values[i % 4], own[row][j]);
      }
    }
  }
  Sums sums[1];
#pragma unroll
  for (int row = 0; row < kRowsOfTile; ++row) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float sum = lane_sum<4>(own[row][j]);
      if (row / 2 == t) sums[0].at(row % 2, j) = sum;
    }
  }
  combine<float>(a, sums, first_row, rows);
}

// Prefill. Block: rows of x (x) with tiles of outputs (y). Both pass through shared memory a group of columns at a
// time, as they are; a warp decodes the weights of its tile. Warps beyond the tiles share these and divide the rows.
constexpr int kPrefillThreads = 128, kPrefillWarps = kPrefillThreads / kWarpLanes;

template <class T, WeightCode code, int kRows, int kTiles>
struct Stage {
  T x[kRows][kColumns];
  alignas(16) std::byte weights[kTiles][device_group_bytes(code, kDTypeOf<T>)];
};

// kRowTiles are a warp's.
template <class T, WeightCode code, int kRowTiles, int kTiles>
__global__ void __launch_bounds__(kPrefillThreads, 2) multiply_tiles(const __grid_constant__ LinearArgs a) {
  using P = Part<T, code>;
  constexpr int kRowWarps = kPrefillWarps / kTiles, kRows = kRowWarps * kRowTiles * kRowsOfTile;
  constexpr int kPacks = kColumns / Pack<T>::kSize;
  constexpr unsigned kGroupBytes = device_group_bytes(code, kDTypeOf<T>), kGroupPacks = kGroupBytes / 16;
  constexpr unsigned kStages = kTiles == 1 ? 4 : 3;  // one that is multiplied, the others are on their way
  using S = Stage<T, code, kRows, kTiles>;
  __shared__ __align__(16) S stages[kStages];
  __shared__ __align__(8) float x_sums[2][kRows];
  const std::size_t first_row = static_cast<std::size_t>(blockIdx.x) * kRows;
  const int rows = static_cast<int>(min(a.rows - first_row, static_cast<std::size_t>(kRows)));
  const unsigned groups = a.w.columns / kColumns, tiles = divide_up(a.w.outputs, kOutputs);
  const int warp = threadIdx.x / kWarpLanes, lane = threadIdx.x % kWarpLanes, g = lane / 4, t = lane % 4;
  const unsigned first_tile = blockIdx.y * kTiles, tile = first_tile + warp % kTiles;
  const bool has_outputs = tile < tiles;  // a warp without any only helps to bring things

  const auto begin_stage = [&](unsigned group) {
    if (group < groups) {
      S& stage = stages[group % kStages];
      const unsigned stride = static_cast<unsigned>(a.x_stride), pack = threadIdx.x % kPacks * Pack<T>::kSize;
      const T* from = row_of_x<T>(a, first_row) + group * kColumns;
      // A lane brings what it needs itself for the sums of its warp's rows.
      static_assert(kPacks * kRowsOfTile == kWarpLanes);
#pragma unroll 1
      for (int row = threadIdx.x / kPacks; row < rows; row += kPrefillWarps * kRowsOfTile) {
        __pipeline_memcpy_async(&stage.x[row][pack], from + (row * stride + pack), sizeof(Pack<T>));
      }
      for (unsigned i = threadIdx.x; i < kTiles * kGroupPacks; i += kPrefillThreads) {
        const unsigned of_tile = i / kGroupPacks, at = i % kGroupPacks * 16;
        if (first_tile + of_tile >= tiles) break;
        const std::byte* weights = tile_of<T, code>(a.w, first_tile + of_tile) + group * kGroupBytes;
        __pipeline_memcpy_async(&stage.weights[of_tile][at], weights + at, 16);
      }
    }
    __pipeline_commit();
  };
  const auto rows_of_x = [&](unsigned group, int n) {
    return RowsOfX<T>(*reinterpret_cast<const Quad*>(&stages[group % kStages].x[kRowsOfTile * n + g][8 * t]));
  };
  const auto own_rows = [&](int n) { return kRowWarps * n + warp / kTiles; };

  for (unsigned group = 0; group < kStages - 1; ++group) begin_stage(group);
  Sums sums[kRowTiles];
  for (unsigned group = 0; group < groups; ++group) {
    __pipeline_wait_prior(kStages - 2);  // for what this thread has brought: others wait at the barrier
    if constexpr (P::kHasMinimum) {
#pragma unroll
      for (int first = 0; first < kRowWarps * kRowTiles; first += kPrefillWarps) {
        const float2 of_rows = rows_of_x(group, first + warp).sums();
        if (g == 0) {
          *reinterpret_cast<float2*>(&x_sums[group % 2][kRowsOfTile * (first + warp) + 2 * t]) = of_rows;
        }
      }
    }
    __syncthreads();
    begin_stage(group + kStages - 1);  // where the group before this one was
    if (!has_outputs) continue;
    const Weights<T, P> part(P::template load<Reads::Again>(stages[group % kStages].weights[warp % kTiles], lane));
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      float2 of_rows = {};
      if constexpr (P::kHasMinimum) {
        of_rows = *reinterpret_cast<const float2*>(&x_sums[group % 2][kRowsOfTile * own_rows(n) + 2 * t]);
      }
      part.multiply_add_to(sums[n], rows_of_x(group, own_rows(n)), of_rows);
    }
  }
  if (!has_outputs) return;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int own = kRowsOfTile * own_rows(n) + 2 * t + row;
      if (own >= rows) continue;
      const float results[4] = {sums[n].at(row, 0), sums[n].at(row, 1), sums[n].at(row, 2), sums[n].at(row, 3)};
      store<T>(a, first_row + own, tile * kOutputs + 4 * g, results);
    }
  }
}

template <class T, WeightCode code, int kRowTiles>
cudaError_t decode(const LinearArgs& args, cudaStream_t stream) {
  const dim3 grid(divide_up(args.rows, kRowTiles * kRowsOfTile), divide_up(args.w.outputs, kOutputs));
  const cudaLaunchConfig_t config = {grid, kDecodeThreads, 0, stream, nullptr, 0};
  if constexpr (sizeof(T) == 4) {
    return cudaLaunchKernelEx(&config, multiply_float_rows<code>, args);
  } else {
    return cudaLaunchKernelEx(&config, multiply_rows<T, code, kRowTiles>, args);
  }
}

// Blocks of prefill for so many tiles of rows and outputs.
template <int kRowTiles, int kTiles>
dim3 prefill_grid(const LinearArgs& args) {
  return {divide_up(args.rows, kPrefillWarps / kTiles * kRowTiles * kRowsOfTile),
          divide_up(args.w.outputs, kTiles * kOutputs)};
}

template <class T, WeightCode code, int kRowTiles, int kTiles>
cudaError_t prefill(const LinearArgs& args, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {prefill_grid<kRowTiles, kTiles>(args), kPrefillThreads, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, multiply_tiles<T, code, kRowTiles, kTiles>, args);
}

// Variants of a kernel give a row the same bits. Large blocks of prefill do less for each result, and are taken where
// there is one for each multiprocessor: 96 rows and 128 outputs, otherwise 64 and 32.
template <class T, WeightCode code>
cudaError_t launch(const LinearArgs& args, cudaStream_t stream) {
  if constexpr (sizeof(T) == 4) {
    return decode<T, code, 1>(args, stream);
  } else {
    constexpr std::size_t kMostDecodeRows = 32;
    const dim3 large = prefill_grid<12, 4>(args);
    const bool fills = std::size_t{large.x} * large.y >= args.multiprocessors;
    if (args.arithmetic == LinearArithmetic::Prefill ||
        (args.arithmetic == LinearArithmetic::Any && args.rows > kMostDecodeRows && fills)) {
      return fills ? prefill<T, code, 12, 4>(args, stream) : prefill<T, code, 2, 1>(args, stream);
    }
    if (args.rows <= 8) return decode<T, code, 1>(args, stream);
    return args.rows <= 16 ? decode<T, code, 2>(args, stream) : decode<T, code, 4>(args, stream);
  }
}

}  // namespace

cudaError_t linear(const LinearArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return with_type(args.dtype, [&](auto type) {
    return with_code(args.w.code, [&](auto code) { return launch<decltype(type), code()>(args, stream); });
  });
}

}  // namespace tiercel::kernels::cuda
