// Kernels with defects. defects_test.cc names the lines that are marked here.
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include "tests/cuemu/test_kernels.h"

namespace cuemu {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void defective(const Defect defect, float* all_values) {
  __shared__ float shared[64];
  extern __shared__ float dynamic[];
  const unsigned thread = threadIdx.x, lane = thread % 32;
  float* values = all_values + 64 * blockIdx.x;
  const bool overflow = thread == 63;
  shared[thread] = values[thread];
  if (defect != Defect::MissingBarrier) __syncthreads();
  values[thread] = shared[63 - thread];  // MissingBarrier

  if (defect == Defect::MissingWarpSync || defect == Defect::None) {
    __syncthreads();
    shared[thread] = 1;
    if (defect != Defect::MissingWarpSync) __syncwarp();
    values[thread] += shared[thread ^ 1u];  // MissingWarpSync
  }
  if (defect == Defect::DivergentBarrier && thread < 40) __syncthreads();  // DivergentBarrier
  if (defect == Defect::BarrierAfterReturn) {
    if (thread == 3) return;
    __syncthreads();  // BarrierAfterReturn
  }
  if (defect == Defect::DifferentBarriers) {
    if (thread < 32) {
      __syncthreads();  // DifferentBarriers
    } else {
      __syncthreads();
    }
  }
  if (defect == Defect::MaskWithoutCaller) {
    __shfl_sync(0xfffffff7u, lane, 0);  // MaskWithoutCaller
  }
  if (defect == Defect::MaskWithReturnedLane) {
    if (lane == 5) return;
    __ballot_sync(kAll, 1);  // MaskWithReturnedLane
  }
  if (defect == Defect::LanesDisagree) {
    if (lane < 8) {
      __syncwarp(0xffffu);  // LanesDisagree
    } else {
      __syncwarp(kAll);
    }
  }
  if (defect == Defect::ReadsLaneOutsideMask && lane < 16) {
    __shfl_sync(0xffffu, lane, 17);  // ReadsLaneOutsideMask
  }
  if (defect == Defect::MaskBeyondBlock) {
    __ballot_sync(kAll, 1);  // MaskBeyondBlock
  }
  if (defect == Defect::GlobalOverflow) values[thread + (overflow ? 1 : 0)] = 1;  // GlobalOverflow
  if (defect == Defect::SharedOverflow) {
    float* at = shared;
    at[thread + (overflow ? 1 : 0)] = 1;  // SharedOverflow
  }
  if (defect == Defect::DynamicSharedOverflow) dynamic[thread + (overflow ? 1 : 0)] = 1;  // DynamicSharedOverflow
  if (defect == Defect::UninitialisedShared) values[thread] = dynamic[thread];
  if (defect == Defect::BlocksShareGlobal) all_values[thread] = static_cast<float>(blockIdx.x);  // BlocksShareGlobal
  if (defect == Defect::Misaligned && thread == 0) {
    values[0] = reinterpret_cast<const float4*>(values + 1)->x;  // Misaligned
  }
  if (defect == Defect::CopyWithoutWait || defect == Defect::CopyWithoutBarrier) {
    __pipeline_memcpy_async(&dynamic[thread], &values[thread], sizeof(float));
    __pipeline_commit();
    if (defect != Defect::CopyWithoutWait) __pipeline_wait_prior(0);
    shared[thread] = dynamic[thread ^ 1u];  // CopyWithoutBarrier
  }
}

}  // namespace

cudaError_t run_defect(Defect defect, float* values, cudaStream_t stream) {
  const unsigned blocks = defect == Defect::BlocksShareGlobal ? 2 : 1,
                 threads = defect == Defect::MaskBeyondBlock ? 48 : 64;
  const cudaLaunchConfig_t config = {blocks, threads, 64 * sizeof(float), stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, defective, defect, values);
}

}  // namespace cuemu
