// tiercel chat: a conversation in the terminal, or one line of standard input per turn.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"

namespace tiercel::cli {
namespace {

using namespace std::chrono_literals;

struct ChatOptions {
  std::string system;
  std::uint32_t max_tokens = 512;
  SamplingOptions sampling;
};

// Signal handlers can reach nothing else.
std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free);

// Counts SIGINT instead of dying of it, for as long as it lives. Reads of the terminal return when one comes.
class InterruptCounter {
 public:
  InterruptCounter() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupts.fetch_add(1); };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &previous_);
  }
  ~InterruptCounter() { sigaction(SIGINT, &previous_, nullptr); }
  InterruptCounter(const InterruptCounter&) = delete;
  InterruptCounter& operator=(const InterruptCounter&) = delete;

 private:
  struct sigaction previous_ {};
};

// The next line without its end; nothing at the end of input and at an interrupt.
std::optional<std::string> read_line() {
  char* line = nullptr;
  std::size_t capacity = 0;
  const ssize_t length = ::getline(&line, &capacity, stdin);
  std::optional<std::string> text;
  if (length >= 0) text.emplace(line, static_cast<std::size_t>(length));
  std::free(line);
  while (text && (text->ends_with('\n') || text->ends_with('\r'))) text->pop_back();
  return text;
}

class Chat {
 public:
  Chat(Engine& engine, const ChatOptions& options, bool json)
      : engine_(engine), options_(options), json_(json), interactive_(isatty(STDIN_FILENO) != 0 && !json) {
    reset();
  }

  int run() {
    if (interactive_) fmt::print("{}\n", dim("/reset forgets the conversation, /quit ends; Ctrl-C stops an answer"));
    while (true) {
      if (interactive_) {
        fmt::print("{}", bold("> "));
        std::fflush(stdout);
      }
      const auto line = read_line();
      if (!line || *line == "/quit") break;
      if (*line == "/reset") {
        reset();
      } else if (!line->empty() && !answer(*line)) {
        break;
      }
    }
    if (interactive_) fmt::print("\n");
    if (json_ && exit_status_ == kDone) print_json({{"turns", turns_}});
    return exit_status_;
  }

 private:
  void reset() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({.role = "system", .content = options_.system});
  }

  // One turn. False: the conversation is over, by a second interrupt.
  bool answer(const std::string& line) {
    messages_.push_back({.role = "user", .content = line});
    std::string text;
    Request request{.messages = messages_, .max_tokens = options_.max_tokens, .sampling = options_.sampling};
    request.on_token = [&](const TokenEvent& event) {
      text += event.text;
      if (json_) return;
      std::fwrite(event.text.data(), 1, event.text.size(), stdout);
      std::fflush(stdout);
    };
    interrupts = 0;
    ResponseFuture future = engine_.process_request(std::move(request));
    while (!future.wait_for(100ms)) {
      if (interrupts > 0) future.cancel();
    }
    auto response = future.get();
    const bool stopped = response.status().code() == StatusCode::Cancelled && interrupts > 0;
    if (!response.ok() && !stopped) {
      messages_.pop_back();
      exit_status_ = fail(response.status());
      return true;
    }
    messages_.push_back({.role = "assistant", .content = text});
    const std::string note = stopped ? "stopped" : summary_of(*response);
    if (json_ && !stopped) turns_.push_back(to_json(*response));
    if (!json_) fmt::print("\n");
    if (interactive_) fmt::print("{}\n", dim(note));
    return interrupts < 2;
  }

  Engine& engine_;
  const ChatOptions& options_;
  const bool json_;
  const bool interactive_;
  std::vector<ChatMessage> messages_;
  Json turns_ = Json::array();
  int exit_status_ = kDone;
};

int chat(const ChatOptions& options, const CliOptions& shared) {
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());
  if (!engine->info().has_chat_template) {
    return fail(Status::invalid_argument("the model has no chat template; use tiercel run"));
  }
  const InterruptCounter counter;
  return Chat(*engine, options, shared.json).run();
}

}  // namespace

Command add_chat_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* app = program.add_subcommand("chat", "Talk with the model");
  app->add_option("--system", options->system, "What the model is told before the conversation")->type_name("TEXT");
  app->add_option("--max-tokens", options->max_tokens, "Most tokens of one answer (default: 512)")
      ->check(at_least_one())
      ->type_name("N");
  add_sampling_options(*app, options->sampling);
  add_shared_options(*app, shared);
  app->footer(
      "A line is a turn. /reset forgets the conversation, /quit or the end of input ends it. Ctrl-C stops an answer;\n"
      "a second one ends the program.\n"
      "Example:\n  printf 'My name is Ada.\\nWhat is my name?\\n' | tiercel chat");
  return {app, [=, &shared] { return chat(*options, shared); }};
}

}  // namespace tiercel::cli
