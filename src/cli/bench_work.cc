#include "cli/bench_work.h"

#include <fmt/format.h>

#include "cli/workload.h"

namespace tiercel::cli {
namespace {

constexpr std::size_t kLongContext = 2560;  // for document() and a few words

// `pattern` with each of the numbers from `first` on.
std::vector<std::string> numbered(const std::string& pattern, std::size_t first, std::size_t count) {
  std::vector<std::string> texts;
  for (std::size_t i = first; i < first + count; ++i) texts.push_back(fmt::format(fmt::runtime(pattern), i));
  return texts;
}

}  // namespace

std::vector<Work> standard_workload() {
  const std::string text = document();
  const std::string shared = "Shared. " + text;
  return {
      {.row = "cold", .prompts = numbered("Run {}. " + text, 0, 3), .context_tokens = kLongContext},
      {.row = "warm",
       .prompts = numbered(shared + " B{} what?", 0, 5),
       .context_tokens = kLongContext,
       .before = {shared + " A1?"}},
      {.row = "restart", .prompts = {"Restart. " + text}, .context_tokens = kLongContext},
      {.row = "decode", .prompts = {"Once upon a time"}, .tokens = 129},
      {.row = "decode_again",
       .prompts = {"The history of the sea"},
       .tokens = 129,
       .before = {"The history of the sea"}},
      {.row = "decode_8000", .prompts = {document(7900)}, .tokens = 129, .context_tokens = 8192},
      {.row = "load", .prompts = {"Hello there"}},
      {.row = "req_1", .prompts = shared_prefix_prompts(8, 7), .tokens = 32},
      {.row = "req_8", .prompts = shared_prefix_prompts(64, 7), .tokens = 32, .together = 8},
      {.row = "req_32", .prompts = shared_prefix_prompts(96, 9), .tokens = 32, .together = 32},
      {.row = "query", .prompts = numbered("Query {}", 0, 40), .tokens = 8, .chat = true},
      {.row = "query_100",
       .prompts = numbered("Query {}", 1000, 300),
       .tokens = 8,
       .context_tokens = 128,
       .together = 100,
       .chat = true},
  };
}

Json workload_json(const std::vector<Work>& workload) {
  Json rows = Json::array();
  for (const Work& work : workload) {
    rows.push_back({{"row", work.row},
                    {"prompts", work.prompts},
                    {"tokens", work.tokens},
                    {"context_tokens", work.context_tokens},
                    {"together", work.together},
                    {"chat", work.chat},
                    {"before", work.before}});
  }
  return {{"rows", rows}};
}

}  // namespace tiercel::cli
