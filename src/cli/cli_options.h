// Options that several commands share, bound to the structs that the engine takes.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/child_process.h"
#include "options/option_table.h"
#include "tiercel/engine.h"

namespace tiercel::cli {

// What the command line gives one engine option.
struct GivenOption {
  const OptionField* field;
  std::string text;
};

struct CliOptions {
  std::string options_file;        // --options; empty: none
  std::vector<GivenOption> given;  // in order
  EngineOptions engine;            // by resolve_engine_options(); model empty: default_model_path()
  bool json = false;               // one JSON object on standard output instead of text
};

// Adds an option that takes a size such as 512M. `bytes` must outlive the parsing.
CLI::Option* add_size_option(CLI::App& app, const std::string& name, std::size_t& bytes, const std::string& help);
// Adds an option that names a codec. `codec` must outlive the parsing.
CLI::Option* add_codec_option(CLI::App& app, const std::string& name, Codec& codec, const std::string& help);
// --tier-writes, as of the engine
CLI::Option* add_write_policy_option(CLI::App& app, WritePolicy& policy);

// Refuses a value that is no number or for which `holds` is false: "nan is not EXPECTATION". (CLI11's own range check
// lets NaN pass.)
CLI::Validator number(std::string expectation, std::function<bool(double)> holds);
// A whole number from 1 to 2^32 - 1.
CLI::Validator at_least_one();

// --options, --json and one for each engine option. Given to the program and to every command, so that they may stand
// before the command's name as well as after it. `options` must outlive the parsing.
void add_shared_options(CLI::App& app, CliOptions& options);

// After parsing: options.engine from the file, then the environment, then the command line. InvalidArgument or
// NotFound, which say what to change.
Status resolve_engine_options(CliOptions& options);

// The arguments that give another process of this program these engine options, whatever its environment.
std::vector<std::string> arguments_of(const EngineOptions& engine);
// Runs this program with `arguments` and those that give it these engine options, whatever its environment.
Result<ProgramOutput> run_this_program(std::vector<std::string> arguments, const EngineOptions& engine);

// --temperature and its companions. A value out of range, NaN among them, is a usage error.
void add_sampling_options(CLI::App& app, SamplingOptions& sampling);

// Opens the engine. The status of a missing model says how to get one.
Result<Engine> open_engine(const CliOptions& options);

// All bytes of a file, or of standard input for "-", exactly as they are. NotFound or Unavailable with a message that
// names the file.
Result<std::string> read_file(const std::string& path);

}  // namespace tiercel::cli
