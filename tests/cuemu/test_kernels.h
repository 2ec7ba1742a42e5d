// The kernels that the emulator is tested with: what they compute, and the defects that they have.
#pragma once

#include <cuda_runtime_api.h>

namespace cuemu {

// language_kernels.cu. Results are checked in language_test.cc.
struct Results {
  int* indices;              // [grid][block]: the linear index of each thread in the grid
  int* reversed;             // [grid][block]: the block's values back to front, through shared memory
  unsigned* lanes;           // [block][16]: what warp operations gave each thread
  int* barrier_results;      // [block][3]: count, and, or
  unsigned long long* sums;  // [8]: of atomics over all threads
};
cudaError_t run_language(const Results& results, dim3 grid, dim3 block, cudaStream_t stream);
// One block of `count` threads: to[i] = from[count - 1 - i], through dynamic shared memory.
cudaError_t run_reverse(const int* from, int* to, unsigned count, cudaStream_t stream);
// to[i] = from[i] + 1.
cudaError_t run_increment(const int* from, int* to, unsigned count, cudaStream_t stream);
// Writes the index of the block that came last to *last.
cudaError_t run_last_block(unsigned blocks, unsigned* last, cudaStream_t stream);
// to[i] = sqrt of from[i], 4 values at once; `from` and `to` 16-byte aligned.
cudaError_t run_vector_roots(const float* from, float* to, unsigned count, cudaStream_t stream);

// defective_kernels.cu: each is wrong in the way that it is named for.
enum class Defect {
  None,
  MissingBarrier,
  MissingWarpSync,
  DivergentBarrier,
  BarrierAfterReturn,
  DifferentBarriers,
  MaskWithoutCaller,
  MaskWithReturnedLane,
  LanesDisagree,
  ReadsLaneOutsideMask,
  MaskBeyondBlock,
  GlobalOverflow,
  SharedOverflow,
  DynamicSharedOverflow,
  UninitialisedShared,
  BlocksShareGlobal,
  Misaligned,
  CopyWithoutWait,
  CopyWithoutBarrier,
};
// One block of 64 threads, two for BlocksShareGlobal; `values` has as many floats.
cudaError_t run_defect(Defect defect, float* values, cudaStream_t stream);

}  // namespace cuemu
