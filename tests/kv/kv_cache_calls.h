// Sequences of calls to the KV cache, decoded from bytes: for the fuzzer, and for random bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tiercel {

// Opens a small cache and calls whatever the bytes say in whatever order. Aborts where the recount does not hold after
// a call, or where something is held, promised or left behind when everything has ended.
void run_calls(const std::uint8_t* data, std::size_t size);

}  // namespace tiercel
