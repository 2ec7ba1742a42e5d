// Attention in 16-bit integers: both products run at the speed of VPDPWSSD, four times that of VDPBF16PS on the
// processors this is for, and what is rounded keeps more bits than in bf16.
#include "kernels/group_linear.h"
#include "kernels/paged_attention.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/code_attention_avx512.h"

namespace tiercel::kernels {

bool has_int16_attention() { return has_int16_products() && has_bf16_products(); }

const AttentionKernel kInt16Attention = avx512::code_attention_kernel<std::int16_t>(Products::Int16);

}  // namespace tiercel::kernels

#else

namespace tiercel::kernels {
bool has_int16_attention() { return false; }
const AttentionKernel kInt16Attention{};
}  // namespace tiercel::kernels

#endif
