#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "cli/gpu_check.h"

namespace tiercel::cli {
namespace {

std::string rate(double per_s, const char* unit) {
  if (per_s == 0) return "";
  return per_s >= 1e12 ? fmt::format("{:.2f} T{}/s", per_s / 1e12, unit)
                       : fmt::format("{:.1f} G{}/s", per_s / 1e9, unit);
}

Status none_of(const char* program) {
  return Status::invalid_argument(fmt::format("{} did not write what was expected; build it again", program));
}

}  // namespace

Result<GpuKernelCheck> kernel_check_of(const std::string& gtest_json) {
  const Json json = Json::parse(gtest_json, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("testsuites")) return none_of("gpu_test");
  GpuKernelCheck check;
  for (const Json& suite : json["testsuites"]) {
    for (const Json& test : suite.value("testsuite", Json::array())) {
      ++check.tests;
      if (test.contains("failures")) {
        check.failed.push_back(suite.value("name", "") + "." + test.value("name", ""));
      }
    }
  }
  return check;
}

Result<std::vector<GpuSpeed>> speeds_of(const std::string& benchmark_json) {
  const Json json = Json::parse(benchmark_json, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("benchmarks")) return none_of("gpu_bench");
  const std::map<std::string, double> microseconds = {{"ns", 1e-3}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}};
  std::vector<GpuSpeed> speeds;
  for (const Json& run : json["benchmarks"]) {
    const auto unit = microseconds.find(run.value("time_unit", "us"));
    if (run.contains("error_occurred") || unit == microseconds.end()) continue;
    std::string name = run.value("name", "");
    for (const std::string_view suffix : {"/manual_time", "/iterations:1"}) {
      if (const std::size_t at = name.find(suffix); at != std::string::npos) name.erase(at, suffix.size());
    }
    speeds.push_back({.name = std::move(name),
                      .time_us = run.value("real_time", 0.0) * unit->second,
                      .bytes_per_s = run.value("bytes/s", 0.0),
                      .flop_per_s = run.value("FLOP/s", 0.0),
                      .share = run.value("share", 0.0)});
  }
  return speeds;
}

std::vector<GpuTarget> targets_of(const std::vector<GpuSpeed>& speeds, const GpuEngineCheck& engine) {
  std::vector<GpuTarget> targets;
  const auto share_of = [&](const char* what, std::string_view name, double bar) {
    const auto found = std::ranges::find(speeds, name, &GpuSpeed::name);
    if (found != speeds.end()) targets.push_back({.what = what, .measured = found->share, .bar = bar});
  };
  share_of("decode attention, share of the memory's bandwidth", "attention/decode/32/8192", 0.8);
  share_of("KV blocks to the GPU, share of the link", "blocks/load/64", 0.85);
  share_of("KV blocks from the GPU, share of the link", "blocks/save/64", 0.85);
  if (engine.cold_ttft_ms > 0) {
    targets.push_back({.what = fmt::format("first token behind {} tokens in host memory, share of computing them",
                                           engine.prompt_tokens),
                       .measured = engine.host_hit_ttft_ms / engine.cold_ttft_ms,
                       .bar = 0.1,
                       .at_least = false});
  }
  return targets;
}

Json to_json(const GpuCheckReport& report) {
  Json speeds = Json::array(), targets = Json::array();
  for (const GpuSpeed& speed : report.speeds) {
    speeds.push_back({{"name", speed.name},
                      {"time_us", speed.time_us},
                      {"bytes_per_s", speed.bytes_per_s},
                      {"flop_per_s", speed.flop_per_s},
                      {"share", speed.share}});
  }
  for (const GpuTarget& target : report.targets) {
    targets.push_back({{"what", target.what},
                       {"measured", target.measured},
                       {target.at_least ? "at_least" : "at_most", target.bar},
                       {"met", target.met()}});
  }
  const GpuEngineCheck& engine = report.engine;
  return {{"gpu", report.gpu},
          {"right", report.is_right()},
          {"kernels", {{"tests", report.kernels.tests}, {"failed", report.kernels.failed}}},
          {"engine",
           {{"prompt_tokens", engine.prompt_tokens},
            {"agrees_with_cpu", engine.agrees_with_cpu},
            {"hits_agree", engine.hits_agree},
            {"cold_ttft_ms", engine.cold_ttft_ms},
            {"device_hit_ttft_ms", engine.device_hit_ttft_ms},
            {"host_hit_ttft_ms", engine.host_hit_ttft_ms},
            {"disk_hit_ttft_ms", engine.disk_hit_ttft_ms},
            {"decode_tokens_per_s", engine.decode_tokens_per_s},
            {"remarks", engine.remarks}}},
          {"targets", targets},
          {"speeds", speeds},
          {"seconds", report.seconds}};
}

std::string to_markdown(const GpuCheckReport& report) {
  std::string text =
      fmt::format("# {}\n\n{}, in {:.0f} s.\n\n", report.gpu,
                  report.is_right() ? "Everything is computed right" : "**Something is wrong**", report.seconds);
  text += fmt::format("Kernels and tiny models against the CPU: {} tests, {} failed.\n", report.kernels.tests,
                      report.kernels.failed.size());
  for (const std::string& name : report.kernels.failed) text += fmt::format("- failed: {}\n", name);
  const GpuEngineCheck& engine = report.engine;
  text += fmt::format(
      "\n| the engine, a prompt of {} tokens | |\n|---|---|\n| greedy tokens are the CPU's (float32) | {} |\n"
      "| answers behind cached KV are those behind computed KV | {} |\n| first token, computed | {:.1f} ms |\n"
      "| KV on the GPU | {:.1f} ms |\n| KV in host memory | {:.1f} ms |\n| KV on disk, after a restart | {:.1f} ms |\n"
      "| decode, one request | {:.0f} tokens/s |\n\n",
      engine.prompt_tokens, engine.agrees_with_cpu ? "yes" : "**no**", engine.hits_agree ? "yes" : "**no**",
      engine.cold_ttft_ms, engine.device_hit_ttft_ms, engine.host_hit_ttft_ms, engine.disk_hit_ttft_ms,
      engine.decode_tokens_per_s);
  for (const std::string& remark : engine.remarks) text += fmt::format("- {}\n", remark);
  text += "| target | measured | bar | |\n|---|---|---|---|\n";
  for (const GpuTarget& target : report.targets) {
    text += fmt::format("| {} | {:.2f} | {} {:.2f} | {} |\n", target.what, target.measured,
                        target.at_least ? "at least" : "at most", target.bar, target.met() ? "met" : "missed");
  }
  text += "\n| case | time | bytes | arithmetic | share of the bound |\n|---|---|---|---|---|\n";
  for (const GpuSpeed& speed : report.speeds) {
    text +=
        fmt::format("| {} | {:.1f} us | {} | {} | {} |\n", speed.name, speed.time_us, rate(speed.bytes_per_s, "B"),
                    rate(speed.flop_per_s, "FLOP"), speed.share > 0 ? fmt::format("{:.0f} %", 100 * speed.share) : "");
  }
  return text;
}

}  // namespace tiercel::cli
