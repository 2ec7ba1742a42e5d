// The products of group_linear.h for processors with AVX-512, where VDPBF16PS multiplies 32 pairs of bf16 at once and
// VPDPBUSD 64 pairs of bytes. Highway 1.0 has no names for them, so this file is written in the processor's own.
#include <algorithm>
#include <cassert>

#include "kernels/group_linear.h"
#include "kernels/int8_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/group_tiles_avx512.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")
namespace tiercel::kernels {
namespace {

using namespace avx512;

// An arithmetic multiplies vectors of weights, that hold some of 8 columns of each output, by these columns of a row.
struct Bf16 {
  using Rows = Bf16Rows;
  using Vector = __m512bh;
  using Sum = __m512;
  static constexpr std::size_t kVectors = 4;
  static constexpr std::size_t kLeastRowsToFetch = 1;
  static HWY_INLINE Sum Multiply(Sum sum, Vector weights, const std::uint16_t* x, std::size_t v) {
    return _mm512_dpbf16_ps(sum, weights, (__m512bh)Broadcast(x + 2 * v));
  }
  static HWY_INLINE __m512 Result(Sum sum, const Rows&, std::size_t) { return sum; }
};

struct Int8 {
  using Rows = Int8Rows;
  using Vector = __m512i;  // unsigned
  using Sum = __m512i;
  static constexpr std::size_t kVectors = 2;
  static constexpr std::size_t kLeastRowsToFetch = 2;  // one row is no work, and more requests in flight only disturb
  static HWY_INLINE Sum Multiply(Sum sum, Vector weights, const std::int8_t* x, std::size_t v) {
    return _mm512_dpbusd_epi32(sum, weights, Broadcast(x + 4 * v));
  }
  static HWY_INLINE __m512 Result(Sum sum, const Rows& x, std::size_t group) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(x.scales[group]));
  }
};

// A format decodes the columns 8 p .. 8 p + 7 of a group for an arithmetic. Start() is what a group's sum begins with.
class Bf16Q4 {
 public:
  using Arithmetic = Bf16;
  static constexpr std::size_t kBytes = 320;
  static constexpr bool kHasMinimum = true;
  // The table has every value twice, so that of an index only four bits count.
  HWY_INLINE Bf16Q4() {
    alignas(64) std::uint16_t values[32];
    for (std::uint32_t i = 0; i < 32; ++i) {
      const float value = static_cast<float>(i & 15);
      std::uint32_t bits;
      __builtin_memcpy(&bits, &value, 4);
      values[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    table_ = _mm512_load_si512(values);
  }
  HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512bh (&vectors)[4]) const {
    const __m512i nibbles = LoadBytes(group + 64 + 64 * p);
    vectors[0] = (__m512bh)_mm512_permutexvar_epi16(nibbles, table_);
    vectors[1] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 4), table_);
    vectors[2] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 8), table_);
    vectors[3] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(nibbles, 12), table_);
  }
  static HWY_INLINE __m512 Start(const Bf16Rows&, std::size_t) { return _mm512_setzero_ps(); }

 private:
  __m512i table_;
};

class Bf16Q8 {
 public:
  using Arithmetic = Bf16;
  static constexpr std::size_t kBytes = 544;
  static constexpr bool kHasMinimum = false;
  HWY_INLINE Bf16Q8() {}  // with these instructions, as the one that it calls
  HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512bh (&vectors)[4]) const {
    pairs_.Decode<Bf16Q8>(group + 32 + 128 * p, vectors);
  }
  static HWY_INLINE __m512 Start(const Bf16Rows&, std::size_t) { return _mm512_setzero_ps(); }
  static HWY_INLINE __m512i Widen(const std::byte* bytes) {
    return (__m512i)_mm512_cvtne2ps_pbh(WidenHalf(bytes + 16), WidenHalf(bytes));
  }

 private:
  static HWY_INLINE __m512 WidenHalf(const std::byte* bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
  }
  QuadsToPairs pairs_;
};

