// A fuzzed property that must hold; the fuzzer reports the input where it does not. Unlike assert, in every build type.
#pragma once

#include <cstdio>
#include <cstdlib>

#define TIERCEL_FUZZ_EXPECT(condition)                                             \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)
