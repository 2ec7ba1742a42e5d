#include <cmath>

#include <cuda_fp8.h>

#include "kernels/cuda_values.h"
#include "kernels/decode_attention_cuda.h"

namespace tiercel::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpLanes;
constexpr int kSplitTokens = 256;  // fixed, so that a row's arithmetic does not depend on the batch

struct Params {
  DecodeAttentionArgs args;
  unsigned splits;  // of the longest row
};

// How rows of KV lie in memory: a load of a few values, what it takes to read them, and they as floats.
template <class T>
struct PlainRow {
  static constexpr int kSize = Pack<T>::kSize;
  using Load = Pack<T>;
  struct Scale {};
  __device__ static Load load(const std::byte* row, int index) {
    return Load::load(reinterpret_cast<const T*>(row), index);
  }
  __device__ static Scale scale(const std::byte*, bool) { return {}; }
  __device__ static float value(const Load& load, const Scale&, int i) { return to_float(load.values[i]); }
};

__device__ float from_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

struct ByteRow {
  static constexpr int kSize = 8;
  struct alignas(8) Load {
    unsigned char codes[kSize];
  };
  using Scale = float;
  __device__ static Load load(const std::byte* row, int index) { return reinterpret_cast<const Load*>(row)[index]; }
  __device__ static Scale scale(const std::byte* scales, bool) {
    return from_bf16(*reinterpret_cast<const unsigned short*>(scales));
  }
};
struct Int8Row : ByteRow {
  __device__ static float value(const Load& load, const Scale& scale, int i) {
    return static_cast<float>(static_cast<signed char>(load.codes[i])) * scale;
  }
};
struct Fp8Row : ByteRow {
  __device__ static float value(const Load& load, const Scale& scale, int i) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(load.codes[i], __NV_E4M3))) * scale;
  }
};
struct Int4Row {
  static constexpr int kSize = 8;
  using Load = unsigned;
  struct Scale {
    float scale, minimum;
  };
  __device__ static Load load(const std::byte* row, int index) { return reinterpret_cast<const Load*>(row)[index]; }
  __device__ static Scale scale(const std::byte* scales, bool upper_half) {
    const unsigned both = reinterpret_cast<const unsigned*>(scales)[upper_half];
    return {from_bf16(both & 0xffffu), from_bf16(both >> 16)};
  }
  __device__ static float value(const Load& load, const Scale& scale, int i) {
    return static_cast<float>(load >> 4 * i & 15u) * scale.scale + scale.minimum;
  }
};

// A row of head_dim values is held by a slot: neighbouring lanes of a warp, a power of two of them.
template <class Row, int kHeadDim>
struct Slot {
  static constexpr int kLoads = kHeadDim / Row::kSize;
  static constexpr int kLanes = kLoads > 16 ? 32 : kLoads > 8 ? 16 : 8;
  static constexpr int kLoadsPerLane = (kLoads + kLanes - 1) / kLanes;
  static constexpr int kValues = kLoadsPerLane * Row::kSize;  // of a lane

  // Where value i of a lane stands in the row; beyond its end for lanes that hold nothing there.
  __device__ static int position(int lane, int i) {
    return (i / Row::kSize * kLanes + lane) * Row::kSize + i % Row::kSize;
  }

  // A lane's part of one row.
  struct Part {
    typename Row::Load loads[kLoadsPerLane];
    typename Row::Scale scales[kLoadsPerLane];

    __device__ void load(const std::byte* row, const std::byte* row_scales, int lane) {
#pragma unroll
      for (int i = 0; i < kLoadsPerLane; ++i) {
        const int index = i * kLanes + lane;
        if (index >= kLoads) continue;
        loads[i] = Row::load(row, index);
        scales[i] = Row::scale(row_scales, index >= kLoads / 2);
      }
    }
    __device__ float value(int i) const {
      return Row::value(loads[i / Row::kSize], scales[i / Row::kSize], i % Row::kSize);
    }
  };
};

// The softmax of one query head over some tokens: results of disjoint sets of tokens can be put together.
template <int kValues>
struct Partial {
  float maximum = kLowest, weight = 0;
  float sums[kValues] = {};

  __device__ void rescale(float top) {
    const float factor = exp2f(maximum - top);
    maximum = top;
    weight *= factor;
    for (float& sum : sums) sum *= factor;
  }
};

// Where one split's result of one query head is kept: maximum, weight, then head_dim sums.
__device__ float* partial_of(const Params& p, unsigned row, unsigned head, unsigned split) {
  const KvLayout& layout = p.args.kv.layout.layout;
  const std::size_t heads = layout.kv_heads * p.args.group;
  return p.args.workspace + ((row * heads + head) * p.splits + split) * (layout.head_dim + 2);
}

