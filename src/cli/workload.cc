#include "cli/workload.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>

namespace tiercel::cli {
namespace {

constexpr std::size_t kSharedWords = 190;
constexpr std::size_t kOwnWords = 60;

constexpr std::string_view kWords[] = {"the",   "king",   "of",     "a",     "small", "land",  "had",   "two",
                                       "cats",  "and",    "one",    "dog",   "who",   "ran",   "over",  "hills",
                                       "near",  "water",  "when",   "rain",  "came",  "down",  "at",    "night",
                                       "and",   "people", "said",   "that",  "good",  "bread", "makes", "strong",
                                       "hands", "while",  "winter", "turns", "every", "river", "into",  "glass"};

// Hands std::mt19937 the state that init_by_array makes of a key of one word.
struct InitByArray {
  using result_type = std::uint32_t;
  std::uint32_t key;

  template <class Iterator>
  void generate(Iterator first, Iterator last) {
    std::array<std::uint32_t, std::mt19937::state_size> state;
    const std::size_t n = state.size();
    state[0] = 19650218;
    for (std::uint32_t i = 1; i < n; ++i) state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
    std::size_t i = 1;
    const auto advance = [&] {
      if (++i < n) return;
      state[0] = state[n - 1];
      i = 1;
    };
    for (std::size_t k = 0; k < n; ++k, advance()) {
      state[i] = (state[i] ^ ((state[i - 1] ^ (state[i - 1] >> 30)) * 1664525u)) + key;
    }
    for (std::size_t k = 1; k < n; ++k, advance()) {
      state[i] = (state[i] ^ ((state[i - 1] ^ (state[i - 1] >> 30)) * 1566083941u)) - static_cast<std::uint32_t>(i);
    }
    state[0] = 0x80000000u;
    std::copy(state.begin(), state.begin() + (last - first), first);
  }
};

std::mt19937 python_generator(std::uint32_t seed) {
  InitByArray sequence{seed};
  return std::mt19937(sequence);
}

void append_words(std::string& text, std::size_t count, PythonRandom& random) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!text.empty()) text += ' ';
    text += kWords[random.below(std::size(kWords))];
  }
}

}  // namespace

PythonRandom::PythonRandom(std::uint32_t seed) : generator_(python_generator(seed)) {}

std::uint32_t PythonRandom::below(std::uint32_t bound) {
  const int unused_bits = std::countl_zero(bound);
  while (true) {
    const std::uint32_t value = static_cast<std::uint32_t>(generator_()) >> unused_bits;
    if (value < bound) return value;
  }
}

std::string document(std::size_t words, std::uint32_t seed) {
  PythonRandom random(seed);
  std::string text;
  append_words(text, words, random);
  return text;
}

std::vector<std::string> shared_prefix_prompts(std::size_t count, std::uint32_t seed) {
  const std::string head = document(kSharedWords);
  PythonRandom random(seed);
  std::vector<std::string> prompts(count, head);
  for (std::string& prompt : prompts) append_words(prompt, kOwnWords, random);
  return prompts;
}

}  // namespace tiercel::cli
