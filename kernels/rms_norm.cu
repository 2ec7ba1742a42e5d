#include "kernels/cuda_values.h"
#include "kernels/row_kernels_cuda.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpLanes;

// Block: one row. The sum of squares is taken from the values as they are stored, so that it does not matter to the
// next kernel whether a residual came in here or before.
template <class T>
__global__ void __launch_bounds__(kThreads) normalise(const __grid_constant__ RmsNormArgs a) {
  __shared__ float warp_sums[kWarps];
  const int packs = static_cast<int>(a.width) / Pack<T>::kSize;
  T* x = static_cast<T*>(a.x) + blockIdx.x * a.width;
  const T* residual = static_cast<const T*>(a.residual) + blockIdx.x * a.width;

  float squares = 0;
  for (int p = threadIdx.x; p < packs; p += kThreads) {
    Pack<T> pack = Pack<T>::load(x, p);
    if (a.residual != nullptr) {
      const Pack<T> added = Pack<T>::load(residual, p);
      for (int i = 0; i < Pack<T>::kSize; ++i) {
        pack.values[i] = from_float<T>(to_float(pack.values[i]) + to_float(added.values[i]));
      }
      pack.store(x, p);
    }
    for (const T value : pack.values) squares += to_float(value) * to_float(value);
  }
  squares = lane_sum(squares);
  if (threadIdx.x % kWarpLanes == 0) warp_sums[threadIdx.x / kWarpLanes] = squares;
  __syncthreads();
  squares = 0;
  for (const float sum : warp_sums) squares += sum;

  const float scale = rsqrtf(squares / static_cast<float>(a.width) + a.epsilon);
  T* out = static_cast<T*>(a.out) + blockIdx.x * a.width;
  for (int p = threadIdx.x; p < packs; p += kThreads) {
    Pack<T> pack = Pack<T>::load(x, p);  // what this thread has just had: from cache
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      pack.values[i] = from_float<T>(to_float(pack.values[i]) * scale * a.weight[p * Pack<T>::kSize + i]);
    }
    pack.store(out, p);
  }
}

}  // namespace

cudaError_t rms_norm(const RmsNormArgs& args, cudaStream_t stream) {
  return with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    const cudaLaunchConfig_t config = {static_cast<unsigned>(args.rows), kThreads, 0, stream, nullptr, 0};
    return cudaLaunchKernelEx(&config, normalise<T>, args);
  });
}

}  // namespace tiercel::kernels::cuda
