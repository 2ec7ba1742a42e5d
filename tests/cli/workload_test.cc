// The workload must be the same bytes in every language: the expectations here were computed by Python's own random.
#include "cli/workload.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tiercel::cli {
namespace {

// FNV-1a, 64 bits.
std::uint64_t digest(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string joined(const std::vector<std::string>& texts, char separator) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : std::string(1, separator)) + text;
  return all;
}

TEST(PythonRandom, DrawsAsPythonDoes) {
  struct Case {
    std::uint32_t seed;
    std::vector<std::uint32_t> draws;
  };
  const std::vector<std::uint32_t> bounds = {1, 2, 3, 40, 1000, 0x80000001u};
  const Case cases[] = {{0, {0, 1, 0, 16, 988, 2087043557}},
                        {1, {0, 0, 1, 7, 507, 1930549411}},
                        {7, {0, 0, 1, 3, 74, 404285457}},
                        {0xffffffffu, {0, 0, 2, 33, 298, 1460408326}}};
  for (const Case& expected : cases) {
    PythonRandom random(expected.seed);
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      EXPECT_EQ(random.below(bounds[i]), expected.draws[i]) << "seed " << expected.seed << ", draw " << i;
    }
  }
}

TEST(PythonRandom, StaysInStepOverManyRefills) {
  PythonRandom random(1);
  std::vector<std::string> draws;
  for (int i = 0; i < 100'000; ++i) draws.push_back(std::to_string(random.below(40)));
  EXPECT_EQ(digest(joined(draws, ' ')), 0xf707cc804eb5e6ecu);
}

TEST(Workload, DocumentIsTheAgreedOne) {
  const std::string text = document();
  EXPECT_TRUE(text.starts_with("cats every small near two strong good makes and ran had strong "));
  EXPECT_EQ(text.size(), 10'000u);
  EXPECT_EQ(digest(text), 0x4c6b207da018d4f6u);
  EXPECT_EQ(document(3, 0), "and said of");
}

TEST(Workload, PromptsShareTheirHeadAndAreTheAgreedOnes) {
  const auto prompts = shared_prefix_prompts(8, 7);
  ASSERT_EQ(prompts.size(), 8u);
  EXPECT_TRUE(prompts.back().ends_with(" cats of while hills two one near a"));
  const std::string head = document(190);
  for (const std::string& prompt : prompts) EXPECT_TRUE(prompt.starts_with(head + " "));
  EXPECT_EQ(digest(joined(prompts, '\n')), 0x9850bcede488d32fu);
  EXPECT_EQ(digest(joined(shared_prefix_prompts(64, 7), '\n')), 0x5b353f818d4d144du);
  EXPECT_EQ(digest(joined(shared_prefix_prompts(96, 9), '\n')), 0xa871553a66c329dcu);
}

}  // namespace
}  // namespace tiercel::cli
