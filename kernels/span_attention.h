// Attention over a context in spans, each of which is brought into the shape of products once for all queries of a
// call, whether one or many. So a query's result is the same bits in every call: spans begin at multiples of their
// length, sums run in one order, and what a query does not see has weight zero.
//
// `Products` says how a span is computed; a row is one query head of one query token:
//   kSpanTokens
//   Scratch(base, layout, rows)     what a call needs: `rows`, `padded_dim`, `states`, where it ends
//   padded_dim_of(layout)           floats of a row's sums
//   take_query(scratch, row, q, scale, dim)
//   take_span<Element>(args, scratch, begin, from, tokens, next)  tokens before `from` are there already, from another
//                                                                 run; `next` is asked for meanwhile
//   attend_rows<Element, kRows>(scratch, state, row, visible)     visible(row): tokens of the span that a row sees
//   attend_whole(scratch, state, row, rows)                       rows that all see all of it: of how many it took care
//   store_result(sums, total, dim, out)
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <span>

#include "kernels/attention_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
namespace tiercel::kernels::avx512 {

inline constexpr std::size_t kSectionTokens = 512;
inline constexpr std::size_t kRowsAtOnce = 6;

// Tokens of a run that will be read next; no run: none.
struct NextTokens {
  const AttentionArgs* run = nullptr;
  std::size_t begin = 0, end = 0;

  template <class Element>
  HWY_INLINE void Prefetch16(std::size_t from) const {
    if (run != nullptr) Prefetch<Element>(*run, begin + from, end);
  }
};

template <class Products>
class SpanAttention {
 public:
  static std::size_t scratch_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
    return Scratch(nullptr, layout, tokens * group).end - static_cast<float*>(nullptr);
  }
  static std::size_t state_floats(const KvLayout& layout, std::size_t tokens, std::size_t group) {
    return AttentionState::floats(tokens * group, Products::padded_dim_of(layout));
  }
  static std::size_t section_tokens(const KvLayout&) { return kSectionTokens; }

  static void attend(const AttentionArgs& args, float* scratch) { attend_together({&args, 1}, 0, scratch); }
  static void attend_together(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
    const DType dtype = runs.front().kv.layout.dtype;
    assert(dtype == DType::BF16 || dtype == DType::Int8);
    dtype == DType::Int8 ? attend_elements<std::int8_t>(runs, shared, scratch)
                         : attend_elements<std::uint16_t>(runs, shared, scratch);
  }
  static void merge_sections(const AttentionArgs& a) {
    const AttentionState state(a.states, rows_of(a), Products::padded_dim_of(a.kv.layout));
    state.merge_following(sections_of(a.first_position + a.tokens), power);
    store_results({&a, 1}, state);
  }

 private:
  using Scratch = typename Products::Scratch;
  static constexpr std::size_t kSpanTokens = Products::kSpanTokens;
  static_assert(kSectionTokens % kSpanTokens == 0);

  static std::size_t rows_of(const AttentionArgs& a) { return a.tokens * a.group; }
  static std::size_t sections_of(std::size_t positions) { return (positions + kSectionTokens - 1) / kSectionTokens; }
  static float power(float x) { return std::exp2(x); }

  template <class Element, class Visible>
  static void attend_span(const Scratch& s, const AttentionState& state, std::size_t first_row, std::size_t rows,
                          const Visible& visible) {
    std::size_t r = first_row;
    const std::size_t end = first_row + rows;
    // As many see all of it as the first, or more.
    if (visible(r) == kSpanTokens) r += Products::attend_whole(s, state, r, rows);
    for (; r + 6 <= end; r += 6) Products::template attend_rows<Element, 6>(s, state, r, visible);
    for (; r + 3 <= end; r += 3) Products::template attend_rows<Element, 3>(s, state, r, visible);
    for (; r < end; ++r) Products::template attend_rows<Element, 1>(s, state, r, visible);
  }

  // Where a run's tokens end in a section.
  static std::size_t end_of(const AttentionArgs& a, std::size_t last_token) {
    return std::min(a.first_position + a.tokens, last_token);
  }

  // What is read after the span at `span` of runs[i]: that of a following run, or the first one's next.
  static NextTokens after(std::span<const AttentionArgs> runs, std::size_t i, std::size_t span,
                          std::size_t last_token) {
    for (std::size_t step = 1; step <= runs.size(); ++step) {
      const AttentionArgs& next = runs[(i + step) % runs.size()];
      const std::size_t begin = i + step < runs.size() ? span : span + kSpanTokens, end = end_of(next, last_token);
      if (begin < end) return {&next, begin, end};
    }
    return {};
  }

