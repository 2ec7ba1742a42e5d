#include "kernels/embedding_cuda.h"

#include "kernels/weight_parts.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// A thread for 8 columns (x) of a row (y): what a lane has of them in group_linear.cu, and of that one output.
template <class T, WeightCode code>
__global__ void __launch_bounds__(kThreads) embed_rows(const __grid_constant__ EmbeddingArgs a) {
  using P = Part<T, code>;
  constexpr int kColumns = 8, kPacks = kColumns / Pack<T>::kSize;
  const unsigned eight = blockIdx.x * kThreads + threadIdx.x;
  if (eight * kColumns >= a.table.columns) return;
  for (std::size_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    const unsigned token = a.tokens[row];
    const int output = token % kDeviceTileOutputs;
    const std::byte* group =
        tile_of<T, code>(a.table, token / kDeviceTileOutputs) + eight / 4 * device_group_bytes(code, kDTypeOf<T>);
    const P part = P::template load<Reads::Again>(group, output / 4 * 4 + eight % 4);
    Pack<T> packs[kPacks];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (output % 4 != j) continue;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        packs[i / Pack<T>::kSize].values[i % Pack<T>::kSize] = from_float<T>(part.value(j, i));
      }
    }
    T* out = static_cast<T*>(a.out) + row * a.out_stride + eight * kColumns;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) packs[p].store(out, p);
  }
}

// A thread for 16 bytes (x) of a row (y).
template <class T>
__global__ void __launch_bounds__(kThreads) copy_rows(const __grid_constant__ GatherRowsArgs a) {
  const int pack = blockIdx.x * kThreads + threadIdx.x;
  if (pack * static_cast<std::size_t>(Pack<T>::kSize) >= a.width) return;
  for (std::size_t i = blockIdx.y; i < a.count; i += gridDim.y) {
    const T* from = static_cast<const T*>(a.from) + a.rows[i] * a.from_stride;
    Pack<T>::load(from, pack).store(static_cast<T*>(a.to) + i * a.to_stride, pack);
  }
}

template <class Args>
cudaError_t launch(void (*kernel)(Args), const Args& args, std::size_t pieces, std::size_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const dim3 grid(divide_up(pieces, kThreads), rows < 65535 ? rows : 65535);
  const cudaLaunchConfig_t config = {grid, kThreads, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace

cudaError_t embed(const EmbeddingArgs& args, cudaStream_t stream) {
  return with_type(args.dtype, [&](auto type) {
    return with_code(args.table.code, [&](auto code) {
      return launch(embed_rows<decltype(type), code()>, args, args.table.columns / 8, args.rows, stream);
    });
  });
}

cudaError_t gather_rows(const GatherRowsArgs& args, cudaStream_t stream) {
  return with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    return launch(copy_rows<T>, args, args.width / Pack<T>::kSize, args.count, stream);
  });
}

}  // namespace tiercel::kernels::cuda
