// A trace of prefix blocks in memory: what docs/trace_format.md describes, read from a file of JSON lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

struct TraceRequest {
  std::uint64_t input_tokens = 0;
  std::size_t first_block = 0;         // of shared_blocks(), in Trace::blocks
  std::uint32_t requested_blocks = 0;  // of the prompt, a partial one at its end included
  std::uint32_t prompt_blocks = 0;     // of these, full and left in the cache
  std::uint32_t matchable_blocks = 0;  // of these, the leading ones that may come from the cache
  std::uint32_t output_blocks = 0;     // behind them, left in the cache as well
};

struct Trace {
  std::uint32_t block_tokens = 0;
  std::vector<TraceRequest> requests;
  // An id of the file is one token here, numbered from 0 by first appearance. A token that is one block: so the cache
  // is driven with content of its own kind.
  std::vector<TokenId> blocks;
  std::size_t distinct_blocks = 0;  // ids in the file, those of partial blocks and of outputs included
  std::uint64_t accesses = 0;       // sum of requested_blocks
  std::uint64_t input_tokens = 0;

  // The full blocks that the request leaves in the cache, its prompt's before its output's.
  std::span<const TokenId> shared_blocks(const TraceRequest& request) const {
    return std::span(blocks).subspan(request.first_block, request.prompt_blocks + request.output_blocks);
  }
};

// `unsaid_block_tokens`: of a block where a line has no block_tokens.
//   NotFound         no such file
//   Unavailable      it cannot be read
//   InvalidArgument  it holds no request, or "FILE:LINE: " and what is wrong there
Result<Trace> read_trace(const std::string& path, std::uint32_t unsaid_block_tokens = 512);

}  // namespace tiercel