struct Int8Q4 {
  using Arithmetic = Int8;
  static constexpr std::size_t kBytes = 320;
  static constexpr bool kHasMinimum = true;
  static HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512i (&vectors)[2]) {
    const __m512i nibbles = LoadBytes(group + 64 + 64 * p), mask = _mm512_set1_epi8(15);
    vectors[0] = _mm512_and_si512(nibbles, mask);
    vectors[1] = _mm512_and_si512(_mm512_srli_epi16(nibbles, 4), mask);
  }
  static HWY_INLINE __m512i Start(const Int8Rows&, std::size_t) { return _mm512_setzero_si512(); }
};

// Bytes are multiplied as unsigned ones, 128 larger.
struct Int8Q8 {
  using Arithmetic = Int8;
  static constexpr std::size_t kBytes = 544;
  static constexpr bool kHasMinimum = false;
  static HWY_INLINE void Decode(const std::byte* group, std::size_t p, __m512i (&vectors)[2]) {
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    vectors[0] = _mm512_xor_si512(LoadBytes(group + 32 + 128 * p), sign);
    vectors[1] = _mm512_xor_si512(LoadBytes(group + 32 + 128 * p + 64), sign);
  }
  static HWY_INLINE __m512i Start(const Int8Rows& x, std::size_t group) { return _mm512_set1_epi32(x.offsets[group]); }
};

// Of four groups, two in each vector, of which sum(bytes) adds up every four bytes.
template <class Sum>
HWY_INLINE __m128i SumsOfFour(const __m512i (&bytes)[2], const Sum& sum) {
  const __m512i first = sum(bytes[0]), last = sum(bytes[1]);
  __m512i all = _mm512_add_epi32(_mm512_shuffle_i32x4(first, last, 0x88), _mm512_shuffle_i32x4(first, last, 0xdd));
  all = _mm512_add_epi32(all, _mm512_shuffle_epi32(all, _MM_PERM_BADC));
  all = _mm512_add_epi32(all, _mm512_shuffle_epi32(all, _MM_PERM_CDAB));
  return _mm512_castsi512_si128(
      _mm512_permutexvar_epi32(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0), all));
}

// A group of `count` rows, up to four, from x on, to the places from `place` on.
HWY_INLINE void QuantiseRows(const float* x, std::size_t columns, std::size_t count, std::size_t place,
                             std::int8_t* values, float* scales, float* sums, std::int32_t* offsets,
                             std::int32_t* paired_offsets) {
  __m512 low[4], high[4], largest[4];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i) {
    const float* row = x + std::min(i, count - 1) * columns;
    low[i] = _mm512_loadu_ps(row);
    high[i] = _mm512_loadu_ps(row + 16);
    largest[i] = _mm512_max_ps(_mm512_abs_ps(low[i]), _mm512_abs_ps(high[i]));
  }
  const __m512i lane_of_row = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m128 most = _mm512_castps512_ps128(_mm512_permutexvar_ps(
      lane_of_row, avx512::FoldFour<avx512::Largest>(largest[0], largest[1], largest[2], largest[3])));
  // The inverse of something smaller would not be finite.
  const __mmask8 some = _mm_cmp_ps_mask(most, _mm_set1_ps(1e-35f), _CMP_NLT_UQ);
  const __m128 largest_byte = _mm_set1_ps(paired_offsets ? kPairedLargest : 127),
               scale = _mm_maskz_div_ps(some, most, largest_byte), inverse = _mm_maskz_div_ps(some, largest_byte, most);
  __m512i words[4];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i) {
    const __m512 by = _mm512_permutexvar_ps(_mm512_set1_epi32(static_cast<int>(i)), _mm512_castps128_ps512(inverse));
    words[i] = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(low[i], by)),
                                  _mm512_cvtps_epi32(_mm512_mul_ps(high[i], by)));
  }
  // Packing works on quarters, whose fours are put back in order; then kColumnOrder, twice in each.
  const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
  __m512i bytes[2];
