// The standard workload, row by row: what is sent to an engine, whichever it is.
//
// `tiercel bench` sends it to this engine; `tiercel bench --peers` hands the same texts to others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/report.h"

namespace tiercel::cli {

struct Work {
  std::string row;
  std::vector<std::string> prompts;
  std::uint32_t tokens = 1;              // of each answer; the end of text is ignored
  std::size_t context_tokens = 512;      // room for a prompt and its answer
  std::size_t together = 1;              // sent at once; the next so many when all these are answered
  bool chat = false;                     // each prompt is a user's message and goes through the model's chat template
  std::vector<std::string> before = {};  // answered first, not timed
};

// The rows that any engine can be measured on: cold, warm, restart, decode, decode_again, decode_8000, load, req_1,
// req_8, req_32, query, query_100.
std::vector<Work> standard_workload();

// {"rows": [...]}, each with the members of its Work: what bench/peers/rows.py reads.
Json workload_json(const std::vector<Work>& workload);

}  // namespace tiercel::cli
