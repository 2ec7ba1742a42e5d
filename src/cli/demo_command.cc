// tiercel demo: a streamed answer, then what the cache does to a long prompt.
#include <cstdio>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/workload.h"

namespace tiercel::cli {
namespace {

constexpr const char* kQuestion = "What is the capital of France, and what is it known for? Answer in two sentences.";

struct Demonstration {
  Response answer;
  Response cold;  // the first time the long prompt is seen
  Response warm;  // the second time
  EngineStats stats;

  double tokens_per_s() const {
    const double decode_ms = answer.total_ms - answer.ttft_ms;
    return decode_ms > 0 ? 1e3 * static_cast<double>(answer.tokens.size() - 1) / decode_ms : 0;
  }
};

Request long_prompt() { return {.text = document(), .max_tokens = 8, .ignore_end_of_text = true}; }

Json to_json(const Demonstration& shown) {
  return {{"question", kQuestion},
          {"answer", shown.answer.text},
          {"prompt_tokens", shown.cold.prompt_tokens.size()},
          {"ttft_cold_ms", shown.cold.ttft_ms},
          {"ttft_warm_ms", shown.warm.ttft_ms},
          {"tokens_reused", shown.warm.reused_tokens},
          {"same_output", shown.cold.tokens == shown.warm.tokens},
          {"tokens_per_s", shown.tokens_per_s()},
          {"hit_rate", shown.stats.hit_rate},
          {"memory", cli::to_json(shown.stats.memory)}};
}

void print_row(std::string_view name, std::string_view value) { fmt::print("  {:<28} {}\n", name, value); }

void print_table(const Demonstration& shown) {
  const Response& cold = shown.cold;
  const Response& warm = shown.warm;
  fmt::print("\n{}\n", bold("A long prompt, twice"));
  print_row("prompt", fmt::format("{} tokens", cold.prompt_tokens.size()));
  print_row("first token, cold", fmt::format("{:.0f} ms", cold.ttft_ms));
  print_row("first token, cached",
            fmt::format("{:.0f} ms, {:.0f} times sooner", warm.ttft_ms, cold.ttft_ms / warm.ttft_ms));
  print_row("tokens reused", fmt::format("{} of {}", warm.reused_tokens, warm.prompt_tokens.size()));
  print_row("same output", cold.tokens == warm.tokens ? "yes" : "no; --deterministic makes it so");
  print_row("output, one request", fmt::format("{:.0f} tokens/s", shown.tokens_per_s()));
  fmt::print("\n{}\n", bold("Memory"));
  for (const auto& [kind, size] : readable_memory(shown.stats.memory)) print_row(kind, size);
  fmt::print("\n{}\n", dim("Next: build/tiercel chat, build/tiercel --help, examples/hello.cc"));
}

int demonstrate(const CliOptions& shared) {
  fmt::print(stderr, "Loading the model ...\n");
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());
  const EngineInfo& info = engine->info();
  const bool streams = !shared.json;

  Request request{.max_tokens = 96};
  if (info.has_chat_template) {
    request.messages = {{.role = "user", .content = kQuestion}};
  } else {
    request.text = kQuestion;
  }
  if (streams) {
    fmt::print("{}\n{}\n\n{}\n", bold(info.model_name), dim(fmt::format("{}, {} threads", info.cpu, info.threads)),
               bold(kQuestion));
    std::fflush(stdout);
    request.on_token = [](const TokenEvent& event) {
      std::fwrite(event.text.data(), 1, event.text.size(), stdout);
      std::fflush(stdout);
    };
  }
  auto answer = engine->process_request(std::move(request)).get();
  if (!answer.ok()) return fail(answer.status());
  if (streams) fmt::print("\n{}\n", dim(summary_of(*answer)));

  auto cold = engine->process_request(long_prompt()).get();
  if (!cold.ok()) return fail(cold.status());
  auto warm = engine->process_request(long_prompt()).get();
  if (!warm.ok()) return fail(warm.status());

  const Demonstration shown{
      .answer = std::move(*answer), .cold = std::move(*cold), .warm = std::move(*warm), .stats = engine->get_stats()};
  if (shared.json) {
    print_json(to_json(shown));
  } else {
    print_table(shown);
  }
  return kDone;
}

}  // namespace

Command add_demo_command(CLI::App& program, CliOptions& shared) {
  CLI::App* app = program.add_subcommand("demo", "A streamed answer, and a long prompt without and with the cache");
  add_shared_options(*app, shared);
  return {app, [&shared] { return demonstrate(shared); }};
}

}  // namespace tiercel::cli
