#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/attention_state.h"
#include "kernels/kv_code.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/paged_attention.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#ifndef TIERCEL_PAGED_ATTENTION_SHARED
#define TIERCEL_PAGED_ATTENTION_SHARED
namespace tiercel::kernels {

// Scratch of one call. A row is one query head of one query token. A span is the tokens between two updates of its
// state: one or several whole blocks, and a section so many spans, the same for every call, so that results do not
// depend on how queries are cut into calls.
struct AttentionScratch {
  static constexpr std::size_t kSpanTokens = 128;
  static constexpr std::size_t kSectionTokens = 512;
  static constexpr std::size_t round_up(std::size_t n) { return (n + 15) / 16 * 16; }
  static std::size_t span_of(const KvLayout& layout) {
    return std::max<std::size_t>(1, kSpanTokens / layout.block_tokens) * layout.block_tokens;
  }
  static std::size_t section_of(const KvLayout& layout) {
    return std::max<std::size_t>(1, kSectionTokens / span_of(layout)) * span_of(layout);
  }

  AttentionScratch(float* base, const KvLayout& layout, std::size_t row_count)
      : rows(row_count),
        span_tokens(span_of(layout)),
        padded_tokens(round_up(span_tokens)),
        padded_dim(round_up(layout.head_dim)) {
    const auto take = [&](std::size_t floats) { return std::exchange(base, base + round_up(floats)); };
    keys = take(padded_tokens * padded_dim);
    values = take(padded_tokens * padded_dim);
    queries = take(rows * padded_dim);
    scores = take(rows * padded_tokens);
    for (float*& state : states) state = take(AttentionState::floats(rows, padded_dim));
    end = base;
  }

  std::size_t rows, span_tokens, padded_tokens, padded_dim;
  float* keys;       // Decode: [token][dim]; Prefill: [dim][token]
  float* values;     // [token][dim]
  float* queries;    // [row][dim], scaled, zero beyond head_dim
  float* scores;     // [row][token] of the current span
  float* states[2];  // AttentionState: of the sections so far, and of the next
  float* end;
};

}  // namespace tiercel::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;
constexpr std::size_t kLanes = hn::MaxLanes(DF());

// Element types of KV in memory, to and from float32 vectors. kScaled: they are codes, whose scales lie behind a head's
// rows.
struct F32 {
  static constexpr bool kScaled = false;
  using Type = float;
  static HWY_INLINE VF Load(const Type* p) { return hn::LoadU(DF(), p); }
  static HWY_INLINE void Store(VF v, Type* p) { hn::StoreU(v, DF(), p); }
};
struct F16 {
  static constexpr bool kScaled = false;
  using Type = hwy::float16_t;
  using D = hn::Rebind<Type, DF>;
  static HWY_INLINE VF Load(const Type* p) { return hn::PromoteTo(DF(), hn::LoadU(D(), p)); }
  static HWY_INLINE void Store(VF v, Type* p) { hn::StoreU(hn::DemoteTo(D(), v), D(), p); }
};
struct BF16 {
  static constexpr bool kScaled = false;
  using Type = std::uint16_t;
  using D16 = hn::Rebind<std::uint16_t, DF>;
  using D32 = hn::Rebind<std::uint32_t, DF>;
  static HWY_INLINE VF Load(const Type* p) {
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(D32(), hn::LoadU(D16(), p))));
  }
  static HWY_INLINE void Store(VF v, Type* p) {
    const auto bits = hn::BitCast(D32(), v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(D32(), 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(D32(), 0x7fffu))));
    const auto narrow =
        hn::DemoteTo(hn::Rebind<std::uint16_t, DF>(), hn::BitCast(hn::Rebind<std::int32_t, DF>(), rounded));
    hn::StoreU(narrow, D16(), p);
  }
};

struct Int8 {
  static constexpr bool kScaled = true;
  using Type = std::int8_t;
  using D8 = hn::Rebind<std::int8_t, DF>;
  using D32 = hn::Rebind<std::int32_t, DF>;
  static HWY_INLINE VF Load(const Type* p) { return hn::ConvertTo(DF(), hn::PromoteTo(D32(), hn::LoadU(D8(), p))); }
  static HWY_INLINE void Store(VF v, Type* p) { hn::StoreU(hn::DemoteTo(D8(), hn::NearestInt(v)), D8(), p); }
};

