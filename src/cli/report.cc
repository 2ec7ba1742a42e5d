#include "cli/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

namespace tiercel::cli {
namespace {

int print_error(std::string message, int exit_status) {
  std::ranges::replace(message, '\n', ' ');
  fmt::print(stderr, "tiercel: {}\n", message);
  return exit_status;
}

std::string styled(std::string_view text, const char* style) {
  return on_terminal() ? fmt::format("\033[{}m{}\033[0m", style, text) : std::string(text);
}

}  // namespace

int fail(const Status& status) { return print_error(status.message(), kFailed); }

int fail_usage(std::string_view message) { return print_error(std::string(message), kBadUsage); }

void print_json(const Json& json) { fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace)); }

bool on_terminal() {
  static const bool answer = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  return answer;
}

std::string dim(std::string_view text) { return styled(text, "2"); }
std::string bold(std::string_view text) { return styled(text, "1"); }

std::string readable_bytes(std::size_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

Json to_json(const Response& response) {
  Json by_tier = Json::object();
  for (const auto& [tier, tokens] : response.reused_by_tier) by_tier[tier] = tokens;
  return {{"text", response.text},
          {"ids", response.tokens},
          {"tokens_in", response.prompt_tokens.size()},
          {"tokens_reused", response.reused_tokens},
          {"reused_by_tier", by_tier},
          {"tokens_out", response.tokens.size()},
          {"tokens_drafted", response.drafted_tokens},
          {"tokens_accepted", response.accepted_tokens},
          {"finish_reason", to_string(response.finish_reason)},
          {"ttft_ms", response.ttft_ms},
          {"total_ms", response.total_ms}};
}

Json to_json(const MemoryStats& memory) {
  return {{"limit_bytes", memory.limit_bytes},
          {"limited_bytes", memory.limited_bytes},
          {"weights_bytes", memory.weights_bytes},
          {"mapped_weights_bytes", memory.mapped_weights_bytes},
          {"kv_capacity_bytes", memory.kv_capacity_bytes},
          {"kv_leased_bytes", memory.kv_leased_bytes},
          {"kv_cached_bytes", memory.kv_cached_bytes},
          {"kv_free_bytes", memory.kv_free_bytes},
          {"kv_metadata_bytes", memory.kv_metadata_bytes},
          {"workspace_bytes", memory.workspace_bytes},
          {"resident_bytes", memory.resident_bytes}};
}

std::string summary_of(const Response& response) {
  return fmt::format("{} tokens in ({} reused), {} out, first after {:.0f} ms, {:.0f} ms in all, {}",
                     response.prompt_tokens.size(), response.reused_tokens, response.tokens.size(), response.ttft_ms,
                     response.total_ms, to_string(response.finish_reason));
}

std::vector<std::pair<std::string, std::string>> readable_memory(const MemoryStats& memory) {
  return {{"weights, packed", readable_bytes(memory.weights_bytes)},
          {"weights, mapped file", readable_bytes(memory.mapped_weights_bytes)},
          {"KV, most it may take", readable_bytes(memory.kv_capacity_bytes)},
          {"KV, running requests", readable_bytes(memory.kv_leased_bytes)},
          {"KV, cached prefixes", readable_bytes(memory.kv_cached_bytes)},
          {"KV, index", readable_bytes(memory.kv_metadata_bytes)},
          {"workspace of a step", readable_bytes(memory.workspace_bytes)},
          {"limit", memory.limit_bytes == 0
                        ? "none"
                        : readable_bytes(memory.limited_bytes) + " at most, of " + readable_bytes(memory.limit_bytes)},
          {"resident, whole process", readable_bytes(memory.resident_bytes)}};
}

}  // namespace tiercel::cli
