#include "cli/peer_runner.h"

#include <fmt/format.h>

#include "cli/child_process.h"
#include "cli/peer_comparison.h"

namespace tiercel::cli {

std::span<const Peer> peers() {
  static constexpr Peer kPeers[] = {{"openvino", kOpenVino, "openvino_peer"}, {"llama", kLlama, "llama_peer"}};
  return kPeers;
}

Result<Json> last_json_line(std::string_view text) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  Json figures = Json::parse(text.substr(text.rfind('\n') + 1), nullptr, /*allow_exceptions=*/false);
  if (!figures.is_object()) return Status::internal("no JSON object on the last line of its output");
  return figures;
}

Result<Json> run_peer(const Peer& peer, const PeerRun& run) {
  std::vector<std::string> arguments = {
      "-m",      peer.module, "--workload", run.workload_path, "--threads", fmt::format("{}", run.threads),
      "--model", run.model};
  if (!run.reference.empty()) arguments.insert(arguments.end(), {"--reference", run.reference});
  auto output = run_program(run.python, std::move(arguments));
  if (!output.ok()) return output.status();
  return last_json_line(output->text);
}

}  // namespace tiercel::cli
