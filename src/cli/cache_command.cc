// tiercel cache: looking into a directory of the disk tier, without a model.
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/report.h"
#include "tiercel/disk_tier.h"

namespace tiercel::cli {
namespace {

struct CacheOptions {
  std::string directory;
  std::size_t capacity_bytes = 0;
};

std::string name_of(const Fingerprint& fingerprint) {
  return fmt::format("{:016x}{:016x}", fingerprint.words[0], fingerprint.words[1]);
}

int list(const CacheOptions& options, bool json) {
  auto info = inspect_disk_directory(options.directory);
  if (!info.ok()) return fail(info.status());
  if (json) {
    Json segments = Json::array();
    for (const DiskSegmentInfo& segment : info->segments) {
      segments.push_back({{"number", segment.number},
                          {"file_bytes", segment.file_bytes},
                          {"blocks", segment.blocks},
                          {"live_bytes", segment.live_bytes},
                          {"sealed", segment.sealed}});
    }
    print_json({{"directory", options.directory}, {"segments", std::move(segments)}});
    return kDone;
  }
  fmt::print("{}\n", bold(fmt::format("{:>8}{:>12}{:>10}{:>12}  {}", "segment", "size", "blocks", "of use", "state")));
  for (const DiskSegmentInfo& segment : info->segments) {
    fmt::print("{:>8}{:>12}{:>10}{:>12}  {}\n", segment.number, readable_bytes(segment.file_bytes), segment.blocks,
               readable_bytes(segment.live_bytes), segment.sealed ? "sealed" : "open, or its process died");
  }
  return kDone;
}

int stats(const CacheOptions& options, bool json) {
  auto info = inspect_disk_directory(options.directory);
  if (!info.ok()) return fail(info.status());
  if (json) {
    Json models = Json::array();
    for (const DiskModelInfo& model : info->models) {
      models.push_back({{"fingerprint", name_of(model.fingerprint)},
                        {"blocks", model.blocks},
                        {"tokens", model.tokens},
                        {"live_bytes", model.live_bytes}});
    }
    print_json({{"directory", options.directory},
                {"file_bytes", info->file_bytes},
                {"segments", info->segments.size()},
                {"blocks", info->blocks},
                {"locked", info->locked},
                {"models", std::move(models)}});
    return kDone;
  }
  fmt::print("{} in {} segments, {} blocks{}\n", readable_bytes(info->file_bytes), info->segments.size(), info->blocks,
             info->locked ? "; a process writes it now" : "");
  for (const DiskModelInfo& model : info->models) {
    fmt::print("model {}  {} blocks, {} tokens, {}\n", name_of(model.fingerprint), model.blocks, model.tokens,
               readable_bytes(model.live_bytes));
  }
  return kDone;
}

int verify(const CacheOptions& options, bool json) {
  auto found = [&] {
    ProgressBar bar;
    return verify_disk_directory(options.directory, [&](std::size_t done, std::size_t total) {
      bar.show("verify", total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total));
    });
  }();
  if (!found.ok()) return fail(found.status());
  if (json) {
    print_json({{"directory", options.directory},
                {"whole_blocks", found->whole_blocks},
                {"corrupt_blocks", found->corrupt_blocks},
                {"unreadable_bytes", found->unreadable_bytes}});
  } else {
    fmt::print("{} blocks are whole, {} are damaged; {} belong to no record\n", found->whole_blocks,
               found->corrupt_blocks, readable_bytes(found->unreadable_bytes));
  }
  return found->corrupt_blocks == 0 ? kDone : kFailed;
}

int prune(const CacheOptions& options, bool json) {
  auto given_back = prune_disk_directory(options.directory, options.capacity_bytes);
  if (!given_back.ok()) return fail(given_back.status());
  if (json) {
    print_json({{"directory", options.directory}, {"given_back_bytes", *given_back}});
  } else {
    fmt::print("{} given back\n", readable_bytes(*given_back));
  }
  return kDone;
}

}  // namespace

Command add_cache_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<CacheOptions>();
  auto chosen = std::make_shared<int (*)(const CacheOptions&, bool)>(nullptr);
  CLI::App* app = program.add_subcommand("cache", "Look into a directory that --cache-dir filled");
  app->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, int (*action)(const CacheOptions&, bool)) {
    CLI::App* sub = app->add_subcommand(name, help);
    sub->add_option("DIR", options->directory, "The directory")->required();
    sub->add_flag("--json", shared.json, "Print one JSON object");
    sub->callback([=] { *chosen = action; });
    return sub;
  };
  add("ls", "Its segments", list);
  add("stats", "What it holds, by model", stats);
  add("verify", "Read every record and check its hashes; exit status 1 where one is damaged", verify);
  CLI::App* prune_app = add("prune", "Delete the oldest segments; no process may be writing the directory", prune);
  add_size_option(*prune_app, "--to", options->capacity_bytes, "Until so much is left (default: 0, all of it)");
  app->footer(
      "Examples:\n"
      "  tiercel cache stats kv\n"
      "  tiercel cache verify kv --json\n"
      "  tiercel cache prune kv --to 4G");
  return {app, [=, &shared] { return (*chosen)(*options, shared.json); }};
}

}  // namespace tiercel::cli