  // Tokens from `span` on, up to `tokens`, that lie in the same blocks, in whole vectors.
  static std::size_t common_tokens(const AttentionArgs& a, const AttentionArgs& b, std::size_t span,
                                   std::size_t tokens) {
    const std::size_t block_tokens = a.kv.layout.block_tokens;
    std::size_t common = 0;
    while (common < tokens &&
           a.block_table[(span + common) / block_tokens] == b.block_table[(span + common) / block_tokens]) {
      common += block_tokens;
    }
    return std::min(common, tokens) / kLanes * kLanes;
  }

  // Section `section` of the runs' contexts, which share so many tokens, for all rows.
  template <class Element>
  static void attend_section(std::span<const AttentionArgs> runs, std::size_t shared, const Scratch& s,
                             const AttentionState& state, std::size_t section) {
    state.clear();
    const std::size_t first_token = section * kSectionTokens, last_token = first_token + kSectionTokens;
    std::size_t begin = first_token;
    const std::size_t shared_end = std::min(shared, last_token);
    const NextTokens first{&runs.front(), begin, end_of(runs.front(), last_token)};
    for (std::size_t ahead = 0; ahead < kSpanTokens; ahead += kLanes) first.Prefetch16<Element>(ahead);
    for (; begin < shared_end; begin += kSpanTokens) {
      const NextTokens next{&runs.front(), begin + kSpanTokens, first.end};
      Products::template take_span<Element>(runs.front(), s, begin, 0, kSpanTokens, next);
      attend_span<Element>(s, state, 0, s.rows, [](std::size_t) { return kSpanTokens; });
    }
    for (bool is_last = false; !is_last; begin += kSpanTokens) {
      is_last = true;
      std::size_t first_row = 0, tokens_before = 0;
      const AttentionArgs* before = nullptr;  // the run whose tokens of this span are in scratch
      for (std::size_t i = 0; i < runs.size(); first_row += rows_of(runs[i]), ++i) {
        const AttentionArgs& a = runs[i];
        const std::size_t end = end_of(a, last_token);
        if (begin >= end) continue;
        is_last = false;
        const std::size_t tokens = std::min(kSpanTokens, end - begin),
                          from = before ? common_tokens(*before, a, begin, std::min(tokens_before, tokens)) : 0;
        Products::template take_span<Element>(a, s, begin, from, tokens, after(runs, i, begin, last_token));
        attend_span<Element>(s, state, first_row, rows_of(a), [&](std::size_t row) {
          const std::size_t position = a.first_position + (row - first_row) / a.group;  // the last one this row sees
          return position < begin ? 0 : std::min(tokens, position - begin + 1);
        });
        before = &a;
        tokens_before = tokens;
      }
    }
  }

  static void store_results(std::span<const AttentionArgs> runs, const AttentionState& state) {
    std::size_t row = 0;
    for (const AttentionArgs& a : runs) {
      const std::size_t dim = a.kv.layout.head_dim;
      for (std::size_t r = 0; r < rows_of(a); ++r, ++row) {
        Products::store_result(state.sums + row * state.padded_dim, state.totals[row], dim,
                               a.out + r / a.group * a.out_stride + (a.kv_head * a.group + r % a.group) * dim);
      }
    }
  }

  template <class Element>
  static void attend_elements(std::span<const AttentionArgs> runs, std::size_t shared, float* scratch) {
    const KvLayout& layout = runs.front().kv.layout;
    assert(shared % kSpanTokens == 0);
    const std::size_t dim = layout.head_dim;
    std::size_t rows = 0, positions = 0;
    for (const AttentionArgs& a : runs) {
      rows += rows_of(a);
      positions = std::max(positions, a.first_position + a.tokens);
    }
    const Scratch s(scratch, layout, rows);
    std::size_t row = 0;
    for (const AttentionArgs& a : runs) {
      for (std::size_t r = 0; r < rows_of(a); ++r, ++row) {
        const float* q = a.q + r / a.group * a.q_stride + (a.kv_head * a.group + r % a.group) * dim;
        // Queries of a head lie far apart.
        for (std::size_t i = 0; i < dim; i += kLanes) _mm_prefetch(q + 4 * a.q_stride + i, _MM_HINT_T0);
        Products::take_query(s, row, q, a.scale, dim);
      }
    }
    if (float* states = runs.front().states) {
      const std::size_t section = runs.front().section;
      float* own = states + section * AttentionState::floats(s.rows, s.padded_dim);
      return attend_section<Element>(runs, shared, s, AttentionState(own, s.rows, s.padded_dim), section);
    }
    const AttentionState state(s.states[0], s.rows, s.padded_dim), next(s.states[1], s.rows, s.padded_dim);
    attend_section<Element>(runs, shared, s, state, 0);
    for (std::size_t section = 1; section < sections_of(positions); ++section) {
      attend_section<Element>(runs, shared, s, next, section);
      state.merge(next, power);
    }
    store_results(runs, state);
  }
};

}  // namespace tiercel::kernels::avx512
HWY_POP_ATTRIBUTES
