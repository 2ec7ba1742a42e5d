#include "cli/default_model.h"

#include <cstdlib>

namespace tiercel::cli {
namespace {

constexpr const char* kModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

std::string default_model_path() {
  if (std::string model = environment("TIERCEL_MODEL"); !model.empty()) return model;
  std::string cache = environment("TIERCEL_CACHE_DIR");
  if (cache.empty()) {
    const std::string root = environment("XDG_CACHE_HOME");
    cache = (root.empty() ? environment("HOME") + "/.cache" : root) + "/tiercel";
  }
  return cache + "/models/" + kModelFile;
}

}  // namespace tiercel::cli
