#include "tier/checked_copy.h"

#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace tiercel {
namespace {

// Digits of pi, and what is added to them after each stripe.
constexpr std::array<std::uint64_t, 8> kFirstKeys = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0,
                                                     0x082efa98ec4e6c89, 0x452821e638d01377, 0xbe5466cf34e90c6c,
                                                     0xc0ac29b7c97c50dd, 0x3f84d5b5b5470917};
constexpr std::uint64_t kKeyStep = 0x9e3779b97f4a7c15;

}  // namespace

CheckedCopy::CheckedCopy(Target target) : keys_(kFirstKeys), target_(target) {}

#if defined(__SSE2__)

template <CheckedCopy::Store store>
void CheckedCopy::add_stripes(const std::byte* from, std::byte* to, std::size_t stripes) {
  constexpr std::size_t kVectors = kStripe / sizeof(__m128i);
  const __m128i step = _mm_set1_epi64x(static_cast<long long>(kKeyStep));
  __m128i sums[kVectors], keys[kVectors];
  std::memcpy(sums, sums_.data(), kStripe);
  std::memcpy(keys, keys_.data(), kStripe);
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
  std::memcpy(sums_.data(), sums, kStripe);
  std::memcpy(keys_.data(), keys, kStripe);
}

#else

template <CheckedCopy::Store store>
void CheckedCopy::add_stripes(const std::byte* from, std::byte* to, std::size_t stripes) {
  for (; stripes > 0; --stripes, from += kStripe) {
    std::array<std::uint64_t, kLanes> values;
    std::memcpy(values.data(), from, kStripe);
    if constexpr (store != Store::None) {
      std::memcpy(to, values.data(), kStripe);
      to += kStripe;
    }
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint64_t keyed = values[i] ^ keys_[i];
      sums_[i] += values[i ^ 1] + (keyed & 0xffffffff) * (keyed >> 32);
      keys_[i] += kKeyStep;
    }
  }
}

#endif

void CheckedCopy::add(std::span<const std::byte> from, std::span<std::byte> to) {
  assert(bytes_ % kStripe == 0 && (to.empty() || to.size() == from.size()));
  bytes_ += from.size();
  const std::size_t stripes = from.size() / kStripe, whole = stripes * kStripe;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(to.data()) % 16 == 0;
  if (to.empty()) {
    add_stripes<Store::None>(from.data(), nullptr, stripes);
  } else if (target_ == Target::PastCaches && is_aligned) {
    add_stripes<Store::PastCaches>(from.data(), to.data(), stripes);
  } else {
    add_stripes<Store::Cached>(from.data(), to.data(), stripes);
  }
  if (whole == from.size()) return;
  std::array<std::byte, kStripe> last{};
  std::memcpy(last.data(), from.data() + whole, from.size() - whole);
  add_stripes<Store::None>(last.data(), nullptr, 1);
  if (!to.empty()) std::memcpy(to.data() + whole, last.data(), from.size() - whole);
}

std::uint64_t CheckedCopy::checksum() {
#if defined(__SSE2__)
  if (target_ == Target::PastCaches) _mm_sfence();
#endif
  return XXH3_64bits_withSeed(sums_.data(), sizeof sums_, bytes_);
}

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  CheckedCopy sum;
  sum.add(bytes, {});
  return sum.checksum();
}

}  // namespace tiercel
