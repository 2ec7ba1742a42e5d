#include "cli/cli_options.h"

#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "cli/default_model.h"

namespace tiercel::cli {
namespace {

void set_compute(EngineOptions& engine, const std::string& text) {
  if (text != "fast" && text != "precise") throw CLI::ValidationError("--compute", text + " is not fast or precise");
  engine.compute = text == "fast" ? Compute::Fast : Compute::Precise;
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
            for (const Codec known : {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4}) {
              if (text == to_string(known)) return static_cast<void>(codec = known);
            }
            throw CLI::ValidationError(name, text + " is not raw, lossless, int8 or int4");
          },
          help)
      ->type_name("CODEC");
}

CLI::Option* add_write_policy_option(CLI::App& app, WritePolicy& policy) {
  return app
      .add_option_function<std::string>(
          "--tier-writes",
          [&policy](const std::string& text) {
            if (text != "every" && text != "twice") {
              throw CLI::ValidationError("--tier-writes", text + " is not every or twice");
            }
            policy = text == "every" ? WritePolicy::EveryBlock : WritePolicy::SeenTwice;
          },
          "Write every new block to the tiers, or those seen twice (default: every)")
      ->type_name("WHICH");
}

std::optional<std::size_t> parse_size(std::string_view text) {
  std::size_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc()) return std::nullopt;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit.empty()) return count;
  const std::size_t exponent = std::string_view("KMGT").find(static_cast<char>(std::toupper(unit[0])));
  const bool known = exponent != std::string_view::npos && (unit.size() == 1 || unit.substr(1) == "iB");
  const std::size_t shift = 10 * (exponent + 1);
  if (!known || count > (SIZE_MAX >> shift)) return std::nullopt;
  return count << shift;
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
  EngineOptions& engine = options.engine;
  app.add_option("--model", engine.model,
                 "GGUF file of the model (default: $TIERCEL_MODEL, else the one that ./quickstart fetched)")
      ->type_name("FILE")
      ->group("Engine");
  app.add_option("--threads", engine.threads, "Threads of a step (default: one per core)")
      ->type_name("N")
      ->group("Engine");
  add_size_option(app, "--cache-bytes", engine.cache.capacity_bytes, "Memory for KV: 512M, 2G, ... (default: 1G)")
      ->group("Engine");
  app.add_option("--context", engine.context_tokens, "Longest sequence in tokens (default: what the model allows)")
      ->type_name("N")
      ->group("Engine");
  app.add_option_function<std::string>(
         "--compute", [&engine](const std::string& text) { set_compute(engine, text); },
         "fast, or precise for float32 throughout (default: fast)")
      ->type_name("MODE")
      ->group("Engine");
  app.add_flag("--deterministic", engine.deterministic, "Answers depend on nothing but the request")->group("Engine");
  app.add_flag_callback(
         "--no-prefix-cache", [&engine] { engine.cache.prefix_reuse = false; }, "Compute every prompt in full")
      ->group("Engine");
  app.add_option("--cache-dir", engine.cache.disk_dir, "Keep KV in this directory, for the next process too")
      ->type_name("DIR")
      ->group("Tiers");
  add_size_option(app, "--disk-bytes", engine.cache.disk_capacity_bytes, "Most bytes of its files (default: 16G)")
      ->group("Tiers");
  add_codec_option(app, "--disk-codec", engine.cache.disk_codec, "raw, lossless, int8 or int4 (default: raw)")
      ->group("Tiers");
  add_size_option(app, "--memory-tier", engine.cache.memory_tier_bytes,
                  "Also keep compressed KV in memory (default: 0)")
      ->group("Tiers");
  add_codec_option(app, "--memory-codec", engine.cache.memory_tier_codec, "The same choices (default: lossless)")
      ->group("Tiers");
  add_write_policy_option(app, engine.cache.tier_writes)->group("Tiers");
  app.add_option("--record-trace", engine.cache.record_trace,
                 "Append lengths and block ids of every request, never text, for tiercel replay")
      ->type_name("FILE")
      ->group("Engine");
  app.add_flag("--json", options.json, "Print one JSON object")->group("Engine");
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
