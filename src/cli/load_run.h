// A load on an engine, and what each of its requests saw: what tiercel check and tiercel tune measure with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tiercel/engine.h"

namespace tiercel::cli {

// What is asked for. "Query i" is one user message through the model's chat template, where it has one.
struct LoadShape {
  std::uint32_t sequence = 100;   // "Query i", one after the other
  std::uint32_t requests = 1000;  // "Query i", `concurrency` at a time
  std::uint32_t concurrency = 100;
  std::uint32_t shared = 200;        // prompts that share their beginnings, 8 at a time
  std::uint32_t prefixes = 8;        // different beginnings
  std::uint32_t prefix_words = 400;  // of each; every prompt adds 30 of its own
  std::uint32_t max_tokens = 8;      // of every answer, end of text ignored
};

// One request, as its caller sees it.
struct RequestRecord {
  double start_s = 0;  // since the run began
  double queue_ms = 0;
  double ttft_ms = 0;
  double total_ms = 0;  // from the call to the answer, tokenizing included
  std::uint32_t prompt_tokens = 0;
  std::uint32_t reused_tokens = 0;
  std::uint32_t output_tokens = 0;
  StatusCode code = StatusCode::Ok;
};

struct PhaseRecord {
  std::string name;  // "alone", "together", ...
  std::string work;  // what was asked for, as a sentence
  std::vector<RequestRecord> requests;
  double begin_s = 0;
  double end_s = 0;
  std::uint64_t evicted_blocks = 0;
  double load_ms = 0;           // of a request on average, spent on blocks from tiers, by their measured speed
  double recomputed_share = 0;  // of prompt tokens, those whose load from a tier came to nothing

  // Of those that were answered; 0 where none was.
  std::vector<double> latencies_ms() const;
  double requests_per_s() const;
  double hit_rate() const;  // in tokens
  std::size_t errors() const;
  double mean(double RequestRecord::*time_ms) const;
  double mean_tokens(std::uint32_t RequestRecord::*tokens) const;
};

// Runs phases one after the other on one engine and remembers the most memory that the process had meanwhile.
class LoadRun {
 public:
  // `progress`: told how many requests have been sent, on the calling thread.
  LoadRun(Engine& engine, const LoadShape& shape, std::function<void(std::size_t sent)> progress);

  // "Query i" one at a time: with `reuse` false each under a salt of its own, so that nothing comes from the cache.
  PhaseRecord alone(std::string name, std::uint32_t count, bool reuse);
  PhaseRecord together();
  PhaseRecord shared_prefixes();

  std::size_t peak_resident_bytes() const { return peak_resident_bytes_; }

 private:
  PhaseRecord run(PhaseRecord phase, std::uint32_t count, std::uint32_t concurrency,
                  const std::function<Request(std::uint32_t)>& request);
  Request query(std::uint32_t number) const;
  double now_s() const;
  void look_at_memory();

  Engine& engine_;
  const LoadShape shape_;
  const std::function<void(std::size_t)> progress_;
  const std::int64_t begin_ns_;
  std::size_t sent_ = 0;
  std::size_t peak_resident_bytes_ = 0;
};

}  // namespace tiercel::cli