// Block: split x of row z, for the query heads of one KV head, kHeads of them at a time (y).
template <class T, class Row, int kHeadDim, int kHeads>
__global__ void __launch_bounds__(kThreads, 1) attend_split(const __grid_constant__ Params p) {
  using S = Slot<Row, kHeadDim>;
  constexpr int kSlots = kThreads / S::kLanes;
  // Of a slot: loads that are under way together, as many as registers allow.
  constexpr int kTokensAtOnce = kHeads * S::kValues > 48 ? 2 : 4;
  __shared__ float sums[kWarps][kHeads][kHeadDim];
  __shared__ float maxima[kWarps][kHeads];
  __shared__ float weights[kWarps][kHeads];

  const DecodeAttentionArgs& a = p.args;
  const CodedKvLayout& layout = a.kv.layout;
  const unsigned block_tokens = layout.layout.block_tokens;
  const unsigned row = blockIdx.z, split = blockIdx.x, length = a.lengths[row];
  const unsigned begin = split * kSplitTokens;
  if (begin >= length) return;
  const unsigned end = min(begin + kSplitTokens, length);
  const unsigned tiles = divide_up(a.group, kHeads), kv_head = blockIdx.y / tiles,
                 first_in_group = blockIdx.y % tiles * kHeads;
  const unsigned first_head = kv_head * a.group + first_in_group;
  const int heads = min(static_cast<int>(a.group - first_in_group), kHeads);
  const int thread = threadIdx.x, lane = thread % S::kLanes, slot = thread / S::kLanes;

  float q[kHeads][S::kValues];
  Partial<S::kValues> partial[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const T* query = static_cast<const T*>(a.q) + row * a.q_stride + (first_head + h) * kHeadDim;
#pragma unroll
    for (int i = 0; i < S::kValues; ++i) {
      const int position = S::position(lane, i);
      q[h][i] = h < heads && position < kHeadDim ? to_float(query[position]) * (a.scale * kLog2E) : 0.0f;
    }
  }

  const BlockId* table = a.block_tables + (a.row_sequences == nullptr ? row : a.row_sequences[row]) * a.table_stride;
  const std::size_t head_offset = a.kv.layer * layout.layer_stride() + kv_head * layout.head_stride();
  for (unsigned first = begin; first < end; first += kTokensAtOnce * kSlots) {
    typename S::Part keys[kTokensAtOnce] = {}, values[kTokensAtOnce] = {};
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) {
      const unsigned token = first + t * kSlots + slot;
      if (token >= end) continue;
      const std::byte* head = a.kv.arena + table[token / block_tokens] * layout.block_bytes() + head_offset;
      const std::size_t codes = token % block_tokens * layout.row_bytes();
      const std::size_t scales = layout.scale_offset() + token % block_tokens * layout.scale_bytes();
      keys[t].load(head + codes, head + scales, lane);
      head += layout.value_offset();
      values[t].load(head + codes, head + scales, lane);
    }
    float scores[kHeads][kTokensAtOnce] = {};
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) {
#pragma unroll
      for (int i = 0; i < S::kValues; ++i) {
        const float key = keys[t].value(i);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) scores[h][t] += q[h][i] * key;
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float top = partial[h].maximum;
#pragma unroll
      for (int t = 0; t < kTokensAtOnce; ++t) {
        scores[h][t] = lane_sum<S::kLanes>(scores[h][t]);
        if (first + t * kSlots + slot >= end) scores[h][t] = -INFINITY;
        top = fmaxf(top, scores[h][t]);
      }
      partial[h].rescale(top);
#pragma unroll
      for (int t = 0; t < kTokensAtOnce; ++t) {
        scores[h][t] = exp2f(scores[h][t] - top);
        partial[h].weight += scores[h][t];
      }
    }
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) {
#pragma unroll
      for (int i = 0; i < S::kValues; ++i) {
        const float value = values[t].value(i);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) partial[h].sums[i] += scores[h][t] * value;
      }
    }
  }

  // Slots of a warp are put together by shuffles, warps through shared memory.
  const int warp = thread / kWarpLanes;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int distance = S::kLanes; distance < kWarpLanes; distance *= 2) {
      partial[h].rescale(fmaxf(partial[h].maximum, __shfl_xor_sync(kAllLanes, partial[h].maximum, distance)));
      partial[h].weight += __shfl_xor_sync(kAllLanes, partial[h].weight, distance);
#pragma unroll
      for (float& sum : partial[h].sums) sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    if (thread % kWarpLanes < S::kLanes) {
#pragma unroll
      for (int i = 0; i < S::kValues; ++i) {
        const int position = S::position(lane, i);
        if (position < kHeadDim) sums[warp][h][position] = partial[h].sums[i];
      }
      if (lane == 0) {
        maxima[warp][h] = partial[h].maximum;
        weights[warp][h] = partial[h].weight;
      }
    }
  }
  __syncthreads();

  for (int i = thread; i < heads * kHeadDim; i += kThreads) {
    const int h = i / kHeadDim, d = i % kHeadDim;
    float maximum = maxima[0][h];
    for (int w = 1; w < kWarps; ++w) maximum = fmaxf(maximum, maxima[w][h]);
    float weight = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2f(maxima[w][h] - maximum);
      weight += weights[w][h] * factor;
      sum += sums[w][h][d] * factor;
    }
    if (length <= kSplitTokens) {
      static_cast<T*>(a.out)[row * a.out_stride + (first_head + h) * kHeadDim + d] = from_float<T>(sum / weight);
      continue;
    }
    float* to = partial_of(p, row, first_head + h, split);
    if (d == 0) {
      to[0] = maximum;
      to[1] = weight;
    }
    to[2 + d] = sum;
  }
}

