// Text to tokens and back, with the tokenizer of the demonstration model.
#include <benchmark/benchmark.h>

#include <optional>
#include <string>

#include "cli/default_model.h"
#include "cli/workload.h"
#include "gguf/gguf_file.h"
#include "text/tokenizer.h"

namespace tiercel {
namespace {

constexpr const char* kSource = R"(for (std::size_t i = 0; i < count; ++i) {
  if (values[i] > limit_2) return {.index = i, .value = values[i]};  // 3.1415926
}
)";
constexpr const char* kManyScripts =
    "Grüße aus Köln, привет мир, 東京は今日も雨です。 café 🙂🚀 naïve, ελληνικά; ";

std::string repeated(std::string_view text, std::size_t bytes) {
  std::string all;
  while (all.size() < bytes) all += text;
  return all;
}

const std::string& text_of(int kind) {
  static const std::string texts[] = {cli::document(20'000), repeated(kSource, 100'000),
                                      repeated(kManyScripts, 100'000)};
  return texts[kind];
}

// The one tokenizer of the run; null, with the benchmark skipped, where there is no model.
const Tokenizer* tokenizer(benchmark::State& state) {
  static const std::optional<Tokenizer> opened = []() -> std::optional<Tokenizer> {
    auto file = GgufFile::open(cli::default_model_path());
    if (!file.ok()) return std::nullopt;
    auto made = Tokenizer::from_gguf(*file);
    if (!made.ok()) return std::nullopt;
    return std::move(*made);
  }();
  if (!opened) state.SkipWithError("no usable model: set TIERCEL_MODEL or run ./quickstart");
  return opened ? &*opened : nullptr;
}

void encode(benchmark::State& state, int kind) {
  const Tokenizer* made = tokenizer(state);
  if (!made) return;
  const std::string& text = text_of(kind);
  std::size_t tokens = 0;
  for (auto _ : state) tokens = made->encode(text).value().size();
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
  state.counters["bytes_per_token"] = static_cast<double>(text.size()) / static_cast<double>(tokens);
}
BENCHMARK_CAPTURE(encode, words, 0)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, source, 1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, many_scripts, 2)->Unit(benchmark::kMillisecond);

void decode(benchmark::State& state, int kind) {
  const Tokenizer* made = tokenizer(state);
  if (!made) return;
  const std::string& text = text_of(kind);
  const auto tokens = made->encode(text).value();
  for (auto _ : state) benchmark::DoNotOptimize(made->decode(tokens));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}
BENCHMARK_CAPTURE(decode, words, 0)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, many_scripts, 2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tiercel
