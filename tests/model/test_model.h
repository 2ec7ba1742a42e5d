// Where tests find the real model, and what they say when it is not there.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace tiercel {

inline std::string test_model_path() {
  if (const char* path = std::getenv("TIERCEL_MODEL")) return path;
  const auto of = [](const char* name, const char* below) {
    const char* base = std::getenv(name);
    return base ? std::string(base) + below : std::string();
  };
  std::string cache = of("TIERCEL_CACHE_DIR", "");
  if (cache.empty()) cache = of("XDG_CACHE_HOME", "/tiercel");
  if (cache.empty()) cache = of("HOME", "/.cache/tiercel");
  return cache + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// Fails the test, rather than skipping it: without the model nothing here is proven.
#define REQUIRE_TEST_MODEL()                              \
  ASSERT_TRUE(std::filesystem::exists(test_model_path())) \
      << test_model_path() << " is missing; run ./quickstart once, or set TIERCEL_MODEL"

}  // namespace tiercel
