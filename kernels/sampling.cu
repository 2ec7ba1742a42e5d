// Tokens are ranked by a key of 64 bits, which orders them by logit and then by id. What top-k and top-p keep is found
// by radix selection: 8 bits of the key at a time, by the counts or probabilities of the tokens whose key begins like
// it. Probabilities are integers, so their sums do not depend on any order.
#include <cfloat>
#include <cmath>

#include "kernels/cuda_values.h"
#include "kernels/sampling_cuda.h"

namespace tiercel::kernels::cuda {
namespace {

using Units = unsigned long long;  // of probability: 2^-40 of the likeliest token's

constexpr int kThreads = 512, kWarps = kThreads / kWarpLanes;
constexpr int kDigits = 256;

struct Shared {
  Units digits[kDigits];
  Units warps[kWarps];
  Units prefix, wanted;
};

// Of all threads of the block; each gets the result. `combine` is associative and does not mind the order.
template <class Combine>
__device__ Units reduce(Units value, Shared& shared, const Combine& combine) {
  for (int distance = kWarpLanes / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  __syncthreads();  // until everyone has read the one before
  if (threadIdx.x % kWarpLanes == 0) shared.warps[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  value = shared.warps[0];
  for (int w = 1; w < kWarps; ++w) value = combine(value, shared.warps[w]);
  return value;
}

struct Sum {
  __device__ Units operator()(Units a, Units b) const { return a + b; }
};
struct Larger {
  __device__ Units operator()(Units a, Units b) const { return a > b ? a : b; }
};

// 2^t for t at most 0, by the operations of exp2_of_negative() in engine/sampler.cc, each rounded, none fused.
__device__ float exp2_of_negative(float t) {
  constexpr float kRounding = 12582912.0f;
  const float rounded = __fadd_rn(t, kRounding);
  const float f = __fadd_rn(t, -__fadd_rn(rounded, -kRounding));
  float p = 0.00132647273f;
  p = __fadd_rn(__fmul_rn(p, f), 0.00967151299f);
  p = __fadd_rn(__fmul_rn(p, f), 0.0555073358f);
  p = __fadd_rn(__fmul_rn(p, f), 0.240222424f);
  p = __fadd_rn(__fmul_rn(p, f), 0.693147004f);
  p = __fadd_rn(__fmul_rn(p, f), 1.0f);
  const unsigned scaled = __float_as_uint(p) + (__float_as_uint(rounded) << 23);
  return t >= -126.0f ? __uint_as_float(scaled) : 0.0f;
}

// One row's logits as the sampler sees them.
struct Row {
  const float* logits;
  int size;
  float maximum, scale;
  bool infinite;  // there is +infinity, and nothing else has a chance

  // Greater for who ranks before; 0 for who has no chance.
  __device__ Units key(int i) const {
    const float logit = logits[i];
    if (!(logit > -INFINITY) || (infinite && logit < INFINITY)) return 0;
    const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 and 0 rank alike
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<Units>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(i));
  }
  // Relative to the likeliest one's.
  __device__ float probability(int i) const {
    return infinite ? 1.0f : exp2_of_negative(__fmul_rn(__fadd_rn(logits[i], -maximum), scale));
  }
  __device__ Units units(int i) const { return static_cast<Units>(__fmul_rn(probability(i), 0x1p40f)); }
};

// The key at which the sum of amount(i), over tokens with a chance in the order of their rank, first comes to `wanted`;
// the last one's where it never does.
template <class Amount>
__device__ Units select(const Row& row, Units wanted, Shared& shared, const Amount& amount) {
  Units prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int d = threadIdx.x; d < kDigits; d += kThreads) shared.digits[d] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size; i += kThreads) {
      const Units key = row.key(i);
      if (key != 0 && (shift == 56 || key >> (shift + 8) == prefix))
        atomicAdd(&shared.digits[key >> shift & 255u], amount(i));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kDigits - 1, last = 0;
      while (last < kDigits - 1 && shared.digits[last] == 0) ++last;
      for (; digit > last && shared.digits[digit] < wanted; --digit) wanted -= shared.digits[digit];
      shared.prefix = prefix << 8 | static_cast<Units>(digit);
      shared.wanted = wanted;
    }
    __syncthreads();
    prefix = shared.prefix;
    wanted = shared.wanted;
  }
  return prefix;
}

