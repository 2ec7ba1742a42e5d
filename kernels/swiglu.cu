#include "kernels/cuda_values.h"
#include "kernels/row_kernels_cuda.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// A thread for each 16 bytes of a row's result; rows along y.
template <class T>
__global__ void __launch_bounds__(kThreads) gate(const __grid_constant__ SwigluArgs a) {
  const int p = blockIdx.x * kThreads + threadIdx.x, packs = static_cast<int>(a.width) / Pack<T>::kSize;
  if (p >= packs) return;
  for (std::size_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    const T* gates = static_cast<const T*>(a.gate_up) + row * 2 * a.width;
    Pack<T> result = Pack<T>::load(gates, p);
    const Pack<T> up = Pack<T>::load(gates + a.width, p);
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const float x = to_float(result.values[i]);
      result.values[i] = from_float<T>(x / (1.0f + __expf(-x)) * to_float(up.values[i]));
    }
    result.store(static_cast<T*>(a.out) + row * a.width, p);
  }
}

}  // namespace

cudaError_t swiglu(const SwigluArgs& args, cudaStream_t stream) {
  return with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    const unsigned packs = static_cast<unsigned>(args.width) / Pack<T>::kSize;
    const unsigned rows = args.rows < 65535 ? static_cast<unsigned>(args.rows) : 65535u;
    const cudaLaunchConfig_t config = {{divide_up(packs, kThreads), rows}, kThreads, 0, stream, nullptr, 0};
    return cudaLaunchKernelEx(&config, gate<T>, args);
  });
}

}  // namespace tiercel::kernels::cuda
