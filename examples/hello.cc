// The shortest whole program: hello MODEL.gguf
#include <tiercel/engine.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]), 2;

  auto engine = tiercel::Engine::open({.model = argv[1]});
  if (!engine.ok()) return std::fprintf(stderr, "%s\n", engine.status().to_string().c_str()), 1;

  auto answer = engine->process_request({.text = "Once upon a time", .priority = 1, .max_tokens = 32}).get();
  if (!answer.ok()) return std::fprintf(stderr, "%s\n", answer.status().to_string().c_str()), 1;

  std::printf("Once upon a time%s\n", answer->text.c_str());
  std::printf("hit rate %.0f %%\n", 100 * engine->get_stats().hit_rate);
  return 0;
}
