// Rows of `tiercel bench` that need more than one request or process at a time: how streams fare beside long prompts,
// and beside another program.
#pragma once

#include "tiercel/engine.h"

namespace tiercel::cli {

// Gaps between the tokens of running streams while prompts of 2,000 tokens arrive, half of the time. A stream is one
// answer of 256 tokens after another: in one that grew for all that time, the first gap and the last have little in
// common.
struct StreamGaps {
  double p50_ms = 0;
  double p99_ms = 0;
  double prompt_ttft_ms = 0;  // of the prompts, median
};
Result<StreamGaps> measure_stream_gaps(Engine& engine, std::size_t streams);

// Output tokens a second of one request, alone and beside a process that keeps one core busy.
struct NeighbourSpeed {
  double alone_tok_s = 0;
  double beside_tok_s = 0;
};
Result<NeighbourSpeed> measure_beside_busy_process(Engine& engine);

// Share of one core that an engine without requests uses.
double measure_idle_cpu_share();

}  // namespace tiercel::cli
