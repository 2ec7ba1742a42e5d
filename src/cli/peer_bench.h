// tiercel bench --peers: this engine and others on the same work, by turns, one process at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/bench_work.h"
#include "cli/cli_options.h"

namespace tiercel::cli {

struct PeerBenchOptions {
  std::string python;              // one that has the runners of bench/peers and what they import
  std::vector<std::string> peers;  // names of those to measure; none: all
  std::uint32_t rounds = 3;
  std::string reference;  // file of log-probabilities to tell the deviation from; empty: it is not measured
};

// --peers-python, --peer and --rounds, each only together with `with_peers`. `options` must outlive the parsing.
void add_peer_options(CLI::App& app, CLI::Option& with_peers, PeerBenchOptions& options);

// Measures each engine in a new process in every round and prints the ratios; returns the exit status, which is a
// failure where tiercel or one of the peers could not be measured.
int bench_with_peers(const PeerBenchOptions& options, const std::vector<Work>& workload, const CliOptions& shared);

}  // namespace tiercel::cli
