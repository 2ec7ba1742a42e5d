#include "text/pre_tokenizer.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/text/tokenizer_data.h"
#include "text/utf8.h"

namespace tiercel {
namespace {

std::vector<std::string> split(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  PieceReader reader(pre_tokenizer, text);
  for (std::string_view piece; reader.next(piece);) pieces.emplace_back(piece);
  EXPECT_TRUE(reader.status().ok()) << reader.status().to_string();
  return pieces;
}

std::vector<std::string> split(std::string_view name, std::string_view text) {
  return split(PreTokenizer::make(name).value(), text);
}

using Pieces = std::vector<std::string>;

class Splits : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(PreTokenizer, Splits, testing::Values("gpt-2", "smollm", "llama-bpe", "qwen2"),
                         [](const auto& name) { return "Number" + std::to_string(name.index); });

TEST_P(Splits, AgreeWithTheModelsOwnPreTokenizer) {
  const auto texts = tokenizer_texts();
  const auto expected = read_tokenizer_data("splits").at(GetParam());
  const auto pre_tokenizer = PreTokenizer::make(GetParam()).value();
  ASSERT_EQ(texts.size(), expected.size());
  ASSERT_GT(texts.size(), 700u);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::vector<std::size_t> lengths;
    std::string joined;
    for (const std::string& piece : split(pre_tokenizer, texts[i])) {
      lengths.push_back(piece.size());
      joined += piece;
    }
    EXPECT_EQ(lengths, expected[i].get<std::vector<std::size_t>>()) << "text " << i << ": " << texts[i];
    EXPECT_EQ(joined, texts[i]);
  }
}

TEST_P(Splits, HostileTextsCostNoMoreThanOthers) {
  // Work that grows with the square of the length, or a stack that grows with it, would not survive these.
  const std::size_t length = 2'000'000;
  const auto pre_tokenizer = PreTokenizer::make(GetParam()).value();
  for (const std::string part :
       {" ", "\n", "\t ", "\r\n", " \n", "a", "漢", "'", "'s", "1", "!", "\u3000", "a\u0301", "! ", "\u00a0x"}) {
    std::string text;
    while (text.size() < length) text += part;
    for (const std::string end : {"", "x", "\n", "1"}) {
      std::size_t total = 0;
      const std::string whole = text + end;
      PieceReader reader(pre_tokenizer, whole);
      for (std::string_view piece; reader.next(piece);) total += piece.size();
      EXPECT_TRUE(reader.status().ok()) << part << ": " << reader.status().to_string();
      EXPECT_EQ(total, whole.size()) << part;
    }
  }
}

// Letter, number, white space or other: as the models' own regular expressions see each character of Unicode 14.
TEST(PreTokenizer, KnowsEveryCharactersClass) {
  const auto runs = read_tokenizer_data("characters").at("runs");
  const auto gpt2 = PreTokenizer::make("gpt-2").value();
  std::size_t checked = 0;
  for (std::size_t run = 0; run < runs.size(); ++run) {
    const auto kind = runs[run][1].get<std::string>();
    if (kind == "?") continue;
    const auto end = run + 1 < runs.size() ? runs[run + 1][0].get<char32_t>() : 0x110000;
    for (auto code_point = runs[run][0].get<char32_t>(); code_point < end; ++code_point) {
      for (const auto& [before, joined_kind] : {std::pair{"a", "L"}, std::pair{"1", "N"}, std::pair{"!", "O"}}) {
        std::string text = before;
        append_utf8(code_point, text);
        ASSERT_EQ(split(gpt2, text).size() == 1, kind == joined_kind) << kind << " " << std::hex << +code_point;
      }
      ++checked;
    }
  }
  EXPECT_GT(checked, 140'000u);
}

TEST(PreTokenizer, EachModelSplitsItsOwnWay) {
  EXPECT_EQ(split("gpt-2", "We'll pay 12345  EUR\n\nOK"),
            (Pieces{"We", "'ll", " pay", " 12345", " ", " EUR", "\n", "\n", "OK"}));
  EXPECT_EQ(split("smollm", "We'll pay 123  EUR\n\n4"),
            (Pieces{"We", "'ll", " pay", " ", "1", "2", "3", " ", " EUR", "\n\n", "4"}));
  EXPECT_EQ(split("llama-bpe", "WE'LL pay 12345  EUR\n\nOK"),
            (Pieces{"WE", "'LL", " pay", " ", "123", "45", " ", " EUR", "\n\n", "OK"}));
  EXPECT_EQ(split("qwen2", "WE'LL pay 12  (EUR)\n\nOK"),
            (Pieces{"WE", "'LL", " pay", " ", "1", "2", " ", " (", "EUR", ")\n\n", "OK"}));
}

TEST(PreTokenizer, NamesOfOnePatternMeanTheSame) {
  for (const auto& [name, alias] :
       {std::pair{"gpt-2", "gpt2"}, std::pair{"gpt-2", "phi-2"}, std::pair{"llama-bpe", "llama3"},
        std::pair{"llama-bpe", "llama-v3"}, std::pair{"qwen2", "deepseek-r1-qwen"}}) {
    const auto first = PreTokenizer::make(name).value();
    const auto second = PreTokenizer::make(alias).value();
    EXPECT_EQ(first.takes_whole_pieces(), second.takes_whole_pieces());
    EXPECT_EQ(first.begins_by_default(), second.begins_by_default());
    for (const std::string& text : tokenizer_texts()) EXPECT_EQ(split(first, text), split(second, text));
  }
  EXPECT_TRUE(PreTokenizer::make("llama-bpe")->takes_whole_pieces());
  EXPECT_FALSE(PreTokenizer::make("smollm")->takes_whole_pieces());
}

TEST(PreTokenizer, AnUnknownNameIsRefusedWithTheKnownOnes) {
  for (const char* name : {"", "default", "tekken", "SMOLLM"}) {
    const Status status = PreTokenizer::make(name).status();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    EXPECT_NE(status.message().find("tokenizer.ggml.pre is '" + std::string(name) + "'"), std::string::npos)
        << status.message();
    for (const char* known : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
      EXPECT_NE(status.message().find(known), std::string::npos) << status.message();
    }
  }
}

}  // namespace
}  // namespace tiercel
