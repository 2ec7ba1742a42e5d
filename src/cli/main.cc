#include <cstdio>
#include <exception>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"

namespace tiercel::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  tiercel demo
  tiercel run --prompt "Once upon a time" --max-tokens 40
  tiercel run --chat --prompt-file question.txt --json
  tiercel chat --system "Answer in one sentence."
  tiercel bench --only warm --json
  tiercel run --prompt-file long.txt --cache-dir kv    (and again, in another process)
  tiercel cache stats kv
  tiercel replay trace.jsonl --curve sizes.svg

Answers go to standard output, everything else to standard error.
Exit status: 0 done, 1 failed, 2 bad usage.)";

int run(int argc, char** argv) {
  CLI::App program("Runs a language model with a KV cache that computes a prefix once.", "tiercel");
  program.set_version_flag("--version", "tiercel " TIERCEL_VERSION);
  program.footer(kFooter);
  program.require_subcommand(0, 1);
  CliOptions shared;
  add_shared_options(program, shared);
  const Command commands[] = {
      add_run_command(program, shared),     add_batch_command(program, shared),    add_chat_command(program, shared),
      add_score_command(program, shared),   add_bench_command(program, shared),    add_info_command(program, shared),
      add_demo_command(program, shared),    add_replay_command(program, shared),   add_cache_command(program, shared),
      add_options_command(program, shared), add_check_command(program, shared),    add_tune_command(program, shared),
      add_rank_command(program, shared),    add_gpu_check_command(program, shared)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help or --version
    return fail_usage(fmt::format("{}; see tiercel --help", error.what()));
  }
  if (const Status status = resolve_engine_options(shared); !status.ok()) return fail_usage(status.message());

  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return fail_usage(
      "give a command: run, batch, chat, score, bench, info, demo, replay, cache, options, check, tune, rank or "
      "gpu-check; see "
      "tiercel --help");
}

}  // namespace
}  // namespace tiercel::cli

int main(int argc, char** argv) {
  int exit_status = tiercel::cli::kFailed;
  try {
    exit_status = tiercel::cli::run(argc, argv);
  } catch (const std::exception& error) {
    exit_status = tiercel::cli::fail(tiercel::Status::internal(error.what()));
  }
  // What was printed may still be on its way to a full disk.
  if (std::fflush(stdout) != 0 && exit_status == tiercel::cli::kDone) {
    exit_status = tiercel::cli::fail(tiercel::Status::unavailable("cannot write to standard output"));
  }
  return exit_status;
}
