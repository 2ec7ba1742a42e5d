// tiercel run: one prompt, one answer.
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/stats_report.h"

namespace tiercel::cli {
namespace {

struct RunOptions {
  std::string prompt;
  std::string prompt_file;
  bool chat = false;
  std::uint32_t repeat = 1;
  Request request;  // everything but the prompt
};

void print_piece(const TokenEvent& event) {
  std::fwrite(event.text.data(), 1, event.text.size(), stdout);
  std::fflush(stdout);
}

int run(const RunOptions& options, const CliOptions& shared) {
  std::string prompt = options.prompt;
  if (!options.prompt_file.empty()) {
    auto bytes = read_file(options.prompt_file);
    if (!bytes.ok()) return fail_usage(bytes.status().message());
    prompt = std::move(*bytes);
  }
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());

  Request request = options.request;
  if (options.chat) {
    request.messages = {{.role = "user", .content = std::move(prompt)}};
  } else {
    request.text = std::move(prompt);
  }
  for (std::uint32_t i = 1; i < options.repeat; ++i) {
    if (auto earlier = engine->process_request(request).get(); !earlier.ok()) return fail(earlier.status());
  }
  if (!shared.json) request.on_token = print_piece;
  auto response = engine->process_request(std::move(request)).get();
  if (!response.ok()) return fail(response.status());

  if (shared.json) {
    Json json = to_json(*response);
    json["stats"] = to_json(engine->get_stats());
    print_json(json);
  } else {
    fmt::print("\n");
    fmt::print(stderr, "{}\n", summary_of(*response));
  }
  return kDone;
}

}  // namespace

Command add_run_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* app = program.add_subcommand("run", "Answer one prompt; text streams as it comes");
  auto* prompt = app->add_option("--prompt", options->prompt, "The prompt")->type_name("TEXT");
  auto* file =
      app->add_option("--prompt-file", options->prompt_file, "File with the prompt, byte for byte; - for stdin")
          ->type_name("FILE")
          ->excludes(prompt);
  app->add_flag("--chat", options->chat, "The prompt is a user's message, through the model's chat template");
  app->add_option("--max-tokens", options->request.max_tokens, "Most tokens to produce (default: 256)")
      ->check(at_least_one())
      ->type_name("N");
  app->add_option("--stop", options->request.stop, "End before this text; may be given several times")
      ->type_name("TEXT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_flag("--ignore-eos", options->request.ignore_end_of_text, "Go on past the model's end of text");
  app->add_option("--repeat", options->repeat, "Ask N times, one after the other, and report the last")
      ->check(at_least_one())
      ->type_name("N");
  add_sampling_options(*app, options->request.sampling);
  add_shared_options(*app, shared);
  app->footer("Example:\n  tiercel run --prompt \"Once upon a time\" --max-tokens 40 --temperature 0.8 --seed 7");
  return {app, [=, &shared] {
            if (prompt->count() + file->count() == 0) return fail_usage("give --prompt TEXT or --prompt-file FILE");
            return run(*options, shared);
          }};
}

}  // namespace tiercel::cli