// Block: one row.
__global__ void __launch_bounds__(kThreads, 1) draw(const __grid_constant__ SamplingArgs a) {
  __shared__ Shared shared;
  const SamplingRow options = a.options[blockIdx.x];
  Row row = {a.logits + blockIdx.x * a.stride, static_cast<int>(a.vocabulary), 0, 0, false};
  DrawnToken* drawn = a.drawn + blockIdx.x;

  Units first = 0;
  for (int i = threadIdx.x; i < row.size; i += kThreads) first = Larger()(first, row.key(i));
  first = reduce(first, shared, Larger());
  const auto likeliest = static_cast<TokenId>(0xffffffffu - static_cast<unsigned>(first));
  if (first == 0) {
    if (threadIdx.x == 0) *drawn = {0, -INFINITY};
    return;
  }
  row.maximum = row.logits[likeliest];
  row.infinite = row.maximum == INFINITY;
  row.scale = kLog2E;
  Units all = 0;  // of probability without the options
  for (int i = threadIdx.x; i < row.size; i += kThreads) all += row.key(i) > 0 ? row.units(i) : 0;
  all = reduce(all, shared, Sum());
  const auto take = [&](TokenId token) {
    const double distance = row.infinite ? 0.0 : static_cast<double>(row.logits[token]) - row.maximum;
    *drawn = {token, static_cast<float>(distance - log(static_cast<double>(all) * 0x1p-40))};
  };
  if (options.temperature == 0) {
    if (threadIdx.x == 0) take(likeliest);
    return;
  }
  row.scale = fminf(kLog2E / options.temperature, FLT_MAX);

  Units last = 1;  // the key of the last token that is kept
  if (options.top_k > 0 && options.top_k < a.vocabulary)
    last = select(row, options.top_k, shared, [](int) { return Units{1}; });
  if (options.top_p < 1.0f) {
    Units mass = 0;
    for (int i = threadIdx.x; i < row.size; i += kThreads) mass += row.key(i) >= last ? row.units(i) : 0;
    mass = reduce(mass, shared, Sum());
    const auto wanted = static_cast<Units>(ceil(static_cast<double>(options.top_p) * static_cast<double>(mass)));
    const Units by_mass = select(row, wanted < mass ? wanted : mass, shared, [&](int i) { return row.units(i); });
    last = Larger()(last, by_mass);
  }

  // Each thread has the same number of neighbouring tokens, so that threads are in the order of ids.
  const int each = (row.size + kThreads - 1) / kThreads, begin = min(static_cast<int>(threadIdx.x) * each, row.size);
  const int end = min(begin + each, row.size);
  const auto kept = [&](int i) { return row.key(i) >= last && row.probability(i) >= options.min_p ? row.units(i) : 0; };
  Units own = 0;
  for (int i = begin; i < end; ++i) own += kept(i);
  Units before = own;  // of this lane and those before it, then of all threads before this one
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    const Units other = __shfl_up_sync(kAllLanes, before, distance);
    if (static_cast<int>(threadIdx.x % kWarpLanes) >= distance) before += other;
  }
  __syncthreads();
  if (threadIdx.x % kWarpLanes == kWarpLanes - 1) shared.warps[threadIdx.x / kWarpLanes] = before;
  __syncthreads();
  before -= own;
  Units total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < static_cast<int>(threadIdx.x) / kWarpLanes) before += shared.warps[w];
    total += shared.warps[w];
  }
  Units left = __umul64hi(options.random, total);  // random / 2^64 of the total
  if (left < before || left >= before + own) return;
  left -= before;
  for (int i = begin; i < end; ++i) {
    const Units units = kept(i);
    if (left < units) {
      take(i);
      return;
    }
    left -= units;
  }
}

}  // namespace

cudaError_t sample(const SamplingArgs& args, cudaStream_t stream) {
  const cudaLaunchConfig_t config = {static_cast<unsigned>(args.rows), kThreads, 0, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, draw, args);
}

}  // namespace tiercel::kernels::cuda
