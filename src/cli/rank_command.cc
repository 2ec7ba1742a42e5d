// tiercel rank: one of the processes that share a model, for an engine elsewhere.
#include <sys/prctl.h>

#include <csignal>
#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/default_model.h"
#include "cli/report.h"

namespace tiercel::cli {
namespace {

int serve(const CliOptions& shared, bool ends_with_parent) {
  EngineOptions options = shared.engine;
  if (options.ranks.size == 1 || options.ranks.rank == 0 || options.ranks.address.empty()) {
    return fail_usage(
        "give --ranks, their number, --rank, which of them this is (1 or more), and --rank-address, where rank 0 is");
  }
  if (ends_with_parent) ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (options.model.empty()) options.model = default_model_path();
  const Status status = Engine::serve_rank(options);
  return status.ok() ? kDone : fail(status);
}

}  // namespace

Command add_rank_command(CLI::App& program, CliOptions& shared) {
  auto ends_with_parent = std::make_shared<bool>(false);
  CLI::App* app = program.add_subcommand("rank", "Hold a part of a model and compute for the engine that is rank 0");
  app->add_flag("--end-with-parent", *ends_with_parent, "End when the process that started this one does");
  add_shared_options(*app, shared);
  app->footer(
      "Example, on two machines:\n"
      "  tiercel run --ranks 2 --rank-address 10.0.0.1:29500 --prompt \"Once upon a time\"\n"
      "  tiercel rank --ranks 2 --rank-address 10.0.0.1:29500 --rank 1\n"
      "Of the options, --model, --device, --threads, --cpus, --cache-dir and those of ranks count; the others are rank "
      "0's.\n"
      "Where rank 0 computes on a GPU, each rank needs one; where it keeps KV in a directory, each one of its own.");
  return {app, [=, &shared] { return serve(shared, *ends_with_parent); }};
}

}  // namespace tiercel::cli