// Block: one query head (x) of one row (y); a thread for each value.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kHeadDim) combine_splits(const __grid_constant__ Params p) {
  const DecodeAttentionArgs& a = p.args;
  const unsigned head = blockIdx.x, row = blockIdx.y, splits = divide_up(a.lengths[row], kSplitTokens);
  if (splits <= 1) return;
  const float* partials = partial_of(p, row, head, 0);
  constexpr int kStride = kHeadDim + 2;
  float maximum = kLowest;
  for (unsigned s = 0; s < splits; ++s) maximum = fmaxf(maximum, partials[s * kStride]);
  float weight = 0, sum = 0;
  for (unsigned s = 0; s < splits; ++s) {
    const float factor = exp2f(partials[s * kStride] - maximum);
    weight += partials[s * kStride + 1] * factor;
    sum += partials[s * kStride + 2 + threadIdx.x] * factor;
  }
  static_cast<T*>(a.out)[row * a.out_stride + head * kHeadDim + threadIdx.x] = from_float<T>(sum / weight);
}

template <class T, class Row, int kHeadDim, int kHeads>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  const DecodeAttentionArgs& a = p.args;
  const unsigned kv_heads = a.kv.layout.layout.kv_heads, group = static_cast<unsigned>(a.group),
                 rows = static_cast<unsigned>(a.rows);
  const cudaLaunchConfig_t splits = {
      {p.splits, kv_heads * divide_up(group, kHeads), rows}, kThreads, 0, stream, nullptr, 0};
  const cudaError_t error = cudaLaunchKernelEx(&splits, attend_split<T, Row, kHeadDim, kHeads>, p);
  if (error != cudaSuccess || p.splits == 1) return error;
  const cudaLaunchConfig_t combine = {{kv_heads * group, rows}, kHeadDim, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&combine, combine_splits<T, kHeadDim>, p);
}

// Coded KV has fewer variants: what a kernel for fewer query heads would save is little beside what the codes cost to
// read.
template <class T, int kHeadDim>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  const std::size_t group = p.args.group;
  if (p.args.kv.layout.code == KvCode::Plain) {
    if (group == 1) return launch<T, PlainRow<T>, kHeadDim, 1>(p, stream);
    return group <= 4 ? launch<T, PlainRow<T>, kHeadDim, 4>(p, stream) : launch<T, PlainRow<T>, kHeadDim, 8>(p, stream);
  }
  if constexpr (sizeof(T) == 2) {
    switch (p.args.kv.layout.code) {
      case KvCode::Plain: break;
      case KvCode::Int8: return launch<T, Int8Row, kHeadDim, 4>(p, stream);
      case KvCode::Fp8: return launch<T, Fp8Row, kHeadDim, 4>(p, stream);
      case KvCode::Int4: return launch<T, Int4Row, kHeadDim, 4>(p, stream);
    }
  }
  return cudaErrorNotSupported;
}

}  // namespace

std::size_t decode_attention_workspace_floats(const KvLayout& layout, std::size_t rows, std::size_t group,
                                              std::size_t longest) {
  const std::size_t splits = (longest + kSplitTokens - 1) / kSplitTokens;
  return splits <= 1 ? 0 : rows * layout.kv_heads * group * splits * (layout.head_dim + 2);
}

cudaError_t decode_attention(const DecodeAttentionArgs& args, cudaStream_t stream) {
  const Params p = {args, divide_up(static_cast<unsigned>(args.longest), kSplitTokens)};
  const KvLayout& layout = args.kv.layout.layout;
  return with_type(layout.dtype, [&](auto type) {
    return with_head_dim(layout.head_dim,
                         [&](auto head_dim) { return launch<decltype(type), decltype(head_dim)::value>(p, stream); });
  });
}

}  // namespace tiercel::kernels::cuda
