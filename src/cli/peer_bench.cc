#include "cli/peer_bench.h"

#include <fstream>

#include <fmt/format.h>

#include "cli/child_process.h"
#include "cli/default_model.h"
#include "cli/peer_comparison.h"
#include "cli/peer_runner.h"
#include "cli/report.h"
#include "options/option_table.h"

namespace tiercel::cli {
namespace {

struct Measured {
  EngineRounds tiercel;
  std::vector<EngineRounds> peers;
  std::vector<std::string> failed;  // engines that are left out, since a round of theirs failed
};

Result<Json> run_tiercel(const std::vector<Work>& workload, const std::string& reference, const CliOptions& shared) {
  std::vector<std::string> arguments = {"bench", "--json"};
  if (!reference.empty()) arguments.insert(arguments.end(), {"--reference", reference});
  for (const Work& work : workload) arguments.insert(arguments.end(), {"--only", work.row});
  auto output = run_this_program(arguments, shared.engine);
  if (!output.ok()) return output.status();
  auto figures = last_json_line(output->text);
  if (figures.ok()) figures->erase("stats");
  return figures;
}

bool is_wanted(const Peer& peer, const PeerBenchOptions& options) {
  return options.peers.empty() || std::ranges::find(options.peers, peer.name) != options.peers.end();
}

Result<Measured> measure_by_turns(const PeerBenchOptions& options, const std::vector<Work>& workload,
                                  const CliOptions& shared) {
  const ScratchDirectory scratch;
  const std::string workload_path = scratch.path() + "/workload.json";
  std::ofstream(workload_path) << workload_json(workload);

  const EngineOptions& engine = shared.engine;
  const PeerRun run{.python = options.python,
                    .workload_path = workload_path,
                    .model = engine.model.empty() ? default_model_path() : engine.model,
                    .threads = engine.threads,
                    .reference = options.reference};

  std::vector<Peer> wanted;
  std::ranges::copy_if(peers(), std::back_inserter(wanted), [&](const Peer& peer) { return is_wanted(peer, options); });
  Measured measured;
  measured.tiercel.engine = "tiercel";
  for (const Peer& peer : wanted) measured.peers.push_back({.engine = peer.engine, .rounds = {}});

  for (std::uint32_t round = 1; round <= options.rounds; ++round) {
    fmt::print(stderr, "bench: round {} of {}, tiercel\n", round, options.rounds);
    auto own = run_tiercel(workload, options.reference, shared);
    if (!own.ok()) return own.status();
    measured.tiercel.rounds.push_back(std::move(*own));
    for (std::size_t i = 0; i < wanted.size();) {
      fmt::print(stderr, "bench: round {} of {}, {}\n", round, options.rounds, wanted[i].engine);
      auto figures = run_peer(wanted[i], run);
      if (figures.ok()) {
        measured.peers[i++].rounds.push_back(std::move(*figures));
        continue;
      }
      fmt::print(stderr, "bench: {} is left out: {}\n", wanted[i].engine, figures.status().message());
      measured.failed.push_back(wanted[i].engine);
      wanted.erase(wanted.begin() + static_cast<std::ptrdiff_t>(i));
      measured.peers.erase(measured.peers.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  return measured;
}

// Why rows of a peer are missing, as its runner says: row -> reason.
Json left_out(const EngineRounds& peer) { return peer.rounds.front().value("left_out", Json::object()); }

std::string version_of(const EngineRounds& peer) { return peer.rounds.front().value("version", ""); }

std::string compute_name(const CliOptions& shared) { return *find_option("compute")->text(shared.engine); }

void print_as_json(const Measured& measured, const std::vector<Comparison>& comparisons, const CliOptions& shared) {
  const Json& machine = measured.tiercel.rounds.front();
  Json json;
  for (const char* key : {"model", "cpu", "simd", "threads"}) json[key] = machine.value(key, Json());
  json["compute"] = compute_name(shared);
  json["rounds"] = measured.tiercel.rounds.size();
  json["engines"] = Json::array({{{"engine", "tiercel"}, {"version", TIERCEL_VERSION}}});
  for (const EngineRounds& peer : measured.peers) {
    json["engines"].push_back({{"engine", peer.engine}, {"version", version_of(peer)}, {"left_out", left_out(peer)}});
  }
  json["failed"] = measured.failed;
  for (const auto& [key, figure] : machine.items()) {
    if (!figure.is_number() || key == "threads") continue;
    json["figures"][key]["tiercel"] = by_round(measured.tiercel, key);
    for (const EngineRounds& peer : measured.peers) {
      if (const auto values = by_round(peer, key); !values.empty()) json["figures"][key][peer.engine] = values;
    }
  }
  json["ratios"] = Json::array();
  for (const Comparison& comparison : comparisons) {
    const Spread spread = spread_of(comparison.of_rounds);
    Json ratio = {{"key", comparison.key}, {"against", comparison.against}, {"by_round", comparison.of_rounds},
                  {"min", spread.min},     {"median", spread.median},       {"max", spread.max}};
    if (const auto& bar = comparison.bar) {
      ratio["bar"] = {{bar->at_most ? "at_most" : "at_least", bar->limit}, {"met", comparison.meets_bar()}};
    }
    json["ratios"].push_back(std::move(ratio));
  }
  print_json(json);
}

std::string readable(double value) {
  return fmt::format("{:.{}f}", value, value < 1 ? 4 : value < 10 ? 2 : value < 100 ? 1 : 0);
}

std::string readable_figures(const EngineRounds& engine, const std::string& key) {
  const auto values = by_round(engine, key);
  if (values.empty()) return "—";
  const Spread spread = spread_of(values);
  return fmt::format("{} ({} to {})", readable(spread.median), readable(spread.min), readable(spread.max));
}

void print_figures(const Measured& measured) {
  std::vector<const EngineRounds*> engines = {&measured.tiercel};
  for (const EngineRounds& peer : measured.peers) engines.push_back(&peer);
  fmt::print("{:<20}", "median (range)");
  for (const EngineRounds* engine : engines) fmt::print("{:<28}", engine->engine);
  fmt::print("\n");
  for (const auto& [key, figure] : measured.tiercel.rounds.front().items()) {
    if (!figure.is_number() || key == "threads") continue;
    fmt::print("{:<20}", key);
    for (const EngineRounds* engine : engines) fmt::print("{:<28}", readable_figures(*engine, key));
    fmt::print("\n");
  }
}

void print_comparison(const Comparison& comparison) {
  const Spread spread = spread_of(comparison.of_rounds);
  const bool is_ratio = !comparison.against.empty();
  const auto written = [&](double value) { return is_ratio ? fmt::format("{:.3f}", value) : readable(value); };
  fmt::print("{:<20}{:<20}{:>8}{:>8}{:>8}", comparison.key, is_ratio ? comparison.against : "(the figure itself)",
             written(spread.min), written(spread.median), written(spread.max));
  if (const auto& bar = comparison.bar) {
    fmt::print("   {} {:<6.4g} {}", bar->at_most ? "at most " : "at least", bar->limit,
               comparison.meets_bar() ? "met" : "missed");
  }
  fmt::print("\n");
}

void print_as_text(const Measured& measured, const std::vector<Comparison>& comparisons, const CliOptions& shared) {
  const Json& machine = measured.tiercel.rounds.front();
  fmt::print("{}, {}, {} threads, {}, {}, {} rounds\n", machine.value("cpu", ""), machine.value("simd", ""),
             machine.value("threads", 0), machine.value("model", ""), compute_name(shared),
             measured.tiercel.rounds.size());
  for (const EngineRounds& peer : measured.peers) fmt::print("{}: {}\n", peer.engine, version_of(peer));
  fmt::print("\n");
  print_figures(measured);
  for (const EngineRounds& peer : measured.peers) {
    const Json rows = left_out(peer);
    for (const auto& [row, why] : rows.items()) {
      fmt::print("{} has no row {}: {}\n", peer.engine, row, why.get<std::string>());
    }
  }
  for (const std::string& engine : measured.failed) fmt::print("{} could not be measured\n", engine);
  if (comparisons.empty()) return;
  fmt::print("\n{:<20}{:<20}{:>8}{:>8}{:>8}   bar, for the median\n", "tiercel's figure", "divided by that of", "min",
             "median", "max");
  for (const Comparison& comparison : comparisons) print_comparison(comparison);
}

}  // namespace

void add_peer_options(CLI::App& app, CLI::Option& with_peers, PeerBenchOptions& options) {
  app.add_option("--peers-python", options.python, "The Python that bench/peers/setup has prepared")
      ->type_name("FILE")
      ->group("Peers");
  app.add_option("--peer", options.peers, "openvino or llama alone (default: both)")
      ->type_name("NAME")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->check(CLI::IsMember({"openvino", "llama"}))
      ->needs(&with_peers)
      ->group("Peers");
  app.add_option("--rounds", options.rounds, "Measure each engine N times, by turns (default: 3)")
      ->check(at_least_one())
      ->type_name("N")
      ->needs(&with_peers)
      ->group("Peers");
}

int bench_with_peers(const PeerBenchOptions& options, const std::vector<Work>& workload, const CliOptions& shared) {
  if (options.python.empty()) {
    return fail_usage("--peers needs --peers-python FILE; bench/peers/setup prepares one");
  }
  auto measured = measure_by_turns(options, workload, shared);
  if (!measured.ok()) return fail(measured.status());
  const auto comparisons = compare(measured->tiercel, measured->peers, shared.engine.compute);
  shared.json ? print_as_json(*measured, comparisons, shared) : print_as_text(*measured, comparisons, shared);
  if (measured->failed.empty()) return kDone;
  return fail(
      Status::unavailable(fmt::format("{} could not be measured; see above", fmt::join(measured->failed, " and "))));
}

}  // namespace tiercel::cli
