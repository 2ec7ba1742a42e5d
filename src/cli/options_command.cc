// tiercel options: the options in effect, as an options file.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "options/options_text.h"

namespace tiercel::cli {
namespace {

int print_options(const CliOptions& shared) {
  auto text =
      shared.json ? format_json(shared.engine, OptionsShown::All) : format_toml(shared.engine, OptionsShown::All);
  if (!text.ok()) return fail(text.status());
  fmt::print("{}", *text);
  return kDone;
}

}  // namespace

Command add_options_command(CLI::App& program, CliOptions& shared) {
  CLI::App* app = program.add_subcommand("options", "Print the options in effect, as a file for --options");
  add_shared_options(*app, shared);
  app->footer("Example:\n  tiercel options --threads 2 --cache-bytes 4G > engine.toml");
  return {app, [&shared] { return print_options(shared); }};
}

}  // namespace tiercel::cli