#pragma GCC unroll 2
  for (std::size_t i = 0; i < 2; ++i) {
    const __m512i packed = _mm512_packs_epi16(words[2 * i], words[2 * i + 1]);
    bytes[i] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(fours, packed), order);
  }
  const __m128i sum = SumsOfFour(
      bytes, [&](__m512i four) { return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), four); });
  const auto rows = static_cast<__mmask8>((1u << count) - 1);
  std::int8_t* to = values + place * kGroupColumns;
  _mm512_mask_storeu_epi64(to, static_cast<__mmask8>((1u << 4 * std::min<std::size_t>(count, 2)) - 1), bytes[0]);
  if (count > 2) _mm512_mask_storeu_epi64(to + 64, count == 4 ? 0xff : 0x0f, bytes[1]);
  _mm_mask_storeu_ps(scales + place, rows, scale);
  _mm_mask_storeu_ps(sums + place, rows, _mm_mul_ps(scale, _mm_cvtepi32_ps(sum)));
  _mm_mask_storeu_epi32(offsets + place, rows, _mm_mullo_epi32(sum, _mm_set1_epi32(-128)));
  if (!paired_offsets) return;
  const __m128i products = SumsOfFour(bytes, [&](__m512i four) {
    const __m512i second = _mm512_srli_epi64(four, 32);  // of a pair, beside the first
    return _mm512_maskz_dpbusd_epi32(0x5555, _mm512_setzero_si512(),
                                     _mm512_add_epi8(four, _mm512_set1_epi8(kPairedUnsigned)),
                                     _mm512_add_epi8(second, _mm512_set1_epi8(kPairedSigned)));
  });
  constexpr int kOfConstants = kPairedUnsigned * kPairedSigned * static_cast<int>(kGroupColumns / 2);
  _mm_mask_storeu_epi32(paired_offsets + place, rows, _mm_sub_epi32(_mm_set1_epi32(kOfConstants), products));
}

void quantise(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel, std::size_t last_panel,
              std::int8_t* values, float* scales, float* sums, std::int32_t* offsets, std::int32_t* paired_offsets) {
  const std::size_t groups = columns / kGroupColumns;
  for (std::size_t panel = first_panel; panel < last_panel; ++panel) {
    const std::size_t begin = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - begin;
    for (std::size_t r = 0; r < count; r += 4) {
      const float* from = x + (begin + r) * columns;
      for (std::size_t g = 0; g < groups; ++g) {
        QuantiseRows(from + g * kGroupColumns, columns, std::min<std::size_t>(4, count - r),
                     begin * groups + g * count + r, values, scales, sums, offsets, paired_offsets);
      }
    }
  }
}

void multiply_int8(const GroupWeights& w, const Int8Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                   std::size_t first_output, std::size_t last_output) {
  if (x.paired_offsets && w.format == GroupFormat::Q4 && rows >= kPairedRows) {
    return multiply_paired_avx512(w, x, rows, y, y_stride, first_output, last_output);
  }
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<Int8Q8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<Int8Q4>(w, x, rows, y, y_stride, first_tile, last_tile);
}

}  // namespace

bool has_bf16_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

void round_rows(const float* x, std::size_t rows, std::size_t columns, std::size_t first_panel, std::size_t last_panel,
                std::uint16_t* values, float* sums) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  ForEachGroup(x, rows, columns, first_panel, last_panel, [&](__m512 low, __m512 high, std::size_t place) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(values + place * kGroupColumns, (__m512i)rounded);
    sums[place] = _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), rounded, ones));
  });
}

void group_linear_bf16(const GroupWeights& w, const Bf16Rows& x, std::size_t rows, float* y, std::size_t y_stride,
                       std::size_t first_output, std::size_t last_output) {
  const std::size_t first_tile = first_output / kTileOutputs, last_tile = tiles_of(last_output);
  w.format == GroupFormat::Q8 ? Linear<Bf16Q8>(w, x, rows, y, y_stride, first_tile, last_tile)
                              : Linear<Bf16Q4>(w, x, rows, y, y_stride, first_tile, last_tile);
}

const Int8Kernel kAvx512Int8 = {"AVX512-VNNI", has_vnni, quantise, multiply_int8};

}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else

namespace tiercel::kernels {

bool has_bf16_products() { return false; }
void round_rows(const float*, std::size_t, std::size_t, std::size_t, std::size_t, std::uint16_t*, float*) {
  assert(false);
}
void group_linear_bf16(const GroupWeights&, const Bf16Rows&, std::size_t, float*, std::size_t, std::size_t,
                       std::size_t) {
  assert(false);
}
const Int8Kernel kAvx512Int8 = {"AVX512-VNNI", [] { return false; }, nullptr, nullptr};

}  // namespace tiercel::kernels

#endif
