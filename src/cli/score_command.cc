// tiercel score: how likely the model finds a text.
#include <cmath>
#include <memory>
#include <numeric>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"

namespace tiercel::cli {
namespace {

int score(const std::string& path, const CliOptions& shared) {
  auto text = read_file(path);
  if (!text.ok()) return fail_usage(text.status().message());
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());
  auto response = engine->process_request({.text = std::move(*text), .max_tokens = 0, .prompt_logprobs = true}).get();
  if (!response.ok()) return fail(response.status());

  const std::vector<float>& logprobs = response->prompt_logprobs;
  if (logprobs.empty()) {
    return fail(Status::invalid_argument(fmt::format("{} is one token; a score needs at least two", path)));
  }
  const double mean = std::accumulate(logprobs.begin(), logprobs.end(), 0.0) / static_cast<double>(logprobs.size());
  const double perplexity = std::exp(-mean);
  if (shared.json) {
    print_json({{"ids", response->prompt_tokens}, {"logprobs", logprobs}, {"perplexity", perplexity}});
  } else {
    fmt::print("{} tokens, mean log-probability {:.4f}, perplexity {:.3f}\n", response->prompt_tokens.size(), mean,
               perplexity);
  }
  return kDone;
}

}  // namespace

Command add_score_command(CLI::App& program, CliOptions& shared) {
  auto file = std::make_shared<std::string>();
  CLI::App* app = program.add_subcommand("score", "Log-probability of each token of a text, and its perplexity");
  app->add_option("--file", *file, "The text, byte for byte; - for stdin")->type_name("FILE")->required();
  add_shared_options(*app, shared);
  app->footer(
      "In the JSON, logprobs[i] is the natural logarithm of P(ids[i + 1] | ids[0 .. i]).\n"
      "Example:\n  tiercel score --file text.txt --json");
  return {app, [=, &shared] { return score(*file, shared); }};
}

}  // namespace tiercel::cli
