#include <cuda_fp8.h>

#include "kernels/cuda_values.h"
#include "kernels/kv_append_cuda.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpLanes;

// A warp holds one row of one head: pair p of it, values 2p and 2p + 1, is of lane p % 32.
template <int kHeadDim>
struct Row {
  static constexpr int kPairs = kHeadDim / 2;
  static constexpr int kPerLane = (kPairs + kWarpLanes - 1) / kWarpLanes;
  float first[kPerLane], second[kPerLane];

  // Calls f(index of the pair, first, second) for each pair of this lane.
  template <class Function>
  __device__ void for_each(int lane, const Function& f) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int pair = i * kWarpLanes + lane;
      if (pair < kPairs) f(pair, first[i], second[i]);
    }
  }
};

__device__ unsigned short bf16_not_below(float value) {  // of a value that is not negative
  return static_cast<unsigned short>((__float_as_uint(value) + 0xffffu) >> 16);
}
__device__ unsigned short bf16_not_above(float value) {
  const unsigned bits = __float_as_uint(value);
  return static_cast<unsigned short>((bits + (bits >> 31) * 0xffffu) >> 16);
}
__device__ float from_bf16(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
__device__ unsigned short scale_of(float exact) { return exact < kLeastCodeScale ? 0 : bf16_not_below(exact); }
__device__ float inverse_of(unsigned short scale) { return scale == 0 ? 0.0f : 1.0f / from_bf16(scale); }

template <class T, int kHeadDim>
__device__ void store_plain(Row<kHeadDim>& row, int lane, std::byte* to) {
  row.for_each(lane, [&](int pair, float a, float b) {
    T* at = reinterpret_cast<T*>(to) + 2 * pair;
    at[0] = from_float<T>(a);
    at[1] = from_float<T>(b);
  });
}

template <int kHeadDim>
__device__ void store_bytes(Row<kHeadDim>& row, int lane, KvCode code, std::byte* to, unsigned short* scales) {
  float most = 0;
  row.for_each(lane, [&](int, float a, float b) { most = fmaxf(most, fmaxf(fabsf(a), fabsf(b))); });
  most = lane_max(most);
  const unsigned short scale = scale_of(most / (code == KvCode::Int8 ? 127.0f : kLargestE4M3));
  if (lane == 0) scales[0] = scale;
  const float inverse = inverse_of(scale);
  const auto encode = [&](float value) {
    if (code == KvCode::Int8) return static_cast<unsigned char>(__float2int_rn(value * inverse));
    return static_cast<unsigned char>(__nv_cvt_float_to_fp8(value * inverse, __NV_SATFINITE, __NV_E4M3));
  };
  row.for_each(lane, [&](int pair, float a, float b) {
    reinterpret_cast<uchar2*>(to)[pair] = make_uchar2(encode(a), encode(b));
  });
}

template <int kHeadDim>
__device__ void store_nibbles(Row<kHeadDim>& row, int lane, std::byte* to, unsigned short* scales) {
  constexpr int kHalf = kHeadDim / 4;  // pairs of half a row
  float minimums[2], inverses[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float lowest = 3e38f, highest = -3e38f;
    row.for_each(lane, [&](int pair, float a, float b) {
      if (pair / kHalf != half) return;
      lowest = fminf(lowest, fminf(a, b));
      highest = fmaxf(highest, fmaxf(a, b));
    });
    const unsigned short minimum = bf16_not_above(-lane_max(-lowest));
    const unsigned short scale = scale_of((lane_max(highest) - from_bf16(minimum)) / 15);
    if (lane == 0) {
      scales[2 * half] = scale;
      scales[2 * half + 1] = minimum;
    }
    minimums[half] = from_bf16(minimum);
    inverses[half] = inverse_of(scale);
  }
  row.for_each(lane, [&](int pair, float a, float b) {
    const bool upper = pair >= kHalf;
    const float minimum = upper ? minimums[1] : minimums[0], inverse = upper ? inverses[1] : inverses[0];
    const int low = __float2int_rn((a - minimum) * inverse), high = __float2int_rn((b - minimum) * inverse);
    to[pair] = static_cast<std::byte>(low | high << 4);
  });
}

// A warp: one head of one token (y), of the queries', then the keys', then the values'.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) append(const __grid_constant__ KvAppendArgs a) {
  const unsigned token = blockIdx.y, head = blockIdx.x * kWarps + threadIdx.x / kWarpLanes;
  const unsigned queries = a.query_heads, kv_heads = a.kv.layout.layout.kv_heads;
  if (head >= queries + 2 * kv_heads) return;  // a whole warp
  const int lane = threadIdx.x % kWarpLanes;
  const bool is_query = head < queries, is_value = head >= queries + kv_heads;
  const unsigned kv_head = is_value ? head - queries - kv_heads : head - queries;
  const T* from = is_query ? static_cast<const T*>(a.q) + token * a.q_stride + head * kHeadDim
                           : static_cast<const T*>(is_value ? a.v : a.k) + token * a.kv_stride + kv_head * kHeadDim;

  Row<kHeadDim> row;
  const float* angles = a.cos_sin + a.positions[token] * a.pairs * 2;
#pragma unroll
  for (int i = 0; i < Row<kHeadDim>::kPerLane; ++i) {
    const int pair = i * kWarpLanes + lane;
    if (pair >= Row<kHeadDim>::kPairs) continue;
    const float x = to_float(from[2 * pair]), y = to_float(from[2 * pair + 1]);
    const bool turns = !is_value && pair < static_cast<int>(a.pairs);
    const float c = turns ? angles[2 * pair] : 1.0f, s = turns ? angles[2 * pair + 1] : 0.0f;
    row.first[i] = turns ? x * c - y * s : x;
    row.second[i] = turns ? x * s + y * c : y;
  }
  if (is_query) {
    store_plain<T>(row, lane,
                   reinterpret_cast<std::byte*>(static_cast<T*>(a.q) + token * a.q_stride + head * kHeadDim));
    return;
  }

  const CodedKvLayout& layout = a.kv.layout;
  const unsigned slot = a.slots[token], tokens = layout.layout.block_tokens;
  std::byte* block_head = a.kv.arena + slot / tokens * layout.block_bytes() + a.kv.layer * layout.layer_stride() +
                          (is_value ? layout.value_offset() : 0) + kv_head * layout.head_stride();
  std::byte* to = block_head + slot % tokens * layout.row_bytes();
  auto* scales =
      reinterpret_cast<unsigned short*>(block_head + layout.scale_offset() + slot % tokens * layout.scale_bytes());
  if (layout.code == KvCode::Plain) {
    store_plain<T>(row, lane, to);
  } else if (layout.code == KvCode::Int4) {
    store_nibbles(row, lane, to, scales);
  } else {
    store_bytes(row, lane, layout.code, to, scales);
  }
}

}  // namespace

cudaError_t kv_append(const KvAppendArgs& args, cudaStream_t stream) {
  return with_type(args.kv.layout.layout.dtype, [&](auto type) {
    return with_head_dim(args.kv.layout.layout.head_dim, [&](auto head_dim) {
      const unsigned heads = static_cast<unsigned>(args.query_heads) + 2 * args.kv.layout.layout.kv_heads;
      const cudaLaunchConfig_t config = {
          {divide_up(heads, kWarps), static_cast<unsigned>(args.tokens)}, kThreads, 0, stream, nullptr, 0};
      return cudaLaunchKernelEx(&config, append<decltype(type), decltype(head_dim)::value>, args);
    });
  });
}

}  // namespace tiercel::kernels::cuda
