// Any calls to the KV cache in any order: tests/kv/kv_cache_calls.h.
#include "tests/kv/kv_cache_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tiercel::run_calls(data, size);
  return 0;
}
