// A race that ThreadSanitizer sees ends the process, as the other sanitizers' findings do: for death tests. Included by
// one file of a program.
#pragma once

#if defined(__SANITIZE_THREAD__)
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }
#endif
