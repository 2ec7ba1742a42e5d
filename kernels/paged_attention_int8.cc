// Attention in bytes for processors with AVX512-VNNI: both products run at the speed of VPDPBUSD, twice that of
// VDPBF16PS or more.
#include "kernels/group_linear.h"
#include "kernels/paged_attention.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/code_attention_avx512.h"

namespace tiercel::kernels {

bool has_int8_attention() {
  static const bool has = has_bf16_products() && __builtin_cpu_supports("avx512vnni");
  return has;
}

const AttentionKernel kInt8Attention = avx512::code_attention_kernel<std::int8_t>(Products::Int8);

}  // namespace tiercel::kernels

#else

namespace tiercel::kernels {
bool has_int8_attention() { return false; }
const AttentionKernel kInt8Attention{};
}  // namespace tiercel::kernels

#endif
