// How the commands speak: answers on standard output, everything else on standard error, and the exit status.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "tiercel/request.h"
#include "tiercel/stats.h"
#include "tiercel/status.h"

namespace tiercel::cli {

// Fields in the order they were put in.
using Json = nlohmann::ordered_json;

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kBadUsage = 2;

// Print "tiercel: MESSAGE" as one line on standard error and return the exit status.
int fail(const Status& status);
int fail_usage(std::string_view message);

// One object on one line. Bytes of `json` that are no UTF-8 become U+FFFD.
void print_json(const Json& json);

// Whether standard output is a terminal that people read.
bool on_terminal();
// The text in an ANSI style on a terminal, as it is elsewhere.
std::string dim(std::string_view text);
std::string bold(std::string_view text);

// "1.3 GiB", "640 B".
std::string readable_bytes(std::size_t bytes);

// text, ids, tokens_in, tokens_reused, reused_by_tier, tokens_out, finish_reason, ttft_ms, total_ms.
Json to_json(const Response& response);
// One field per member of MemoryStats.
Json to_json(const MemoryStats& memory);

// "31 tokens in (0 reused), 12 out, first after 41 ms, 230 ms in all, stop".
std::string summary_of(const Response& response);
// What uses the memory -> how much, for a person.
std::vector<std::pair<std::string, std::string>> readable_memory(const MemoryStats& memory);

}  // namespace tiercel::cli
