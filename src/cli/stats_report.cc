#include "cli/stats_report.h"

#include <fmt/format.h>

#include "cli/profile_report.h"

namespace tiercel::cli {
namespace {

Json latency_json(const LatencyStats& latency) {
  return {{"count", latency.count}, {"mean", latency.mean_ms}, {"p50", latency.p50_ms}, {"p95", latency.p95_ms},
          {"p99", latency.p99_ms},  {"p999", latency.p999_ms}, {"max", latency.max_ms}};
}

Json figures_json(const RequestFigures& figures) {
  Json hits = Json::object();
  for (const TierHits& of_tier : figures.hits)
    hits[of_tier.tier] = {{"tokens", of_tier.tokens}, {"rate", of_tier.rate}};
  return {{"seconds", figures.seconds},
          {"submitted", figures.submitted},
          {"completed", figures.completed},
          {"failed", figures.failed},
          {"timed_out", figures.timed_out},
          {"cancelled", figures.cancelled},
          {"rejected", figures.rejected},
          {"retries", figures.retries},
          {"error_rate", figures.error_rate},
          {"timeout_rate", figures.timeout_rate},
          {"cancel_rate", figures.cancel_rate},
          {"rejection_rate", figures.rejection_rate},
          {"retry_rate", figures.retry_rate},
          {"prompt_tokens", figures.prompt_tokens},
          {"reused_tokens", figures.reused_tokens},
          {"computed_prompt_tokens", figures.computed_prompt_tokens},
          {"recomputed_prompt_tokens", figures.recomputed_prompt_tokens},
          {"output_tokens", figures.output_tokens},
          {"drafted_tokens", figures.drafted_tokens},
          {"accepted_tokens", figures.accepted_tokens},
          {"hit_rate", figures.hit_rate},
          {"hits", hits},
          {"requests_per_s", figures.requests_per_s},
          {"prompt_tokens_per_s", figures.prompt_tokens_per_s},
          {"output_tokens_per_s", figures.output_tokens_per_s},
          {"preemptions", figures.preemptions},
          {"demotions", figures.demotions},
          {"queue_ms", latency_json(figures.queue)},
          {"ttft_ms", latency_json(figures.ttft)},
          {"per_token_ms", latency_json(figures.per_token)},
          {"total_ms", latency_json(figures.total)}};
}

Json requests_json(const RequestStats& stats) {
  Json json = figures_json(stats);
  json["queued"] = stats.queued;
  json["running"] = stats.running;
  json["window"] = figures_json(stats.window);
  return json;
}

Json io_json(const IoStats& io) {
  return {{"read_bytes", io.read_bytes},
          {"read_blocks", io.read_blocks},
          {"written_bytes", io.written_bytes},
          {"written_blocks", io.written_blocks},
          {"errors", io.errors}};
}

Json tier_json(const KvTierStats& tier) {
  return {{"name", tier.name},
          {"capacity_bytes", tier.store.capacity_bytes},
          {"stored_bytes", tier.store.stored_bytes},
          {"stored_blocks", tier.store.stored_blocks},
          {"matched_tokens", tier.matched_tokens},
          {"read_bytes", tier.store.read_bytes},
          {"read_blocks", tier.store.read_blocks},
          {"missed_blocks", tier.store.missed_blocks},
          {"corrupt_blocks", tier.store.corrupt_blocks},
          {"written_bytes", tier.store.written_bytes},
          {"written_blocks", tier.store.written_blocks},
          {"evicted_blocks", tier.store.evicted_blocks},
          {"errors", tier.errors},
          {"late", tier.late},
          {"reads_available", tier.reads_available},
          {"writes_available", tier.writes_available},
          {"load_bytes_per_s", tier.load_bytes_per_s}};
}

Json replica_json(const ReplicaStats& replica) {
  return {{"submitted", replica.submitted},
          {"completed", replica.completed},
          {"failed", replica.failed},
          {"queued", replica.queued},
          {"running", replica.running},
          {"prompt_tokens", replica.prompt_tokens},
          {"reused_tokens", replica.reused_tokens},
          {"output_tokens", replica.output_tokens},
          {"hit_rate", replica.hit_rate},
          {"steps", replica.steps},
          {"busy_s", replica.busy_s},
          {"kv_capacity_bytes", replica.kv_capacity_bytes},
          {"kv_leased_bytes", replica.kv_leased_bytes},
          {"kv_cached_bytes", replica.kv_cached_bytes},
          {"available", replica.available}};
}

std::string readable_latency(const LatencyStats& latency) {
  if (latency.count == 0) return "none";
  return fmt::format("P50 {:.1f}  P95 {:.1f}  P99 {:.1f}  P99.9 {:.1f}  mean {:.1f}  most {:.1f}", latency.p50_ms,
                     latency.p95_ms, latency.p99_ms, latency.p999_ms, latency.mean_ms, latency.max_ms);
}

std::string readable_io(const IoStats& io) {
  return fmt::format("{} read, {} written, {} errors", readable_bytes(io.read_bytes), readable_bytes(io.written_bytes),
                     io.errors);
}

}  // namespace

Json to_json(const EngineStats& stats) {
  Json json = requests_json(stats);
  Json endpoints = Json::object();
  for (const EndpointStats& endpoint : stats.endpoints) endpoints[endpoint.endpoint] = requests_json(endpoint);
  Json tiers = Json::array();
  for (const KvTierStats& tier : stats.tiers) tiers.push_back(tier_json(tier));
  json["endpoints"] = endpoints;
  json["replicas"] = Json::array();
  for (const ReplicaStats& replica : stats.replicas) json["replicas"].push_back(replica_json(replica));
  json["steps"] = stats.steps;
  json["busy_s"] = stats.busy_s;
  json["engine_cpu_s"] = stats.engine_cpu_s;
  json["engine_cores"] = stats.engine_cores;
  json["process"] = {{"cpu_s", stats.process.cpu_s},
                     {"disk_read_bytes", stats.process.disk_read_bytes},
                     {"disk_written_bytes", stats.process.disk_written_bytes}};
  json["evicted_blocks"] = stats.evicted_blocks;
  json["prefetched_useful_blocks"] = stats.prefetched_useful_blocks;
  if (!stats.profile.empty()) json["profile"] = to_json(stats.profile);
  json["prefetched_wasted_blocks"] = stats.prefetched_wasted_blocks;
  json["tiers"] = tiers;
  json["disk"] = io_json(stats.disk);
  json["network"] = io_json(stats.network);
  json["memory"] = to_json(stats.memory);
  return json;
}

std::vector<std::pair<std::string, std::string>> readable_stats(const EngineStats& stats) {
  std::string found;
  for (const TierHits& hits : stats.hits) found += fmt::format("{:.1f} % {}, ", 100 * hits.rate, hits.tier);
  const double computed = stats.prompt_tokens > 0 ? 1 - stats.hit_rate : 0;
  std::vector<std::pair<std::string, std::string>> rows = {
      {"requests",
       fmt::format("{} completed, {} failed, {} timed out, {} cancelled, {} rejected, {} retries", stats.completed,
                   stats.failed, stats.timed_out, stats.cancelled, stats.rejected, stats.retries)},
      {"now", fmt::format("{} running, {} queued", stats.running, stats.queued)},
      {"prompt tokens", fmt::format("{}: {}{:.1f} % computed ({} tokens after failed loads)", stats.prompt_tokens,
                                    found, 100 * computed, stats.recomputed_prompt_tokens)},
      {"output tokens", fmt::format("{}, {} of {} guessed ahead accepted", stats.output_tokens, stats.accepted_tokens,
                                    stats.drafted_tokens)},
      {"a second", fmt::format("{:.2f} requests, {:.0f} tokens in, {:.0f} out", stats.requests_per_s,
                               stats.prompt_tokens_per_s, stats.output_tokens_per_s)},
      {fmt::format("last {:.0f} s", stats.window.seconds),
       fmt::format("{:.2f} requests, {:.0f} tokens in, {:.0f} out", stats.window.requests_per_s,
                   stats.window.prompt_tokens_per_s, stats.window.output_tokens_per_s)},
      {"queue, ms", readable_latency(stats.queue)},
      {"first token, ms", readable_latency(stats.ttft)},
      {"between tokens, ms", readable_latency(stats.per_token)},
      {"whole request, ms", readable_latency(stats.total)},
      {"gave way", fmt::format("{} blocks evicted, {} requests preempted, {} of them demoted", stats.evicted_blocks,
                               stats.preemptions, stats.demotions)},
      {"prefetched blocks",
       fmt::format("{} useful, {} wasted", stats.prefetched_useful_blocks, stats.prefetched_wasted_blocks)},
      {"processor", fmt::format("{:.1f} s in steps, {:.1f} s in all", stats.engine_cpu_s, stats.process.cpu_s)},
  };
  for (std::size_t i = 0; stats.replicas.size() > 1 && i < stats.replicas.size(); ++i) {
    const ReplicaStats& replica = stats.replicas[i];
    rows.emplace_back(fmt::format("replica {}", i),
                      fmt::format("{} completed, {:.1f} % of {} prompt tokens found, {:.1f} s busy, {} of KV cached{}",
                                  replica.completed, 100 * replica.hit_rate, replica.prompt_tokens, replica.busy_s,
                                  readable_bytes(replica.kv_cached_bytes), replica.available ? "" : ", left alone"));
  }
  for (const KvTierStats& tier : stats.tiers) {
    rows.emplace_back("tier " + tier.name,
                      fmt::format("{} of {}, {} blocks", readable_bytes(tier.store.stored_bytes),
                                  readable_bytes(tier.store.capacity_bytes), tier.store.stored_blocks));
  }
  rows.emplace_back("disk", readable_io(stats.disk));
  return rows;
}

}  // namespace tiercel::cli
