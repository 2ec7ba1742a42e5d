// tiercel replay: what a cache of a given size and policy would have found, by a trace.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/replay_report.h"
#include "cli/report.h"
#include "replay/curve_svg.h"
#include "replay/hit_rate_curve.h"
#include "replay/offline_optimum.h"
#include "replay/replay.h"
#include "replay/trace.h"

namespace tiercel::cli {
namespace {

struct ReplayCommandOptions {
  std::string trace;
  std::vector<std::string> policies = {"lru", "lfu", "adaptive"};
  std::vector<double> fractions;
  std::vector<std::size_t> capacities;
  std::size_t queued = 0;
  double tier_fraction = 0;
  Codec tier_codec = Codec::Int4;
  WritePolicy tier_writes = KvCacheOptions().tier_writes;
  std::uint32_t block_tokens = 512;
  std::size_t block_bytes = 0;
  std::string curve;
};

const std::vector<NamedPolicy>& known_policies() {
  static const std::vector<NamedPolicy> all = {{"lru", lru()}, {"lfu", lfu()}, {"adaptive", adaptive()}};
  return all;
}

std::string check_policy(const std::string& name) {
  std::string known;
  for (const NamedPolicy& policy : known_policies()) {
    if (policy.name == name) return {};
    known += fmt::format("{}{}", known.empty() ? "" : ", ", policy.name);
  }
  return fmt::format("{} is no policy; policies are {}", name, known);
}

// Blocks that a tier keeps in the bytes of one hot block. Measured in docs/codecs.md.
double blocks_per_block(Codec codec) {
  switch (codec) {
    case Codec::Raw: return 1;
    case Codec::Lossless: return 1.4;
    case Codec::Int8: return 2.1;
    case Codec::Int4: return 3.4;
  }
  return 1;
}

std::vector<NamedPolicy> chosen_policies(const ReplayCommandOptions& options) {
  std::vector<NamedPolicy> chosen;
  for (const std::string& name : options.policies) {
    chosen.push_back(*std::ranges::find(known_policies(), name, &NamedPolicy::name));
  }
  return chosen;
}

std::vector<ReplaySize> chosen_sizes(const ReplayCommandOptions& options, const Trace& trace,
                                     const OfflineOptimum& optimum) {
  std::vector<double> fractions = options.fractions;
  if (fractions.empty() && options.capacities.empty()) fractions = {.01, .05, .1, .25, .5};
  std::vector<ReplaySize> sizes;
  for (const double fraction : fractions) {
    const std::size_t blocks = blocks_of_fraction(trace, fraction);
    sizes.push_back({blocks, fraction, optimum.hit_rate(blocks)});
  }
  for (const std::size_t blocks : options.capacities) {
    const double fraction = static_cast<double>(blocks) / static_cast<double>(trace.distinct_blocks);
    sizes.push_back({blocks, fraction, optimum.hit_rate(blocks)});
  }
  return sizes;
}

Status run_all(const ReplayCommandOptions& options, ReplayReport& report) {
  ProgressBar bar;
  const std::vector<NamedPolicy> policies = chosen_policies(options);
  const std::size_t requests = report.trace.requests.size();
  const double total = static_cast<double>(report.sizes.size() * policies.size() * requests);
  for (const ReplaySize& size : report.sizes) {
    for (const NamedPolicy& policy : policies) {
      const auto tell = [&](std::size_t done) {
        bar.show("replay", static_cast<double>(report.runs.size() * requests + done) / total);
      };
      auto result = replay(report.trace,
                           {.eviction = policy.factory,
                            .capacity_blocks = size.blocks,
                            .queued_requests = options.queued,
                            .tier_blocks = report.tier_blocks,
                            .tier_writes = options.tier_writes},
                           tell);
      if (!result.ok()) return result.status();
      report.runs.push_back({policy.name, size, *result});
    }
  }
  return {};
}

Status draw_curve(const ReplayCommandOptions& options, const OfflineOptimum& optimum, ReplayReport& report) {
  ProgressBar bar;
  auto curve = hit_rate_curve(report.trace, optimum, chosen_policies(options), options.queued,
                              [&](double share) { bar.show("curve ", share); });
  if (!curve.ok()) return curve.status();
  const std::string title = "Hit rate by cache size: " + std::filesystem::path(options.trace).filename().string();
  std::ofstream file(options.curve, std::ios::binary | std::ios::trunc);
  file << curve_svg(*curve, report.trace, {.title = title, .block_bytes = options.block_bytes}) << std::flush;
  if (!file) return Status::unavailable(fmt::format("cannot write {}: {}", options.curve, std::strerror(errno)));
  report.curve = *std::move(curve);
  return {};
}

int replay_trace(const ReplayCommandOptions& options, const CliOptions& shared) {
  auto trace = read_trace(options.trace, options.block_tokens);
  if (!trace.ok()) {
    const bool unreadable = trace.status().code() != StatusCode::InvalidArgument;
    return unreadable ? fail_usage(trace.status().message()) : fail(trace.status());
  }
  if (trace->distinct_blocks == 0) {
    return fail(Status::invalid_argument(fmt::format("{} has no hash_ids on any line", options.trace)));
  }
  const OfflineOptimum optimum(*trace);
  ReplayReport report{.path = options.trace,
                      .trace = *std::move(trace),
                      .unbounded_hit_rate = optimum.unbounded_hit_rate(),
                      .block_bytes = options.block_bytes,
                      .tier_blocks = 0,
                      .sizes = {},
                      .runs = {},
                      .curve_file = options.curve,
                      .curve = {}};
  report.sizes = chosen_sizes(options, report.trace, optimum);
  if (options.tier_fraction > 0) {
    const double share = options.tier_fraction * blocks_per_block(options.tier_codec);
    report.tier_blocks = blocks_of_fraction(report.trace, share);
  }
  if (const Status status = run_all(options, report); !status.ok()) return fail(status);
  if (!options.curve.empty()) {
    if (const Status status = draw_curve(options, optimum, report); !status.ok()) return fail(status);
  }
  shared.json ? print_json(to_json(report)) : print_report(report);
  return kDone;
}

CLI::Validator whole_number(std::string expectation, double least, double most) {
  return number(std::move(expectation), [=](double v) { return v >= least && v <= most && v == std::floor(v); });
}

void set_block_bytes(ReplayCommandOptions& options, const std::string& text) {
  const auto bytes = parse_size(text);
  if (!bytes || *bytes == 0) throw CLI::ValidationError("--block-bytes", text + " is not a size such as 720K or 2M");
  options.block_bytes = *bytes;
}

// A list with commas is one argument, so that the trace may follow it.
CLI::Option* as_list(CLI::Option* option) { return option->delimiter(',')->allow_extra_args(false); }

}  // namespace

Command add_replay_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<ReplayCommandOptions>();
  CLI::App* app = program.add_subcommand("replay", "What a cache would find, by a trace: sizes and policies compared");
  app->add_option("TRACE", options->trace, "JSON lines, from --record-trace or in Mooncake's format")->required();
  as_list(app->add_option("--policy", options->policies, "lru, lfu, adaptive; several with commas (default: all)"))
      ->type_name("NAMES")
      ->check(CLI::Validator([](std::string& name) { return check_policy(name); }, ""));
  as_list(app->add_option("--capacity-fraction", options->fractions,
                          "Cache sizes as shares of the trace's distinct blocks (default: 0.01,0.05,0.1,0.25,0.5)"))
      ->type_name("SHARES")
      ->check(number("a number above 0 and at most 1", [](double v) { return v > 0 && v <= 1; }));
  as_list(app->add_option("--capacity", options->capacities, "Cache sizes in blocks"))
      ->type_name("BLOCKS")
      ->check(whole_number("a whole number from 1 to 2^30", 1, 1 << 30));
  app->add_option("--queued", options->queued, "Requests waiting behind each one, which the cache knows (default: 0)")
      ->type_name("N")
      ->check(whole_number("a whole number from 0 to 65536", 0, 65536));
  app->add_option("--tier-fraction", options->tier_fraction,
                  "Bytes of a compressed tier below the cache, as a share of those of all distinct blocks (default: 0)")
      ->type_name("SHARE")
      ->check(number("a number from 0 to 10", [](double v) { return v >= 0 && v <= 10; }));
  add_codec_option(*app, "--tier-codec", options->tier_codec, "raw, lossless, int8 or int4 (default: int4)");
  add_write_policy_option(*app, options->tier_writes);
  app->add_option("--block-tokens", options->block_tokens,
                  "Tokens of a block where the trace does not say (default: 512)")
      ->type_name("N")
      ->check(at_least_one());
  app->add_option("--curve", options->curve, "Draw hit rate by cache size into this SVG file")->type_name("FILE");
  app->add_option_function<std::string>(
         "--block-bytes", [=](const std::string& text) { set_block_bytes(*options, text); },
         "Bytes of a block, to give sizes in bytes too: 720K, ...")
      ->type_name("SIZE");
  app->add_flag("--json", shared.json, "Print one JSON object");
  app->footer(
      "Examples:\n"
      "  tiercel bench --record-trace requests.jsonl && tiercel replay requests.jsonl\n"
      "  tiercel replay trace.jsonl --policy adaptive --capacity-fraction 0.05 --json\n"
      "  tiercel replay trace.jsonl --curve sizes.svg --block-bytes 720K");
  return {app, [=, &shared] { return replay_trace(*options, shared); }};
}

}  // namespace tiercel::cli
