#include "cli/bench_rows.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <thread>

#include <fmt/format.h>

#include "cli/percentile.h"

namespace tiercel::cli {
namespace {

Request completion(std::string text, std::uint32_t tokens) {
  return {.text = std::move(text), .max_tokens = tokens, .ignore_end_of_text = true};
}

std::vector<Request> requests_of(const Work& work) {
  std::vector<Request> requests;
  for (const std::string& prompt : work.prompts) {
    Request request = completion(work.chat ? "" : prompt, work.tokens);
    if (work.chat) request.messages = {{.role = "user", .content = prompt}};
    requests.push_back(std::move(request));
  }
  return requests;
}

// Milliseconds until all of `requests`, sent at once, are answered.
Result<double> time_together(Engine& engine, std::span<const Request> requests) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<ResponseFuture> futures;
  for (const Request& request : requests) futures.push_back(engine.process_request(request));
  for (ResponseFuture& future : futures) {
    if (auto response = future.get(); !response.ok()) return response.status();
  }
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Result<double> time_one(Engine& engine, const Request& request) { return time_together(engine, {&request, 1}); }

// Milliseconds for all requests, `together` at a time: a batch starts when the one before is answered.
Result<double> time_batches(Engine& engine, std::span<const Request> requests, std::size_t together) {
  double total_ms = 0;
  while (!requests.empty()) {
    const std::size_t count = std::min(together, requests.size());
    auto batch_ms = time_together(engine, requests.first(count));
    if (!batch_ms.ok()) return batch_ms;
    total_ms += *batch_ms;
    requests = requests.subspan(count);
  }
  return total_ms;
}

// The shortest of the times to answer each, which is the time to first token where that is all they ask for.
Result<double> best_ttft(Engine& engine, const Work& work) {
  double best_ms = 0;
  for (const Request& request : requests_of(work)) {
    auto one_ms = time_one(engine, request);
    if (!one_ms.ok()) return one_ms;
    best_ms = best_ms == 0 ? *one_ms : std::min(best_ms, *one_ms);
  }
  return best_ms;
}

Result<Figures> measure_ttft(Engine& engine, const Work& work) {
  auto ttft_ms = best_ttft(engine, work);
  if (!ttft_ms.ok()) return ttft_ms.status();
  return Figures{{work.row + "_ttft_ms", *ttft_ms}};
}

Result<Figures> measure_decode(Engine& engine, const Work& work) {
  auto response = engine.process_request(completion(work.prompts.front(), work.tokens)).get();
  if (!response.ok()) return response.status();
  const double decode_s = (response->total_ms - response->ttft_ms) / 1e3;
  return Figures{{work.row + "_tok_s", (work.tokens - 1) / decode_s}};
}

Result<double> requests_a_second(Engine& engine, const Work& work) {
  auto total_ms = time_batches(engine, requests_of(work), work.together);
  if (!total_ms.ok()) return total_ms;
  return 1e3 * static_cast<double>(work.prompts.size()) / *total_ms;
}

Result<Figures> measure_requests(Engine& engine, const Work& work) {
  auto rate = requests_a_second(engine, work);
  if (!rate.ok()) return rate.status();
  return Figures{{fmt::format("{}req_s_{}", work.chat ? "query_" : "", work.together), *rate}};
}

Result<Figures> measure_query(Engine& engine, const Work& work) {
  std::vector<double> latencies_ms;
  for (const Request& request : requests_of(work)) {
    auto one_ms = time_one(engine, request);
    if (!one_ms.ok()) return one_ms.status();
    latencies_ms.push_back(*one_ms);
  }
  return Figures{{"query_p50_ms", percentile(latencies_ms, .5)}, {"query_p95_ms", percentile(latencies_ms, .95)}};
}

}  // namespace

Result<Figures> measure_row(Engine& engine, const Work& work) {
  for (const std::string& prompt : work.before) {
    if (auto primed = time_one(engine, completion(prompt, work.tokens)); !primed.ok()) return primed.status();
  }
  if (work.row == "cold" || work.row == "warm") return measure_ttft(engine, work);
  if (work.row.starts_with("decode")) return measure_decode(engine, work);
  if (work.row == "query") return measure_query(engine, work);
  return measure_requests(engine, work);
}

EngineOptions warm_options(EngineOptions options) {
  options.cache.prefault_bytes = options.cache.capacity_bytes;
  return options;
}

Status wait_until_warm(Engine& engine) {
  if (auto warmed = time_one(engine, completion("Hello there", 4)); !warmed.ok()) return warmed.status();
  for (std::size_t before = 0, resident; (resident = engine.get_stats().memory.resident_bytes) > before;) {
    before = resident;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  return Status();
}

}  // namespace tiercel::cli
