// Other engines, each behind a runner of bench/peers: a process that measures rows of the standard workload.
#pragma once

#include <span>
#include <string>

#include "cli/report.h"
#include "tiercel/status.h"

namespace tiercel::cli {

struct Peer {
  const char* name;    // as --peer takes it
  const char* engine;  // as people know it
  const char* module;  // its runner in bench/peers
};
std::span<const Peer> peers();

struct PeerRun {
  std::string python;         // one that has the runners of bench/peers and what they import
  std::string workload_path;  // a file of workload_json()
  std::string model;          // GGUF file
  std::uint32_t threads = 0;  // 0: what the engine takes by itself
  std::string reference;      // file of log-probabilities to tell the deviation from; empty: it is not measured
};

// version, the figures under the keys of `tiercel bench --json`, and left_out: row -> why.
Result<Json> run_peer(const Peer& peer, const PeerRun& run);

// The object on the last line of what a program wrote: libraries may have written before it.
Result<Json> last_json_line(std::string_view text);

}  // namespace tiercel::cli
