// Traces for tests: written to a file, read as the program reads them.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "replay/trace.h"

namespace tiercel {

// A file that is gone after the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content = {}) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("tiercel_replay_test_" + std::to_string(::getpid()) + "_" + std::to_string(++count) + ".jsonl");
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  std::string path() const { return path_.string(); }
  std::string content() const {
    std::ostringstream text;
    text << std::ifstream(path_, std::ios::binary).rdbuf();
    return text.str();
  }

 private:
  std::filesystem::path path_;
};

inline Trace trace_of(const std::string& lines) {
  const TemporaryFile file(lines);
  auto trace = read_trace(file.path());
  EXPECT_TRUE(trace.ok()) << trace.status().to_string();
  return trace.ok() ? *std::move(trace) : Trace();
}

struct RandomTraceShape {
  std::size_t requests = 200;
  std::size_t most_blocks = 12;      // of a prompt
  double share_known = .7;           // chance that a block follows where one did before
  bool recorded_by_tiercel = false;  // with block_tokens and outputs that later prompts begin with
};

// Lines of requests whose ids stand for prefixes, as in a sound trace. Equal seeds give equal traces.
inline std::string random_trace(std::uint64_t seed, const RandomTraceShape& shape) {
  const std::size_t block_tokens = shape.recorded_by_tiercel ? 4 : 512;
  std::mt19937_64 random(seed);
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  const auto chance = [&](double p) { return static_cast<double>(below(1 << 20)) < p * (1 << 20); };
  std::uint64_t ids = 0;
  std::map<std::uint64_t, std::vector<std::uint64_t>> children;  // 0: the root
  const auto extend = [&](std::vector<std::uint64_t>& path, bool known) {
    std::vector<std::uint64_t>& next = children[path.empty() ? 0 : path.back()];
    if (next.empty() || !known) next.push_back(++ids);
    path.push_back(known ? next[below(next.size())] : next.back());
  };

  std::ostringstream lines;
  for (std::size_t i = 0; i < shape.requests; ++i) {
    std::vector<std::uint64_t> path;
    const std::size_t blocks = below(shape.most_blocks + 1);
    while (path.size() < blocks) extend(path, chance(shape.share_known));
    const std::size_t rest = below(2) * (1 + below(block_tokens - 1));
    const std::size_t prompt_blocks = path.size();
    const std::size_t input_length = prompt_blocks * block_tokens + rest;
    std::vector<std::uint64_t> prompt = path;
    if (rest > 0) prompt.push_back(++ids);
    if (shape.recorded_by_tiercel) {
      for (std::size_t output = below(4); output > 0; --output) extend(path, chance(.5));
    }
    const auto list = [&](const std::vector<std::uint64_t>& values, std::size_t from) {
      for (std::size_t k = from; k < values.size(); ++k) lines << (k > from ? "," : "") << values[k];
    };
    lines << R"({"timestamp":)" << i << R"(,"input_length":)" << input_length << R"(,"output_length":16,"hash_ids":[)";
    list(prompt, 0);
    lines << "]";
    if (shape.recorded_by_tiercel) {
      lines << R"(,"output_ids":[)";
      list(path, prompt_blocks);
      lines << R"(],"block_tokens":)" << block_tokens;
    }
    lines << "}\n";
  }
  return lines.str();
}

}  // namespace tiercel
