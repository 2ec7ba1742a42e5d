// Values as planes of bytes: first the bytes with the exponents of all values, then those with the next bits, and so
// on.
//
// Each value is rotated left by one bit first, so that its sign leaves the top and an exponent of bf16 or f32 is one
// byte. Exponents of KV take few values; signs and mantissas are as good as random. Shuffling bytes by significance is
// Blosc's and HDF5's filter of that name; the rotation follows DFloat11 (Zhang et al., 2025, arXiv:2504.11651), which
// codes exponents apart from signs and mantissas.
#pragma once

#include <cstddef>
#include <span>

namespace tiercel {

// `values` are `planes.size() / value_bytes` values of 1, 2 or 4 bytes; `planes` gets the planes one after the other,
// the one with the exponents first. Single bytes are codes without an exponent, and stay as they are.
void split_planes(std::span<const std::byte> values, std::size_t value_bytes, std::byte* planes);

// The inverse; planes[i] is where plane i starts.
void join_planes(const std::byte* const* planes, std::size_t value_bytes, std::span<std::byte> values);

}  // namespace tiercel
