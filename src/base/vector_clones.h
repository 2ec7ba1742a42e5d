// Loops that the compiler vectorises, compiled twice: for any processor and for one with AVX2. The program's loader
// picks one (GNU ifunc), so that a portable build is fast where it can be.
//
// Not under sanitizers, which are not set up yet when the loader picks, and not where ifunc is missing. AVX2 alone has
// no fused multiply-add: both versions compute the same bits.
#pragma once

#include <cstddef>  // for __GLIBC__

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define TIERCEL_NO_VECTOR_CLONES
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__) || !defined(__GLIBC__)
#define TIERCEL_NO_VECTOR_CLONES
#endif

#ifdef TIERCEL_NO_VECTOR_CLONES
#define TIERCEL_VECTOR_CLONES
#else
#define TIERCEL_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#endif
