// The fixed word soup that engines are compared on: every engine, in whatever language it is driven, sees the same
// bytes.
//
// The words are drawn as Python's random.Random(seed).choice draws them, so a script of a few lines makes the same
// prompts: " ".join(r.choice(WORDS) for _ in range(words)).
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace tiercel::cli {

// Python's random.Random(seed): MT19937 (Matsumoto and Nishimura 1998), its state filled by their init_by_array.
class PythonRandom {
 public:
  explicit PythonRandom(std::uint32_t seed);
  // 0 .. bound - 1, as random.choice takes it from a sequence of `bound` items; 1 <= bound < 2^32.
  std::uint32_t below(std::uint32_t bound);

 private:
  std::mt19937 generator_;
};

// One long prompt; 1,950 words are 1,950 tokens of SmolLM2.
std::string document(std::size_t words = 1950, std::uint32_t seed = 1);

// `count` prompts of about 250 tokens: the first 190 words are common to all, the last 60 are each prompt's own.
std::vector<std::string> shared_prefix_prompts(std::size_t count, std::uint32_t seed);

}  // namespace tiercel::cli
