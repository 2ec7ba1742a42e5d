// co_await: requests that read as straight code and share one batch. coroutine MODEL.gguf
#include <tiercel/engine.h>

#include <coroutine>
#include <cstdio>
#include <exception>
#include <latch>
#include <string>
#include <utility>

namespace {

// A coroutine that runs by itself until its end; whoever starts it learns of the end by other means, here a latch.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

// Lets the model begin a story and then go on with it: the second request needs the answer of the first. Every co_await
// resumes on the engine's thread, so nothing between them may block. (GCC 12 miscompiles a braced Request inside the
// co_await expression itself; giving it a name avoids that.)
Detached tell_story(tiercel::Engine& engine, std::string place, std::latch& done) {
  std::string story = "In the " + place + " lived a";
  tiercel::Request first{.text = story, .max_tokens = 4};
  auto beginning = co_await engine.process_request(first);
  if (beginning.ok()) {
    story += beginning->text + ". One day";
    tiercel::Request second{.text = story, .max_tokens = 24};
    auto rest = co_await engine.process_request(second);
    std::printf("%s%s\n", story.c_str(), rest.ok() ? rest->text.c_str() : rest.status().to_string().c_str());
  } else {
    std::printf("%s\n", beginning.status().to_string().c_str());
  }
  done.count_down();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]), 2;
  auto engine = tiercel::Engine::open({.model = argv[1]});
  if (!engine.ok()) return std::fprintf(stderr, "%s\n", engine.status().to_string().c_str()), 1;

  std::latch done(3);
  for (const char* place : {"forest", "deep sea", "old castle"}) tell_story(*engine, place, done);
  done.wait();
  std::printf("%llu requests, hit rate %.0f %%\n", static_cast<unsigned long long>(engine->get_stats().completed),
              100 * engine->get_stats().hit_rate);
}
