#include "cli/cli_options.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>

#include <fmt/format.h>

#include "cli/default_model.h"
#include "cli/local_ranks.h"
#include "tiercel/options_source.h"

namespace tiercel::cli {
namespace {

// How `tiercel --help` describes an option: "Threads of a step; 0: one per core (default: 0)".
std::string help_of(const OptionField& field) {
  if (field.key == "model") return "GGUF file of the model (default: the one that ./quickstart fetched)";
  const std::string by_default = *field.text({});
  if (field.is_flag()) return fmt::format("{}{}", by_default == "true" ? "Off: " : "", field.help);
  return by_default.empty() ? std::string(field.help) : fmt::format("{} (default: {})", field.help, by_default);
}

// A value that the options table refuses ends the command line.
void require(const Status& accepted, const std::string& name) {
  if (!accepted.ok()) throw CLI::ValidationError(name, std::string(accepted.message()));
}

void add_engine_option(CLI::App& app, const OptionField& field, std::vector<GivenOption>& given) {
  const std::string flag(field.flag);
  CLI::Option* option = nullptr;
  if (field.is_flag()) {
    const std::string text = *field.text({}) == "true" ? "false" : "true";
    option = app.add_flag_callback(
        flag,
        [&, text] {
          given.push_back({&field, text});
        },
        help_of(field));
  } else {
    const auto keep = [&](const std::string& text) { given.push_back({&field, text}); };
    option = app.add_option_function<std::string>(flag, keep, help_of(field))->type_name(std::string(field.metavar));
  }
  option->group("Engine");
}

}  // namespace

CLI::Option* add_size_option(CLI::App& app, const std::string& name, std::size_t& bytes, const std::string& help) {
  return app
      .add_option_function<std::string>(
          name,
          [name, &bytes](const std::string& text) {
            const auto parsed = parse_size(text);
            if (!parsed) throw CLI::ValidationError(name, text + " is not a size such as 512M or 2G");
            bytes = *parsed;
          },
          help)
      ->type_name("SIZE");
}

CLI::Option* add_codec_option(CLI::App& app, const std::string& name, Codec& codec, const std::string& help) {
  return app
      .add_option_function<std::string>(
          name,
          [name, &codec](const std::string& text) {
            EngineOptions parsed;
            require(find_option("cache.disk_codec")->set(parsed, name, text), name);
            codec = parsed.cache.disk_codec;
          },
          help)
      ->type_name("CODEC");
}

CLI::Option* add_write_policy_option(CLI::App& app, WritePolicy& policy) {
  const OptionField& field = *find_option("cache.tier_writes");
  return app
      .add_option_function<std::string>(
          std::string(field.flag),
          [&field, &policy](const std::string& text) {
            EngineOptions parsed;
            require(field.set(parsed, field.flag, text), std::string(field.flag));
            policy = parsed.cache.tier_writes;
          },
          help_of(field))
      ->type_name(std::string(field.metavar));
}

CLI::Validator number(std::string expectation, std::function<bool(double)> holds) {
  return CLI::Validator(
      [expectation, holds](std::string& text) {
        char* end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        const bool good = !text.empty() && *end == '\0' && holds(value);
        return good ? std::string() : fmt::format("{} is not {}", text, expectation);
      },
      "");
}

CLI::Validator at_least_one() {
  return number("a whole number of at least 1",
                [](double v) { return v >= 1 && v < 4294967296.0 && v == std::floor(v); });
}

void add_shared_options(CLI::App& app, CliOptions& options) {
  for (const OptionField& field : option_fields()) add_engine_option(app, field, options.given);
  app.add_option(
         "--options", options.options_file,
         "Engine options from this .toml or .json file; the environment (TIERCEL_...) and this line go before it")
      ->type_name("FILE")
      ->group("Engine");
  app.add_flag("--json", options.json, "Print one JSON object")->group("Engine");
}

Status resolve_engine_options(CliOptions& options) {
  if (!options.options_file.empty()) {
    auto loaded = load_options(options.options_file);
    if (!loaded.ok()) return loaded.status();
    options.engine = *std::move(loaded);
  }
  TIERCEL_RETURN_IF_ERROR(apply_environment(options.engine));
  for (const GivenOption& given : options.given) {
    TIERCEL_RETURN_IF_ERROR(given.field->set(options.engine, given.field->flag, given.text));
  }
  EngineOptions checked = options.engine;
  if (checked.model.empty()) checked.model = default_model_path();
  if (checked.ranks.address.empty()) checked.ranks.address = "127.0.0.1:1";  // start_local_ranks() finds one
  return checked.validate();
}

std::vector<std::string> arguments_of(const EngineOptions& engine) {
  std::vector<std::string> arguments;
  for (const OptionField& field : option_fields()) {
    if (field.is_default(engine)) continue;
    arguments.emplace_back(field.flag);
    if (!field.is_flag()) arguments.push_back(*field.text(engine));
  }
  return arguments;
}

Result<ProgramOutput> run_this_program(std::vector<std::string> arguments, const EngineOptions& engine) {
  for (std::string& argument : arguments_of(engine)) arguments.push_back(std::move(argument));
  return run_program("/proc/self/exe", std::move(arguments));
}

void add_sampling_options(CLI::App& app, SamplingOptions& sampling) {
  app.add_option("--temperature", sampling.temperature, "0 always takes the likeliest token (default: 0)")
      ->check(number("a finite number of at least 0", [](double v) { return v >= 0 && std::isfinite(v); }))
      ->type_name("T")
      ->group("Sampling");
  app.add_option("--top-k", sampling.top_k, "Keep the K likeliest tokens; 0: all (default: 0)")
      ->type_name("K")
      ->group("Sampling");
  app.add_option("--top-p", sampling.top_p, "Keep the likeliest tokens that reach probability P (default: 1)")
      ->check(number("a number above 0 and at most 1", [](double v) { return v > 0 && v <= 1; }))
      ->type_name("P")
      ->group("Sampling");
  app.add_option("--min-p", sampling.min_p, "Drop tokens below P times the likeliest (default: 0)")
      ->check(number("a number of at least 0 and below 1", [](double v) { return v >= 0 && v < 1; }))
      ->type_name("P")
      ->group("Sampling");
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "Above 1: repeat less (default: 1)")
      ->check(number("a number above 0 and at most 10", [](double v) { return v > 0 && v <= 10; }))
      ->type_name("R")
      ->group("Sampling");
  app.add_option("--seed", sampling.seed, "Equal seeds draw equal tokens (default: 0)")
      ->type_name("S")
      ->group("Sampling");
}

Result<Engine> open_engine(const CliOptions& options) {
  EngineOptions engine = options.engine;
  if (engine.model.empty()) engine.model = default_model_path();
  std::error_code error;
  if (!std::filesystem::exists(engine.model, error)) {
    return Status::not_found(fmt::format("no model at {}; run ./quickstart or give --model FILE", engine.model));
  }
  TIERCEL_RETURN_IF_ERROR(start_local_ranks(engine));
  return Engine::open(engine);
}

Result<std::string> read_file(const std::string& path) {
  const auto cannot_read = [&] { return fmt::format("cannot read {}: {}", path, std::strerror(errno)); };
  const bool standard_input = path == "-";
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      standard_input ? stdin : std::fopen(path.c_str(), "rb"),
      standard_input ? [](std::FILE*) { return 0; } : [](std::FILE* f) { return std::fclose(f); });
  if (!file) return Status::not_found(cannot_read());
  std::string bytes;
  char buffer[1 << 16];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) bytes.append(buffer, count);
  if (std::ferror(file.get())) return Status::unavailable(cannot_read());
  return bytes;
}

}  // namespace tiercel::cli
