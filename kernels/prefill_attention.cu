// Tiles of queries stay in registers while tiles of K and V pass through shared memory (FlashAttention-2, Dao 2023).
#include <cmath>

#include <cuda_pipeline_primitives.h>

#include "kernels/prefill_attention_cuda.h"
#include "kernels/tensor_core.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpLanes;
constexpr int kWarpRows = 16, kTileRows = kWarps * kWarpRows;

// A row is one query head of one query token, all heads of a KV head side by side: they share its K and V.
template <class T>
struct Rows {
  const PrefillAttentionArgs& a;
  unsigned kv_head, group, count, first_query, first_position;

  __device__ unsigned position(unsigned row) const { return first_position + row / group; }
  __device__ const T* query(unsigned row) const {
    return static_cast<const T*>(a.q) + (first_query + row / group) * a.q_stride +
           head(row) * a.kv.layout.layout.head_dim;
  }
  __device__ T* out(unsigned row) const {
    return static_cast<T*>(a.out) + (first_query + row / group) * a.out_stride +
           head(row) * a.kv.layout.layout.head_dim;
  }
  __device__ std::size_t head(unsigned row) const { return kv_head * group + row % group; }
};

// Begins to copy K or V of up to kTile tokens; those from `end` on become zero. `head` is where block 0 would have this
// head's rows.
template <class T, int kHeadDim, int kTile, int kStride>
__device__ void begin_tile(T (&tile)[kTile][kStride], const PrefillAttentionArgs& a, const BlockId* table,
                           std::size_t head_offset, unsigned begin, unsigned end) {
  constexpr int kPacks = kHeadDim / Pack<T>::kSize;
  const CodedKvLayout& layout = a.kv.layout;
  for (int i = threadIdx.x; i < kTile * kPacks; i += kThreads) {
    const int row = i / kPacks, pack = i % kPacks;
    const unsigned token = begin + row;
    T* to = &tile[row][pack * Pack<T>::kSize];
    const std::byte* from = a.kv.arena + head_offset + pack * sizeof(Pack<T>);
    if (token < end) {
      from += table[token / layout.layout.block_tokens] * layout.block_bytes() +
              token % layout.layout.block_tokens * layout.row_bytes();
    }
    __pipeline_memcpy_async(to, from, sizeof(Pack<T>), token < end ? 0 : sizeof(Pack<T>));
  }
}

