#include "tier/checked_copy.h"

#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__SSE2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // its own vectors that it leaves undefined (bug 105593)
#endif
#include <immintrin.h>
#endif

namespace tiercel {
namespace {

// Digits of pi, and what is added to them after each stripe.
constexpr std::array<std::uint64_t, 8> kFirstKeys = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0,
                                                     0x082efa98ec4e6c89, 0x452821e638d01377, 0xbe5466cf34e90c6c,
                                                     0xc0ac29b7c97c50dd, 0x3f84d5b5b5470917};
constexpr std::uint64_t kKeyStep = 0x9e3779b97f4a7c15;

enum class Store : std::uint8_t { None, Cached, PastCaches };
using Sums = CheckedCopy::Sums;
constexpr std::size_t kStripe = CheckedCopy::kStripe;

#if defined(__SSE2__)

template <Store store>
void add_stripes(const std::byte* from, std::byte* to, std::size_t stripes, Sums& all) {
  constexpr std::size_t kVectors = kStripe / sizeof(__m128i);
  const __m128i step = _mm_set1_epi64x(static_cast<long long>(kKeyStep));
  __m128i sums[kVectors], keys[kVectors];
  std::memcpy(sums, all.sums.data(), kStripe);
  std::memcpy(keys, all.keys.data(), kStripe);
  for (; stripes > 0; --stripes, from += kStripe) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      const __m128i value = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i);
      if constexpr (store == Store::Cached) _mm_storeu_si128(reinterpret_cast<__m128i*>(to) + i, value);
      if constexpr (store == Store::PastCaches) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, value);
      const __m128i keyed = _mm_xor_si128(value, keys[i]);
      const __m128i product = _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32));
      sums[i] = _mm_add_epi64(sums[i], _mm_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2)));
      sums[i] = _mm_add_epi64(sums[i], product);
      keys[i] = _mm_add_epi64(keys[i], step);
    }
    if constexpr (store != Store::None) to += kStripe;
  }
  std::memcpy(all.sums.data(), sums, kStripe);
  std::memcpy(all.keys.data(), keys, kStripe);
}

#else

template <Store store>
void add_stripes(const std::byte* from, std::byte* to, std::size_t stripes, Sums& all) {
  for (; stripes > 0; --stripes, from += kStripe) {
    std::array<std::uint64_t, Sums::kLanes> values;
    std::memcpy(values.data(), from, kStripe);
    if constexpr (store != Store::None) {
      std::memcpy(to, values.data(), kStripe);
      to += kStripe;
    }
    for (std::size_t i = 0; i < Sums::kLanes; ++i) {
      const std::uint64_t keyed = values[i] ^ all.keys[i];
      all.sums[i] += values[i ^ 1] + (keyed & 0xffffffff) * (keyed >> 32);
      all.keys[i] += kKeyStep;
    }
  }
}

#endif

#if defined(__x86_64__)

bool has_512() {
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
}

// The same sums, a stripe at a time: through the caches, 128 bits at a time would be slower than these.
template <Store store>
__attribute__((target("avx512f"))) void add_stripes_512(const std::byte* from, std::byte* to, std::size_t stripes,
                                                        Sums& all) {
  const __m512i step = _mm512_set1_epi64(static_cast<long long>(kKeyStep));
  __m512i sums = _mm512_load_si512(all.sums.data()), keys = _mm512_load_si512(all.keys.data());
  for (; stripes > 0; --stripes, from += kStripe) {
    const __m512i value = _mm512_loadu_si512(from);
    if constexpr (store == Store::Cached) _mm512_storeu_si512(to, value);
    if constexpr (store == Store::PastCaches) _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
    if constexpr (store != Store::None) to += kStripe;
    const __m512i keyed = _mm512_xor_si512(value, keys);
    const __m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
    sums = _mm512_add_epi64(sums, _mm512_shuffle_epi32(value, _MM_PERM_BADC));
    sums = _mm512_add_epi64(sums, product);
    keys = _mm512_add_epi64(keys, step);
  }
  _mm512_store_si512(all.sums.data(), sums);
  _mm512_store_si512(all.keys.data(), keys);
}

#endif

template <Store store>
void add_all(const std::byte* from, std::byte* to, std::size_t stripes, Sums& all) {
#if defined(__x86_64__)
  const bool is_aligned = store != Store::PastCaches || reinterpret_cast<std::uintptr_t>(to) % kStripe == 0;
  if (is_aligned && has_512()) return add_stripes_512<store>(from, to, stripes, all);
#endif
  add_stripes<store>(from, to, stripes, all);
}

}  // namespace

CheckedCopy::CheckedCopy(Target target) : sums_{.keys = kFirstKeys}, target_(target) {}

void CheckedCopy::add(std::span<const std::byte> from, std::span<std::byte> to) {
  assert(bytes_ % kStripe == 0 && (to.empty() || to.size() == from.size()));
  bytes_ += from.size();
  const std::size_t stripes = from.size() / kStripe, whole = stripes * kStripe;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(to.data()) % 16 == 0;
  if (to.empty()) {
    add_all<Store::None>(from.data(), nullptr, stripes, sums_);
  } else if (target_ == Target::PastCaches && is_aligned) {
    add_all<Store::PastCaches>(from.data(), to.data(), stripes, sums_);
  } else {
    add_all<Store::Cached>(from.data(), to.data(), stripes, sums_);
  }
  if (whole == from.size()) return;
  std::array<std::byte, kStripe> last{};
  std::memcpy(last.data(), from.data() + whole, from.size() - whole);
  add_all<Store::None>(last.data(), nullptr, 1, sums_);
  if (!to.empty()) std::memcpy(to.data() + whole, last.data(), from.size() - whole);
}

std::uint64_t CheckedCopy::checksum() {
#if defined(__SSE2__)
  if (target_ == Target::PastCaches) _mm_sfence();
#endif
  return XXH3_64bits_withSeed(sums_.sums.data(), sizeof sums_.sums, bytes_);
}

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  CheckedCopy sum;
  sum.add(bytes, {});
  return sum.checksum();
}

}  // namespace tiercel