template <class Function>
HWY_INLINE void WithType(DType dtype, Function f) {
  switch (dtype) {
    case DType::F32: return f.template operator()<F32>();
    case DType::F16: return f.template operator()<F16>();
    case DType::BF16: return f.template operator()<BF16>();
    case DType::Int8: return f.template operator()<Int8>();
  }
}

// The scale of token `token` of the head whose rows begin at `head`; 1 where there is none.
template <class T>
HWY_INLINE float ScaleOf(const KvLayout& layout, const typename T::Type* head, std::size_t token) {
  if constexpr (!T::kScaled) return 1.0f;
  return code_scale_value(reinterpret_cast<const std::uint16_t*>(head + layout.scale_offset())[token]);
}

// `count` elements to float32. head_dim is a multiple of 16 (checked when a model is loaded), so there is no remainder.
template <class T>
HWY_INLINE VF LoadValues(const typename T::Type* p, float scale) {
  if constexpr (T::kScaled) return hn::Mul(T::Load(p), hn::Set(DF(), scale));
  return T::Load(p);
}
template <class T>
HWY_INLINE void Widen(const typename T::Type* in, std::size_t count, float scale, float* out) {
  for (std::size_t i = 0; i < count; i += kLanes) hn::Store(LoadValues<T>(in + i, scale), DF(), out + i);
}

// One row of codes and its scale, as encode_row() (kv_code.h).
HWY_INLINE void EncodeRow(const float* values, std::size_t dim, std::int8_t* codes, std::uint16_t* scale) {
  auto most = hn::Zero(DF());
  for (std::size_t i = 0; i < dim; i += kLanes) most = hn::Max(most, hn::Abs(hn::LoadU(DF(), values + i)));
  *scale = int8_code_scale(hn::GetLane(hn::MaxOfLanes(DF(), most)));
  const auto inverse = hn::Set(DF(), inverse_code_scale(*scale));
  for (std::size_t i = 0; i < dim; i += kLanes) Int8::Store(hn::Mul(hn::LoadU(DF(), values + i), inverse), codes + i);
}

template <class T>
void AppendOne(const PagedKv& kv, BlockId block, std::size_t token, const float* k, const float* v) {
  const KvLayout& layout = kv.layout;
  auto* base =
      reinterpret_cast<typename T::Type*>(kv.arena + block * layout.block_stride()) + kv.layer * layout.layer_stride();
  for (std::size_t h = 0; h < layout.kv_heads; ++h) {
    auto* to_k = base + h * layout.head_stride() + token * layout.head_dim;
    auto* to_v = to_k + layout.value_offset();
    if constexpr (T::kScaled) {
      auto* scale = reinterpret_cast<std::uint16_t*>(base + h * layout.head_stride() + layout.scale_offset()) + token;
      EncodeRow(k + h * layout.head_dim, layout.head_dim, to_k, scale);
      EncodeRow(v + h * layout.head_dim, layout.head_dim, to_v, scale + layout.value_offset() / sizeof(*scale));
      continue;
    }
    for (std::size_t i = 0; i < layout.head_dim; i += kLanes) {
      T::Store(hn::LoadU(DF(), k + h * layout.head_dim + i), to_k + i);
      T::Store(hn::LoadU(DF(), v + h * layout.head_dim + i), to_v + i);
    }
  }
}

void AppendKv(const PagedKv& kv, BlockId block, std::size_t token, const float* k, const float* v) {
  WithType(kv.layout.dtype, [&]<class T>() { AppendOne<T>(kv, block, token, k, v); });
}

// scores[row][first + t] = queries[row] . key[t], straight from the block.
template <class T>
HWY_INLINE void ScoresByDot(const AttentionScratch& s, const KvLayout& layout, const typename T::Type* keys,
                            std::size_t first, std::size_t tokens) {
  const std::size_t dim = layout.head_dim;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float scale = ScaleOf<T>(layout, keys, t);
    for (std::size_t r = 0; r < s.rows; ++r) {
      const float* q = s.queries + r * s.padded_dim;
      auto sum = hn::Zero(DF());
      for (std::size_t i = 0; i < dim; i += kLanes)
        sum = hn::MulAdd(hn::Load(DF(), q + i), T::Load(keys + t * dim + i), sum);
      const float score = hn::GetLane(hn::SumOfLanes(DF(), sum));
      s.scores[r * s.padded_tokens + first + t] = T::kScaled ? score * scale : score;
    }
  }
}

