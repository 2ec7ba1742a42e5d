// The commands of the program, one file each.
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

#include "cli/cli_options.h"

namespace tiercel::cli {

struct Command {
  CLI::App* app;             // its name, options and help
  std::function<int()> run;  // after parsing; returns the exit status
};

// Each adds its command to `program`. `shared` must outlive the command.
Command add_run_command(CLI::App& program, CliOptions& shared);
Command add_batch_command(CLI::App& program, CliOptions& shared);
Command add_chat_command(CLI::App& program, CliOptions& shared);
Command add_score_command(CLI::App& program, CliOptions& shared);
Command add_bench_command(CLI::App& program, CliOptions& shared);
Command add_info_command(CLI::App& program, CliOptions& shared);
Command add_demo_command(CLI::App& program, CliOptions& shared);
Command add_replay_command(CLI::App& program, CliOptions& shared);
Command add_cache_command(CLI::App& program, CliOptions& shared);
Command add_check_command(CLI::App& program, CliOptions& shared);
Command add_tune_command(CLI::App& program, CliOptions& shared);
Command add_rank_command(CLI::App& program, CliOptions& shared);
Command add_gpu_check_command(CLI::App& program, CliOptions& shared);
Command add_options_command(CLI::App& program, CliOptions& shared);

}  // namespace tiercel::cli
