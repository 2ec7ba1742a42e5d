// tiercel batch: many prompts, answered at full throughput.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "cli/stats_report.h"

namespace tiercel::cli {
namespace {

struct BatchOptions {
  std::string prompts_file;
  bool chat = false;
  Request request;  // everything but the prompt
};

// One prompt a line: as it is, or, in a file whose name ends in .jsonl, a JSON string.
Result<std::vector<std::string>> read_prompts(const std::string& path) {
  auto text = read_file(path);
  if (!text.ok()) return text.status();
  std::vector<std::string> prompts;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text->size();) {
    const std::size_t end = std::min(text->find('\n', begin), text->size());
    std::string line = text->substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.empty()) continue;
    if (path.ends_with(".jsonl")) {
      const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!json.is_string()) {
        return Status::invalid_argument(fmt::format("{}:{}: the line is no JSON string", path, number));
      }
      line = json.get<std::string>();
    }
    prompts.push_back(std::move(line));
  }
  if (prompts.empty()) return Status::invalid_argument(fmt::format("{} holds no prompts", path));
  return prompts;
}

Json json_of(const Result<Response>& answer) {
  return answer.ok() ? to_json(*answer) : Json{{"error", answer.status().message()}};
}

int batch(const BatchOptions& options, const CliOptions& shared) {
  const auto prompts = read_prompts(options.prompts_file);
  if (!prompts.ok()) return fail_usage(prompts.status().message());
  CliOptions opened = shared;
  // Nobody reads along: prompts take as much of a step as fits.
  constexpr double kNoTarget_ms = 60'000;
  if (opened.engine.target_step_ms == 0) opened.engine.target_step_ms = kNoTarget_ms;
  auto engine = open_engine(opened);
  if (!engine.ok()) return fail(engine.status());

  std::vector<Request> requests(prompts->size(), options.request);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (options.chat) {
      requests[i].messages = {{.role = "user", .content = (*prompts)[i]}};
    } else {
      requests[i].text = (*prompts)[i];
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Result<Response>> answers;
  {
    ProgressBar bar;
    answers = engine->process_batch(requests, [&](std::size_t done, std::size_t total) {
      bar.show("batch", static_cast<double>(done) / static_cast<double>(total));
    });
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  const auto failed = static_cast<std::size_t>(std::ranges::count_if(answers, [](const auto& a) { return !a.ok(); }));
  const EngineStats stats = engine->get_stats();
  if (shared.json) {
    Json all = Json::array();
    for (const auto& answer : answers) all.push_back(json_of(answer));
    print_json({{"answers", std::move(all)}, {"failed", failed}, {"seconds", seconds}, {"stats", to_json(stats)}});
  } else {
    for (const auto& answer : answers) print_json(json_of(answer));
    fmt::print(stderr, "{} prompts in {:.1f} s, {} failed; {} tokens in ({} reused), {} out, {:.0f} tokens/s\n",
               answers.size(), seconds, failed, stats.prompt_tokens, stats.reused_tokens, stats.output_tokens,
               static_cast<double>(stats.output_tokens) / seconds);
  }
  return failed == 0 ? kDone : kFailed;
}

}  // namespace

Command add_batch_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<BatchOptions>();
  CLI::App* app = program.add_subcommand("batch", "Answer many prompts at full throughput, one JSON object a line");
  app->add_option("--prompts", options->prompts_file,
                  "One prompt a line; in a .jsonl file each line is a JSON string; - for stdin")
      ->type_name("FILE")
      ->required();
  app->add_flag("--chat", options->chat, "Each is a user's message, through the model's chat template");
  app->add_option("--max-tokens", options->request.max_tokens, "Most tokens of each answer (default: 256)")
      ->check(at_least_one())
      ->type_name("N");
  app->add_flag("--ignore-eos", options->request.ignore_end_of_text, "Go on past the model's end of text");
  add_sampling_options(*app, options->request.sampling);
  add_shared_options(*app, shared);
  app->footer(
      "Exit status 0: all were answered.\nExample:\n  tiercel batch --prompts questions.txt --chat > answers.jsonl");
  return {app, [=, &shared] { return batch(*options, shared); }};
}

}  // namespace tiercel::cli
