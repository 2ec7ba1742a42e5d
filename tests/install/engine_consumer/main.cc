// The short program of the documentation, as an embedder writes it. Asking the same again must give the same answer,
// from the cache. Exit status 77: there is no model to try it with.
#include <tiercel/engine.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace {

std::string model_path() {
  if (const char* model = std::getenv("TIERCEL_MODEL")) return model;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache ? cache : std::string(home ? home : "") + "/.cache";
  return root + "/tiercel/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace

int main() {
  const std::string model = model_path();
  if (!std::filesystem::exists(model)) return std::printf("no model at %s\n", model.c_str()), 77;

  auto engine = tiercel::Engine::open({.model = model}).value();
  const tiercel::Request request{
      .text = "The capital of France is a city on the river", .priority = 1, .max_tokens = 12};
  auto first = engine.process_request(request).get();
  auto again = engine.process_request(request).get();
  if (!first.ok()) return std::puts(first.status().to_string().c_str()), 1;
  if (!again.ok()) return std::puts(again.status().to_string().c_str()), 1;

  std::printf("%s%s  hit rate %.0f %%\n", request.text.c_str(), again->text.c_str(), 100 * engine.get_stats().hit_rate);
  const bool answered = first->tokens.size() > 2 && first->text.find(' ') != std::string::npos;
  const bool repeated = again->text == first->text && first->reused_tokens == 0;
  return answered && repeated && engine.get_stats().completed == 2 ? 0 : 1;
}
