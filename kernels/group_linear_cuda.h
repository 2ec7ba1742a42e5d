// y = x W^T on a GPU, for weights as the file has them (device_weights.h): the CUDA counterpart of group_linear() and
// group_linear_bf16().
//
// Activations of f16 and bf16 are multiplied by tensor cores with nibbles and bytes, which are exact in both, and
// summed in float32; a group's scale and minimum are applied to its sum in float32. Activations of f32 are multiplied
// in float32 with weights in float32, without tensor cores.
//
// There are two kernels. Decode reads the weights once for up to 32 rows, with each tile's columns split among the
// warps of a block, always in the same way; prefill multiplies blocks of 96 or 64 rows and adds columns in their order.
// Each by itself gives a row the same bits whatever other rows there are; the two differ by float32 rounding. For f32
// both are the same kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/device_weights.h"

namespace tiercel::kernels::cuda {

// As Arithmetic of model/model_runner.h.
enum class LinearArithmetic : std::uint8_t {
  Any,      // the one that is estimated to be faster
  Prefill,  // the one that is named, for any number of rows
  Decode,
};

// All pointers are device memory. Rows of x begin at multiples of 16 bytes; those of y anywhere, but stores are
// fewer where they begin at multiples of 4 elements.
struct LinearArgs {
  DType dtype = DType::BF16;  // of x, of y, and of Plain weights
  DeviceWeights w;
  const void* x = nullptr;  // [rows][x_stride], strides in elements
  std::size_t x_stride = 0;
  std::size_t rows = 0;  // 0: nothing is done
  void* y = nullptr;     // [rows][y_stride], w.outputs of each row are written; does not overlap x
  std::size_t y_stride = 0;
  bool float_output = false;  // y is float32, as logits are
  LinearArithmetic arithmetic = LinearArithmetic::Any;
  std::size_t multiprocessors = 128;  // of the device, more or less: prefill's blocks are to be as many at least
};

// One kernel on `stream`. No workspace.
cudaError_t linear(const LinearArgs& args, cudaStream_t stream);

}  // namespace tiercel::kernels::cuda