// Block: 64 rows (x) of one KV head (y) of one sequence (z).
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) attend_tile(const __grid_constant__ PrefillAttentionArgs a) {
  constexpr int kTile = kHeadDim > 128 ? 32 : 64;     // tokens of KV at once
  constexpr int kStride = kHeadDim + Pack<T>::kSize;  // so that 8 rows lie in different banks
  constexpr int kSteps = kHeadDim / 16;
  __shared__ __align__(16) T keys[kTile][kStride];
  __shared__ __align__(16) T values[kTile][kStride];

  const unsigned sequence = blockIdx.z, kv_head = blockIdx.y, group = a.group;
  const unsigned first_query = a.query_begins[sequence], queries = a.query_begins[sequence + 1] - first_query;
  const Rows<T> rows = {a, kv_head, group, queries * group, first_query, a.lengths[sequence] - queries};
  const unsigned tile = gridDim.x - 1 - blockIdx.x;  // the longest first, so that none is left at the end
  if (tile * kTileRows >= rows.count) return;
  const unsigned end = rows.position(min(tile * kTileRows + kTileRows, rows.count) - 1) + 1;
  const int lane = threadIdx.x % kWarpLanes, g = lane / 4, t = lane % 4;
  // Those of this lane: row g of its warp's, and row g + 8.
  unsigned own[2];
  for (int r = 0; r < 2; ++r) own[r] = tile * kTileRows + threadIdx.x / kWarpLanes * kWarpRows + g + 8 * r;

  const BlockId* table = a.block_tables + sequence * a.table_stride;
  const CodedKvLayout& layout = a.kv.layout;
  const std::size_t key_offset = a.kv.layer * layout.layer_stride() + kv_head * layout.head_stride();
  const std::size_t value_offset = key_offset + layout.value_offset();
  begin_tile<T, kHeadDim>(keys, a, table, key_offset, 0, end);
  __pipeline_commit();
  begin_tile<T, kHeadDim>(values, a, table, value_offset, 0, end);
  __pipeline_commit();

  unsigned q[kSteps][4];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      q[step][r] = own[r % 2] < rows.count ? load_pair(rows.query(own[r % 2]) + 16 * step + 8 * (r / 2) + 2 * t) : 0;
    }
  }
  float sums[kHeadDim / 8][4] = {};
  float maximum[2] = {kLowest, kLowest}, weight[2] = {};  // the weight of this lane's tokens alone

  for (unsigned begin = 0; begin < end; begin += kTile) {
    __pipeline_wait_prior(1);  // for the keys; values may still be on their way
    __syncthreads();
    float scores[kTile / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const T* key = &keys[8 * n + g][16 * step + 2 * t];
        const unsigned b[2] = {load_pair(key), load_pair(key + 8)};
        multiply_add<T>(scores[n], q[step], b);
      }
    }
    __syncthreads();
    if (begin + kTile < end) begin_tile<T, kHeadDim>(keys, a, table, key_offset, begin + kTile, end);
    __pipeline_commit();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = maximum[r];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          const bool seen = begin + 8 * n + 2 * t + i % 2 <= rows.position(own[r]);
          scores[n][i] = seen ? scores[n][i] * (a.scale * kLog2E) : -INFINITY;
          top = fmaxf(top, scores[n][i]);
        }
      }
      top = lane_max<4>(top);
      const float factor = exp2f(maximum[r] - top);
      maximum[r] = top;
      weight[r] *= factor;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        sums[n][2 * r] *= factor;
        sums[n][2 * r + 1] *= factor;
      }
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          scores[n][i] = exp2f(scores[n][i] - top);
          weight[r] += scores[n][i];
        }
      }
    }

    __pipeline_wait_prior(1);  // for the values
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      // What one product leaves in a lane's registers is where the next one wants it.
      const float(&left)[4] = scores[2 * step];
      const float(&right)[4] = scores[2 * step + 1];
      const unsigned weights[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                                   pack<T>(right[2], right[3])};
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        unsigned b[2];
        load_rows(b, &values[16 * step][8 * n], kStride);
        multiply_add<T>(sums[n], weights, b);
      }
    }
    __syncthreads();
    if (begin + kTile < end) begin_tile<T, kHeadDim>(values, a, table, value_offset, begin + kTile, end);
    __pipeline_commit();
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float inverse = 1.0f / lane_sum<4>(weight[r]);
    if (own[r] >= rows.count) continue;
    T* out = rows.out(own[r]);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      *reinterpret_cast<unsigned*>(out + 8 * n + 2 * t) =
          pack<T>(sums[n][2 * r] * inverse, sums[n][2 * r + 1] * inverse);
    }
  }
}

}  // namespace

cudaError_t prefill_attention(const PrefillAttentionArgs& args, cudaStream_t stream) {
  const CodedKvLayout& layout = args.kv.layout;
  if (layout.code != KvCode::Plain) return cudaErrorNotSupported;
  return with_type(layout.layout.dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      return with_head_dim(layout.layout.head_dim, [&](auto head_dim) {
        const auto rows = static_cast<unsigned>(args.most_queries * args.group);
        const cudaLaunchConfig_t config = {
            {divide_up(rows, kTileRows), layout.layout.kv_heads, static_cast<unsigned>(args.sequences)},
            kThreads,
            0,
            stream,
            nullptr,
            0};
        return cudaLaunchKernelEx(&config, attend_tile<T, decltype(head_dim)::value>, args);
      });
    } else {
      return cudaErrorNotSupported;
    }
  });
}

}  // namespace tiercel::kernels::cuda