// The same from transposed keys: for kRows rows, a vector of tokens at a time, dim after dim.
template <int kRows>
HWY_INLINE void ScoresOfRows(const AttentionScratch& s, std::size_t row, std::size_t dim, std::size_t tokens) {
  const float* q = s.queries + row * s.padded_dim;
  for (std::size_t t = 0; t < tokens; t += 2 * kLanes) {
    const bool second = t + kLanes < s.padded_tokens;
    VF low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = hn::Zero(DF());
    for (std::size_t i = 0; i < dim; ++i) {
      const float* keys = s.keys + i * s.padded_tokens + t;
      const VF k0 = hn::Load(DF(), keys);
      const VF k1 = second ? hn::Load(DF(), keys + kLanes) : k0;
      for (int r = 0; r < kRows; ++r) {
        const VF value = hn::Set(DF(), q[r * s.padded_dim + i]);
        low[r] = hn::MulAdd(value, k0, low[r]);
        high[r] = hn::MulAdd(value, k1, high[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      float* out = s.scores + (row + r) * s.padded_tokens + t;
      hn::Store(low[r], DF(), out);
      if (second) hn::Store(high[r], DF(), out + kLanes);
    }
  }
}

// Turns the row's scores into softmax weights relative to its running maximum, and rescales what was summed so far.
// Tokens at and after `visible` get weight 0.
HWY_INLINE void SoftmaxRow(const AttentionScratch& s, const AttentionState& state, std::size_t row, std::size_t tokens,
                           std::size_t visible) {
  float* scores = s.scores + row * s.padded_tokens;
  const std::size_t padded = (tokens + kLanes - 1) / kLanes * kLanes;
  for (std::size_t t = visible; t < padded; ++t) scores[t] = kMasked;
  auto largest = hn::Set(DF(), state.maxima[row]);
  for (std::size_t t = 0; t < padded; t += kLanes) largest = hn::Max(largest, hn::Load(DF(), scores + t));
  const float maximum = hn::GetLane(hn::MaxOfLanes(DF(), largest));
  const auto maxima = hn::Set(DF(), maximum);
  auto total = hn::Zero(DF());
  for (std::size_t t = 0; t < padded; t += kLanes) {
    const auto weight = hn::Exp(DF(), hn::Sub(hn::Load(DF(), scores + t), maxima));
    hn::Store(weight, DF(), scores + t);
    total = hn::Add(total, weight);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(DF(), total));
  if (maximum > state.maxima[row]) {
    const float keep = hn::GetLane(hn::Exp(DF(), hn::Set(DF(), state.maxima[row] - maximum)));
    state.totals[row] *= keep;
    float* sums = state.sums + row * s.padded_dim;
    for (std::size_t i = 0; i < s.padded_dim; i += kLanes) {
      hn::Store(hn::Mul(hn::Load(DF(), sums + i), hn::Set(DF(), keep)), DF(), sums + i);
    }
    state.maxima[row] = maximum;
  }
  state.totals[row] += sum;
}

// sums[row] += sum over t of weight[row][first + t] * value[t], kVectors vectors of head_dim at a time, token after
// token.
template <int kRows, int kVectors, class LoadValue>
HWY_INLINE void AccumulateStrip(const AttentionScratch& s, const AttentionState& state, std::size_t row,
                                std::size_t column, std::size_t first, std::size_t tokens, const LoadValue& load) {
  VF sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = hn::Load(DF(), state.sums + (row + r) * s.padded_dim + column + v * kLanes);
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    VF values[kVectors];
    for (int v = 0; v < kVectors; ++v) values[v] = load(t, column + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const VF weight = hn::Set(DF(), s.scores[(row + r) * s.padded_tokens + first + t]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(weight, values[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v)
      hn::Store(sums[r][v], DF(), state.sums + (row + r) * s.padded_dim + column + v * kLanes);
  }
}

template <int kRows, class LoadValue>
HWY_INLINE void AccumulateRows(const AttentionScratch& s, const AttentionState& state, std::size_t row, std::size_t dim,
                               std::size_t first, std::size_t tokens, const LoadValue& load) {
  std::size_t column = 0;
  for (; column + 4 * kLanes <= dim; column += 4 * kLanes)
    AccumulateStrip<kRows, 4>(s, state, row, column, first, tokens, load);
  for (; column < dim; column += kLanes) AccumulateStrip<kRows, 1>(s, state, row, column, first, tokens, load);
}

template <class LoadValue>
HWY_INLINE void Accumulate(const AttentionScratch& s, const AttentionState& state, std::size_t dim, std::size_t first,
                           std::size_t tokens, const LoadValue& load) {
  std::size_t r = 0;
  for (; r + 4 <= s.rows; r += 4) AccumulateRows<4>(s, state, r, dim, first, tokens, load);
  for (; r < s.rows; ++r) AccumulateRows<1>(s, state, r, dim, first, tokens, load);
}

// One block's keys, transposed, and values as float32, from token `first` of the span on.
template <class T>
HWY_INLINE void WidenBlock(const AttentionScratch& s, const KvLayout& layout, const typename T::Type* keys,
                           const typename T::Type* values, std::size_t first, std::size_t tokens) {
  const std::size_t dim = layout.head_dim;
  for (std::size_t t = 0; t < tokens; ++t) {
    HWY_ALIGN float row[kLanes];
    const float key_scale = ScaleOf<T>(layout, keys, t);
    for (std::size_t i = 0; i < dim; i += kLanes) {
      hn::Store(LoadValues<T>(keys + t * dim + i, key_scale), DF(), row);
      for (std::size_t j = 0; j < kLanes; ++j) s.keys[(i + j) * s.padded_tokens + first + t] = row[j];
    }
    Widen<T>(values + t * dim, dim, ScaleOf<T>(layout, values, t), s.values + (first + t) * s.padded_dim);
  }
}

// Weights of codes instead of values.
template <class T>
HWY_INLINE void ScaleWeights(const AttentionScratch& s, const KvLayout& layout, const typename T::Type* values,
                             std::size_t first, std::size_t tokens) {
  for (std::size_t r = 0; r < s.rows; ++r) {
    float* weights = s.scores + r * s.padded_tokens + first;
    for (std::size_t t = 0; t < tokens; ++t) weights[t] *= ScaleOf<T>(layout, values, t);
  }
}

// Section `section` of the context, for all rows.
template <class T>
void AttendSection(const AttentionArgs& a, const AttentionScratch& s, const AttentionState& state,
                   std::size_t section) {
  const KvLayout& layout = a.kv.layout;
  const std::size_t dim = layout.head_dim, block_tokens = layout.block_tokens;
  const bool prefill = a.style == AttentionStyle::Prefill;
  const std::size_t section_tokens = AttentionScratch::section_of(layout), first_token = section * section_tokens;
  const std::size_t end = std::min(a.first_position + a.tokens, first_token + section_tokens);
  state.clear();
  for (std::size_t begin = first_token; begin < end; begin += s.span_tokens) {
    const std::size_t tokens = std::min(s.span_tokens, end - begin);
    // Calls f(K, V, first token of the span, tokens) for each block of the span.
    const auto for_each_block = [&](const auto& f) HWY_ATTR {
      for (std::size_t first = 0; first < tokens; first += block_tokens) {
        const BlockId block = a.block_table[(begin + first) / block_tokens];
        const auto* keys = reinterpret_cast<const typename T::Type*>(a.kv.arena + block * layout.block_stride()) +
                           a.kv.layer * layout.layer_stride() + a.kv_head * layout.head_stride();
        f(keys, keys + layout.value_offset(), first, std::min(block_tokens, tokens - first));
      }
    };
    using Pointer = const typename T::Type*;
    if (prefill) {
      for_each_block([&](Pointer keys, Pointer values, std::size_t first, std::size_t count)
                         HWY_ATTR { WidenBlock<T>(s, layout, keys, values, first, count); });
      std::size_t r = 0;
      for (; r + 4 <= s.rows; r += 4) ScoresOfRows<4>(s, r, dim, tokens);
      for (; r < s.rows; ++r) ScoresOfRows<1>(s, r, dim, tokens);
    } else {
      for_each_block([&](Pointer keys, Pointer, std::size_t first, std::size_t count)
                         HWY_ATTR { ScoresByDot<T>(s, layout, keys, first, count); });
    }
    for (std::size_t r = 0; r < s.rows; ++r) {
      const std::size_t position = a.first_position + r / a.group;  // the last one this row sees
      SoftmaxRow(s, state, r, tokens, position < begin ? 0 : std::min(tokens, position - begin + 1));
    }
    if (prefill) {
      Accumulate(s, state, dim, 0, tokens, [&](std::size_t t, std::size_t i) HWY_ATTR {
        return hn::Load(DF(), s.values + t * s.padded_dim + i);
      });
    } else {
      for_each_block([&](Pointer, Pointer values, std::size_t first, std::size_t count) HWY_ATTR {
        if constexpr (T::kScaled) ScaleWeights<T>(s, layout, values, first, count);
        Accumulate(s, state, dim, first, count,
                   [&](std::size_t t, std::size_t i) HWY_ATTR { return T::Load(values + t * dim + i); });
      });
    }
  }
}

float Power(float x) { return std::exp(x); }

void StoreResults(const AttentionArgs& a, const AttentionState& state) {
  const std::size_t dim = a.kv.layout.head_dim;
  for (std::size_t r = 0; r < state.rows; ++r) {
    float* out = a.out + r / a.group * a.out_stride + (a.kv_head * a.group + r % a.group) * dim;
    const float inverse = 1.0f / state.totals[r];
    for (std::size_t i = 0; i < dim; ++i) out[i] = state.sums[r * state.padded_dim + i] * inverse;
  }
}

template <class T>
void Attend(const AttentionArgs& a, float* scratch) {
  const KvLayout& layout = a.kv.layout;
  const std::size_t dim = layout.head_dim;
  const AttentionScratch s(scratch, layout, a.tokens * a.group);
  for (std::size_t r = 0; r < s.rows; ++r) {
    const float* q = a.q + r / a.group * a.q_stride + (a.kv_head * a.group + r % a.group) * dim;
    float* scaled = s.queries + r * s.padded_dim;
    for (std::size_t i = 0; i < dim; ++i) scaled[i] = q[i] * a.scale;
  }
  if (a.states != nullptr) {
    float* own = a.states + a.section * AttentionState::floats(s.rows, s.padded_dim);
    return AttendSection<T>(a, s, AttentionState(own, s.rows, s.padded_dim), a.section);
  }
  const AttentionState state(s.states[0], s.rows, s.padded_dim), next(s.states[1], s.rows, s.padded_dim);
  AttendSection<T>(a, s, state, 0);
  const std::size_t sections = kAttention.sections(layout, a.first_position + a.tokens);
  for (std::size_t section = 1; section < sections; ++section) {
    AttendSection<T>(a, s, next, section);
    state.merge(next, Power);
  }
  StoreResults(a, state);
}

void MergeSections(const AttentionArgs& a) {
  const AttentionState state(a.states, a.tokens * a.group, AttentionScratch::round_up(a.kv.layout.head_dim));
  state.merge_following(kAttention.sections(a.kv.layout, a.first_position + a.tokens), Power);
  StoreResults(a, state);
}

void PagedAttention(const AttentionArgs& args, float* scratch) {
  WithType(args.kv.layout.dtype, [&]<class T>() { Attend<T>(args, scratch); });
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tiercel::kernels {

HWY_EXPORT(AppendKv);
HWY_EXPORT(PagedAttention);
HWY_EXPORT(MergeSections);

void append_kv(const PagedKv& kv, BlockId block, std::size_t token_in_block, const float* k, const float* v) {
  HWY_DYNAMIC_DISPATCH(AppendKv)(kv, block, token_in_block, k, v);
}

namespace {

void attend(const AttentionArgs& args, float* scratch) { HWY_DYNAMIC_DISPATCH(PagedAttention)(args, scratch); }
void merge_sections(const AttentionArgs& args) { HWY_DYNAMIC_DISPATCH(MergeSections)(args); }
std::size_t scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
  return AttentionScratch(nullptr, layout, tokens * group).end - static_cast<float*>(nullptr);
}
std::size_t state_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
  return AttentionState::floats(tokens * group, AttentionScratch::round_up(layout.head_dim));
}

}  // namespace

const AttentionKernel kAttention{attend, merge_sections, scratch_floats, state_floats, AttentionScratch::section_of};

}  // namespace tiercel::kernels
#endif
