// What a processor multiplies at most: products of registers by registers and nothing else, to hold kernels against.
// CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tiercel::kernels {

enum class Products : std::uint8_t { F32, Bf16, Int16, Int8 };

// Whether this processor has them.
bool has_products(Products products);
// Multiplies and adds `rounds` times on the calling thread; how many multiplications that were.
std::uint64_t multiply_registers(Products products, std::uint64_t rounds);

}  // namespace tiercel::kernels
