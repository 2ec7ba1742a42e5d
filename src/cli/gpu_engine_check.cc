#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "cli/child_process.h"
#include "cli/gpu_check.h"
#include "cli/workload.h"
#include "tiercel/engine.h"

namespace tiercel::cli {
namespace {

constexpr std::uint32_t kAnswerTokens = 8;
constexpr std::uint32_t kDecodeTokens = 128;
constexpr std::uint32_t kFlushTimeout_ms = 30'000;

Result<Response> answer(Engine& engine, std::string text, std::uint32_t max_tokens) {
  return engine.process_request({.text = std::move(text), .max_tokens = max_tokens, .ignore_end_of_text = true}).get();
}

std::uint32_t reused_from(const Response& response, std::string_view tier) {
  for (const auto& [name, tokens] : response.reused_by_tier) {
    if (name == tier) return tokens;
  }
  return 0;
}

Result<bool> agrees_with_cpu(EngineOptions options) {
  options.compute = Compute::Precise;
  options.cache.capacity_bytes = std::size_t{256} << 20;
  std::vector<std::vector<TokenId>> answers[2];
  for (const bool on_gpu : {true, false}) {
    if (!on_gpu) options.device = "cpu";
    auto engine = Engine::open(options);
    if (!engine.ok()) return engine.status();
    for (const char* prompt : {"The capital of France is", "Once upon a time", "1 2 3 4 5 6 7"}) {
      auto response = answer(*engine, prompt, 2 * kAnswerTokens);
      if (!response.ok()) return response.status();
      answers[on_gpu].push_back(std::move(response->tokens));
    }
  }
  return answers[0] == answers[1];
}

// Blocks go to a tier in the background, and only while the GPU still has them.
void wait_until_stored(Engine& engine, std::size_t blocks) {
  constexpr auto kPause = std::chrono::milliseconds(20);
  for (int i = 0; i < 500 && engine.get_stats().tiers.front().stored_blocks < blocks; ++i) {
    std::this_thread::sleep_for(kPause);
  }
}

// The long prompt where its KV is in `tier` ("": nowhere), held to the answer of a computed one.
Status measure(Engine& engine, const std::string& prompt, std::string_view tier, double& ttft_ms,
               std::vector<TokenId>& tokens, GpuEngineCheck& check) {
  auto response = answer(engine, prompt, kAnswerTokens);
  if (!response.ok()) return response.status();
  ttft_ms = response->ttft_ms;
  check.prompt_tokens = response->prompt_tokens.size();
  if (tokens.empty()) tokens = response->tokens;
  if (response->tokens != tokens) {
    check.hits_agree = false;
    check.remarks.push_back(fmt::format("behind KV from {} the answer is another", tier));
  }
  // A little of it may still be on the GPU, and a part is computed where that takes less.
  if (!tier.empty() && reused_from(*response, tier) < check.prompt_tokens / 2) {
    check.hits_agree = false;
    check.remarks.push_back(
        fmt::format("of {} prompt tokens {} came from {}", check.prompt_tokens, reused_from(*response, tier), tier));
  }
  return {};
}

}  // namespace

Result<GpuEngineCheck> check_engine_on_gpu(const EngineOptions& given, std::size_t prompt_tokens) {
  GpuEngineCheck check{.hits_agree = true};
  EngineOptions options = given;
  options.speculation = false;
  auto agrees = agrees_with_cpu(options);
  if (!agrees.ok()) return agrees.status();
  check.agrees_with_cpu = *agrees;
  if (!*agrees) check.remarks.emplace_back("in float32 greedy tokens differ from the CPU's");

  // An arena for one such prompt: another one sends the first to host memory.
  const ScratchDirectory scratch;
  options.deterministic = true;
  const std::string first = document(prompt_tokens, 1), second = document(prompt_tokens, 2);
  std::vector<TokenId> tokens;
  {
    EngineOptions probe = options;
    probe.cache.capacity_bytes = std::size_t{1} << 30;
    auto engine = Engine::open(probe);
    if (!engine.ok()) return engine.status();
    TIERCEL_RETURN_IF_ERROR(answer(*engine, "warming up", kAnswerTokens).status());
    TIERCEL_RETURN_IF_ERROR(measure(*engine, first, "", check.cold_ttft_ms, tokens, check));
    TIERCEL_RETURN_IF_ERROR(measure(*engine, first, "hot", check.device_hit_ttft_ms, tokens, check));
    auto decoded = answer(*engine, "Once upon a time", kDecodeTokens);
    if (!decoded.ok()) return decoded.status();
    const EngineInfo& info = engine->info();
    options.cache.capacity_bytes = info.kv_token_bytes * (check.prompt_tokens + kAnswerTokens + 4 * info.block_tokens);
    check.decode_tokens_per_s = (kDecodeTokens - 1) / ((decoded->total_ms - decoded->ttft_ms) / 1e3);
  }
  options.cache.memory_tier_bytes = 4 * options.cache.capacity_bytes;
  options.cache.memory_tier_codec = Codec::Raw;
  {
    auto engine = Engine::open(options);
    if (!engine.ok()) return engine.status();
    double unused = 0;
    TIERCEL_RETURN_IF_ERROR(measure(*engine, first, "", unused, tokens, check));
    wait_until_stored(*engine, check.prompt_tokens / engine->info().block_tokens);
    TIERCEL_RETURN_IF_ERROR(answer(*engine, second, kAnswerTokens).status());
    TIERCEL_RETURN_IF_ERROR(measure(*engine, first, "memory", check.host_hit_ttft_ms, tokens, check));
  }
  options.cache.memory_tier_bytes = 0;
  options.cache.disk_dir = scratch.path();
  for (const bool again : {false, true}) {
    auto engine = Engine::open(options);
    if (!engine.ok()) return engine.status();
    TIERCEL_RETURN_IF_ERROR(measure(*engine, first, again ? "disk" : "", check.disk_hit_ttft_ms, tokens, check));
    TIERCEL_RETURN_IF_ERROR(engine->flush(kFlushTimeout_ms));
  }
  return check;
}

}  // namespace tiercel::cli
