#include "kernels/product_peak.h"

#include "kernels/group_linear.h"
#include "kernels/int8_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/product_peak.cc"
#include <hwy/foreach_target.h>  // must come before highway.h

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tiercel::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::uint64_t MultiplyF32(std::uint64_t rounds) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.999f);
  // As many as hide the latency of a product, by name: they stay in registers.
  auto s0 = hn::Set(d, 1.0f), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0;
  for (std::uint64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, a, a);
    s1 = hn::MulAdd(s1, a, a);
    s2 = hn::MulAdd(s2, a, a);
    s3 = hn::MulAdd(s3, a, a);
    s4 = hn::MulAdd(s4, a, a);
    s5 = hn::MulAdd(s5, a, a);
    s6 = hn::MulAdd(s6, a, a);
    s7 = hn::MulAdd(s7, a, a);
    s8 = hn::MulAdd(s8, a, a);
    s9 = hn::MulAdd(s9, a, a);
  }
  s0 = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(hn::Add(s4, s5), hn::Add(s6, s7)));
  volatile float used = hn::GetLane(hn::Add(s0, hn::Add(s8, s9)));
  static_cast<void>(used);
  return rounds * 10 * hn::Lanes(d);
}

}  // namespace tiercel::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni")
namespace tiercel::kernels {
namespace {

// sum += a * b for ten sums, by an instruction that the compiler can neither drop nor put together.
#define TIERCEL_TEN_PRODUCTS(instruction)                                    \
  for (std::uint64_t i = 0; i < rounds; ++i) {                               \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s0) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s1) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s2) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s3) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s4) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s5) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s6) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s7) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s8) : "v"(a), "v"(b)); \
    __asm__ volatile(instruction " %1, %2, %0" : "+v"(s9) : "v"(a), "v"(b)); \
  }

std::uint64_t MultiplyBf16(std::uint64_t rounds) {
  const __m512 a = _mm512_setzero_ps(), b = a;
  __m512 s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a;
  TIERCEL_TEN_PRODUCTS("vdpbf16ps")
  return rounds * 10 * 32;
}

std::uint64_t MultiplyInt16(std::uint64_t rounds) {
  const __m512i a = _mm512_setzero_si512(), b = a;
  __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a;
  TIERCEL_TEN_PRODUCTS("vpdpwssd")
  return rounds * 10 * 32;
}

std::uint64_t MultiplyInt8(std::uint64_t rounds) {
  const __m512i a = _mm512_setzero_si512(), b = a;
  __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a;
  TIERCEL_TEN_PRODUCTS("vpdpbusd")
  return rounds * 10 * 64;
}
#undef TIERCEL_TEN_PRODUCTS

}  // namespace
}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES("avx2")
namespace tiercel::kernels {
namespace {

// Without VNNI it takes two instructions: pairs of products are added up in 16 bits, and these to a sum.
std::uint64_t MultiplyInt8InPairs(std::uint64_t rounds) {
  const __m256i a = _mm256_setzero_si256();
  __m256i sums[10] = {};
  for (std::uint64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
    for (__m256i& sum : sums) {
      __m256i pairs;
      __asm__ volatile("vpmaddubsw %1, %1, %0" : "=x"(pairs) : "x"(a));
      __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(pairs));
    }
  }
  return rounds * 10 * 32;
}

}  // namespace
}  // namespace tiercel::kernels
HWY_POP_ATTRIBUTES

#else
namespace tiercel::kernels {
namespace {
std::uint64_t MultiplyBf16(std::uint64_t) { return 0; }
std::uint64_t MultiplyInt16(std::uint64_t) { return 0; }
std::uint64_t MultiplyInt8(std::uint64_t) { return 0; }
std::uint64_t MultiplyInt8InPairs(std::uint64_t) { return 0; }
}  // namespace
}  // namespace tiercel::kernels
#endif

namespace tiercel::kernels {

HWY_EXPORT(MultiplyF32);

bool has_products(Products products) {
  switch (products) {
    case Products::F32: return true;
    case Products::Bf16: return has_bf16_products();
    case Products::Int16: return has_int16_products();
    case Products::Int8: return has_int8_products();
  }
  return false;
}

std::uint64_t multiply_registers(Products products, std::uint64_t rounds) {
  switch (products) {
    case Products::F32: return HWY_DYNAMIC_DISPATCH(MultiplyF32)(rounds);
    case Products::Bf16: return MultiplyBf16(rounds);
    case Products::Int16: return MultiplyInt16(rounds);
    case Products::Int8: return kAvx512Int8.is_supported() ? MultiplyInt8(rounds) : MultiplyInt8InPairs(rounds);
  }
  return 0;
}

}  // namespace tiercel::kernels
#endif
