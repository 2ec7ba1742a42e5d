// A chat with the answer shown as it comes: streaming_chat MODEL.gguf
//
// Each turn sends the whole conversation. What was said before is in the cache, so only the new line is computed. An
// answer that becomes longer than five lines is cancelled.
#include <tiercel/engine.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]), 2;
  auto engine = tiercel::Engine::open({.model = argv[1]});
  if (!engine.ok()) return std::fprintf(stderr, "%s\n", engine.status().to_string().c_str()), 1;

  std::vector<tiercel::ChatMessage> conversation = {{.role = "system", .content = "You answer briefly."}};
  for (std::string line; std::cout << "> " << std::flush, std::getline(std::cin, line);) {
    conversation.push_back({.role = "user", .content = line});

    std::string answer;
    std::atomic<bool> too_long = false;
    tiercel::Request request{.messages = conversation, .max_tokens = 200};
    request.on_token = [&](const tiercel::TokenEvent& event) {  // on the engine's thread
      std::cout << event.text << std::flush;
      answer += event.text;
      if (std::ranges::count(answer, '\n') > 5) too_long = true;
    };
    auto future = engine->process_request(std::move(request));
    while (!future.wait_for(std::chrono::milliseconds(50))) {
      if (too_long) future.cancel();
    }

    auto response = future.get();  // nothing is streamed after this
    if (response.ok()) {
      std::cout << "\n[" << response->reused_tokens << " of " << response->prompt_tokens.size() << " tokens reused]\n";
    } else {
      std::cout << "\n[" << response.status().to_string() << "]\n";
    }
    conversation.push_back({.role = "assistant", .content = answer});
  }
}
