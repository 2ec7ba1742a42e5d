#include "cli/load_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <semaphore>
#include <utility>

#include <fmt/format.h>

#include "cli/workload.h"

namespace tiercel::cli {
namespace {

constexpr std::uint32_t kSharedConcurrency = 8;
constexpr std::size_t kOwnWords = 30;
constexpr std::uint32_t kRequestsPerLook = 25;  // at the memory

std::int64_t clock_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// What the tiers' reading took from one moment to the other, by their measured speeds.
double load_s(const EngineStats& before, const EngineStats& after, double block_bytes) {
  double seconds = 0;
  for (std::size_t i = 0; i < after.tiers.size(); ++i) {
    const auto blocks = static_cast<double>(after.tiers[i].loaded_blocks - before.tiers[i].loaded_blocks);
    if (after.tiers[i].load_bytes_per_s > 0) seconds += blocks * block_bytes / after.tiers[i].load_bytes_per_s;
  }
  return seconds;
}

}  // namespace

std::vector<double> PhaseRecord::latencies_ms() const {
  std::vector<double> latencies;
  for (const RequestRecord& request : requests) {
    if (request.code == StatusCode::Ok) latencies.push_back(request.total_ms);
  }
  return latencies;
}

double PhaseRecord::requests_per_s() const {
  return end_s > begin_s ? static_cast<double>(requests.size() - errors()) / (end_s - begin_s) : 0;
}

double PhaseRecord::hit_rate() const {
  const double tokens = mean_tokens(&RequestRecord::prompt_tokens);
  return tokens > 0 ? mean_tokens(&RequestRecord::reused_tokens) / tokens : 0;
}

std::size_t PhaseRecord::errors() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(requests, [](const RequestRecord& request) { return request.code != StatusCode::Ok; }));
}

double PhaseRecord::mean(double RequestRecord::*time_ms) const {
  double sum = 0;
  for (const RequestRecord& request : requests) sum += request.*time_ms;  // 0 of those not answered
  const std::size_t answered = requests.size() - errors();
  return answered > 0 ? sum / static_cast<double>(answered) : 0;
}

double PhaseRecord::mean_tokens(std::uint32_t RequestRecord::*tokens) const {
  double sum = 0;
  for (const RequestRecord& request : requests) sum += request.*tokens;
  const std::size_t answered = requests.size() - errors();
  return answered > 0 ? sum / static_cast<double>(answered) : 0;
}

LoadRun::LoadRun(Engine& engine, const LoadShape& shape, std::function<void(std::size_t sent)> progress)
    : engine_(engine), shape_(shape), progress_(std::move(progress)), begin_ns_(clock_ns()) {}

double LoadRun::now_s() const { return 1e-9 * static_cast<double>(clock_ns() - begin_ns_); }

void LoadRun::look_at_memory() {
  peak_resident_bytes_ = std::max(peak_resident_bytes_, engine_.get_stats().memory.resident_bytes);
}

Request LoadRun::query(std::uint32_t number) const {
  Request request{.max_tokens = shape_.max_tokens, .ignore_end_of_text = true};
  std::string text = fmt::format("Query {}", number);
  if (engine_.info().has_chat_template) {
    request.messages = {{.role = "user", .content = std::move(text)}};
  } else {
    request.text = std::move(text);
  }
  return request;
}

PhaseRecord LoadRun::alone(std::string name, std::uint32_t count, bool reuse) {
  PhaseRecord phase{.name = std::move(name),
                    .work = fmt::format("\"Query i\" one at a time{}", reuse ? "" : ", nothing from the cache"),
                    .requests = {}};
  const std::string salt = phase.name;
  return run(std::move(phase), count, 1, [&](std::uint32_t i) {
    Request request = query(i);
    if (!reuse) request.cache_salt = fmt::format("{} {}", salt, i);
    return request;
  });
}

PhaseRecord LoadRun::together() {
  PhaseRecord phase{
      .name = "together", .work = fmt::format("\"Query i\", {} at a time", shape_.concurrency), .requests = {}};
  return run(std::move(phase), shape_.requests, shape_.concurrency,
             [this](std::uint32_t i) { return query(shape_.sequence + i); });
}

PhaseRecord LoadRun::shared_prefixes() {
  std::vector<std::string> beginnings;
  for (std::uint32_t i = 0; i < shape_.prefixes; ++i) beginnings.push_back(document(shape_.prefix_words, 100 + i));
  PhaseRecord phase{.name = "shared",
                    .work = fmt::format("one of {} beginnings of {} words and {} words of its own, {} at a time",
                                        shape_.prefixes, shape_.prefix_words, kOwnWords, kSharedConcurrency),
                    .requests = {}};
  PythonRandom random(11);
  return run(std::move(phase), shape_.shared, kSharedConcurrency, [&](std::uint32_t i) {
    return Request{.text = beginnings[random.below(shape_.prefixes)] + " " + document(kOwnWords, 1000 + i),
                   .max_tokens = shape_.max_tokens,
                   .ignore_end_of_text = true};
  });
}

PhaseRecord LoadRun::run(PhaseRecord phase, std::uint32_t count, std::uint32_t concurrency,
                         const std::function<Request(std::uint32_t)>& make_request) {
  const EngineStats before = engine_.get_stats();
  phase.requests.resize(count);
  phase.begin_s = now_s();
  std::counting_semaphore<> places(concurrency);
  for (std::uint32_t i = 0; i < count; ++i) {
    Request request = make_request(i);
    places.acquire();
    RequestRecord& record = phase.requests[i];
    record.start_s = now_s();
    engine_.process_request(std::move(request)).then([this, &record, &places](Result<Response> response) {
      record.code = response.status().code();
      if (response.ok()) {
        record.total_ms = 1e3 * (now_s() - record.start_s);
        record.queue_ms = response->queue_ms;
        record.ttft_ms = response->ttft_ms;
        record.prompt_tokens = static_cast<std::uint32_t>(response->prompt_tokens.size());
        record.reused_tokens = response->reused_tokens;
        record.output_tokens = static_cast<std::uint32_t>(response->tokens.size());
      }
      places.release();
    });
    progress_(++sent_);
    if (i % kRequestsPerLook == 0) look_at_memory();
  }
  for (std::uint32_t i = 0; i < concurrency; ++i) places.acquire();
  phase.end_s = now_s();
  look_at_memory();

  const EngineStats after = engine_.get_stats();
  phase.evicted_blocks = after.evicted_blocks - before.evicted_blocks;
  const auto block_bytes = static_cast<double>(engine_.info().kv_token_bytes * engine_.info().block_tokens);
  if (count > 0) phase.load_ms = 1e3 * load_s(before, after, block_bytes) / count;
  if (const std::uint64_t tokens = after.prompt_tokens - before.prompt_tokens; tokens > 0) {
    phase.recomputed_share = static_cast<double>(after.recomputed_prompt_tokens - before.recomputed_prompt_tokens) /
                             static_cast<double>(tokens);
  }
  return phase;
}

}  // namespace tiercel::cli
