#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "gguf/gguf_file.h"
#include "tests/text/tokenizer_data.h"
#include "text/tokenizer.h"

namespace tiercel {
namespace {

using Tokens = std::vector<TokenId>;

// A GGUF file's bytes with metadata only, put together by hand from the format's description.
class FileBytes {
 public:
  FileBytes& text(const std::string& key, const std::string& value) { return entry(key, 8, string(value)); }
  FileBytes& flag(const std::string& key, bool value) { return entry(key, 7, std::string(1, value ? '\1' : '\0')); }
  FileBytes& number(const std::string& key, std::uint32_t value) { return entry(key, 4, raw(value)); }
  FileBytes& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = raw(std::uint32_t{8}) + raw(std::uint64_t{values.size()});
    for (const std::string& value : values) bytes += string(value);
    return entry(key, 9, bytes);
  }
  FileBytes& numbers(const std::string& key, const std::vector<std::int32_t>& values) {
    std::string bytes = raw(std::uint32_t{5}) + raw(std::uint64_t{values.size()});
    for (const std::int32_t value : values) bytes += raw(value);
    return entry(key, 9, bytes);
  }
  FileBytes& without(const std::string& key) {
    std::erase_if(entries_, [&](const auto& each) { return each.first == key; });
    return *this;
  }
  Result<Tokenizer> tokenizer() const {
    std::string bytes = "GGUF" + raw(std::uint32_t{3}) + raw(std::uint64_t{0}) + raw(std::uint64_t{entries_.size()});
    for (const auto& [key, value] : entries_) bytes += string(key) + value;
    const auto file = GgufFile::parse(std::as_bytes(std::span(bytes)), "tiny.gguf");
    if (!file.ok()) return file.status();
    return Tokenizer::from_gguf(*file);
  }

 private:
  template <class T>
  static std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string string(const std::string& value) { return raw(std::uint64_t{value.size()}) + value; }
  FileBytes& entry(const std::string& key, std::uint32_t kind, const std::string& value) {
    without(key);
    entries_.emplace_back(key, raw(kind) + value);
    return *this;
  }
  std::vector<std::pair<std::string, std::string>> entries_;
};

FileBytes small_file() {
  FileBytes file;
  file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  file.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<s>", "<e>", "<t>", "<|endoftext|>", "<u>"});
  file.numbers("tokenizer.ggml.token_type", {1, 1, 1, 3, 3, 3, 3, 4});
  file.texts("tokenizer.ggml.merges", {"a b"});
  file.number("tokenizer.ggml.bos_token_id", 3)
      .number("tokenizer.ggml.eos_token_id", 4)
      .number("tokenizer.ggml.eot_token_id", 5);
  return file;
}

TEST(TokenizerGguf, ReadsAFilesTables) {
  const Tokenizer tokenizer = small_file().tokenizer().value();
  EXPECT_EQ(tokenizer.size(), 8u);
  EXPECT_EQ(tokenizer.encode("abb<u><e>").value(), (Tokens{2, 1, 7}));
  EXPECT_EQ(tokenizer.encode("abb<u><e>", true).value(), (Tokens{2, 1, 7, 4}));
  EXPECT_EQ(tokenizer.begin_text(), "<s>");
  EXPECT_EQ(tokenizer.end_text(), "<e>");
  Tokens ends;
  for (TokenId token = 0; token < 8; ++token) {
    if (tokenizer.is_end(token)) ends.push_back(token);
  }
  EXPECT_EQ(ends, (Tokens{4, 5, 6}));
}

TEST(TokenizerGguf, TheBeginTokenIsAddedWhereFileOrKindSaySo) {
  const auto encoded = [](const FileBytes& file) { return file.tokenizer().value().encode("ab").value(); };
  const std::string key = "tokenizer.ggml.add_bos_token";
  EXPECT_EQ(encoded(small_file()), (Tokens{2}));
  EXPECT_EQ(encoded(small_file().flag(key, true)), (Tokens{3, 2}));
  EXPECT_EQ(encoded(small_file().text("tokenizer.ggml.pre", "llama-bpe")), (Tokens{3, 2}));
  EXPECT_EQ(encoded(small_file().text("tokenizer.ggml.pre", "llama-bpe").flag(key, false)), (Tokens{2}));
}

TEST(TokenizerGguf, WhatMayBeMissingMayBeMissing) {
  FileBytes file = small_file();
  for (const char* key : {"token_type", "bos_token_id", "eos_token_id", "eot_token_id"})
    file.without("tokenizer.ggml." + std::string(key));
  const Tokenizer tokenizer = file.tokenizer().value();
  EXPECT_EQ(tokenizer.encode("ab").value(), (Tokens{2}));
  EXPECT_EQ(tokenizer.begin_text(), "");
  EXPECT_FALSE(tokenizer.is_end(4));
}

TEST(TokenizerGguf, RefusesNamingFileAndKey) {
  const std::vector<std::pair<std::string, std::function<void(FileBytes&)>>> cases{
      {"tokenizer.ggml.model", [](FileBytes& f) { f.without("tokenizer.ggml.model"); }},
      {"tokenizer.ggml.model", [](FileBytes& f) { f.text("tokenizer.ggml.model", "llama"); }},
      {"tokenizer.ggml.pre", [](FileBytes& f) { f.without("tokenizer.ggml.pre"); }},
      {"tokenizer.ggml.pre", [](FileBytes& f) { f.text("tokenizer.ggml.pre", "default"); }},
      {"tokenizer.ggml.tokens", [](FileBytes& f) { f.without("tokenizer.ggml.tokens"); }},
      {"tokenizer.ggml.tokens", [](FileBytes& f) { f.text("tokenizer.ggml.tokens", "a"); }},
      {"tokenizer.ggml.merges", [](FileBytes& f) { f.without("tokenizer.ggml.merges"); }},
      {"tokenizer.ggml.merges[0]", [](FileBytes& f) { f.texts("tokenizer.ggml.merges", {"a z"}); }},
      {"tokenizer.ggml.token_type",
       [](FileBytes& f) {
         f.numbers("tokenizer.ggml.token_type", {1, 1});
       }},
      {"tokenizer.ggml.bos_token_id", [](FileBytes& f) { f.number("tokenizer.ggml.bos_token_id", 8); }},
      {"tokenizer.ggml.bos_token_id", [](FileBytes& f) { f.text("tokenizer.ggml.bos_token_id", "3"); }},
      {"tokenizer.ggml.eos_token_id", [](FileBytes& f) { f.number("tokenizer.ggml.eos_token_id", 0x80000000); }},
      {"tokenizer.ggml.add_bos_token", [](FileBytes& f) { f.text("tokenizer.ggml.add_bos_token", "yes"); }},
  };
  for (const auto& [key, spoil] : cases) {
    FileBytes file = small_file();
    spoil(file);
    const Status status = file.tokenizer().status();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << key;
    EXPECT_NE(status.message().find(key), std::string::npos) << key << ": " << status.message();
    EXPECT_NE(status.message().find("tiny.gguf"), std::string::npos) << key << ": " << status.message();
  }
}

// The demonstration's model. Without it these tests fail: they are the ones that show real text is read right.
class RealModel : public testing::Test {
 protected:
  static std::string path() {
    if (const char* model = std::getenv("TIERCEL_MODEL")) return model;
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    const std::string base = cache && *cache ? cache : std::string(home ? home : "") + "/.cache";
    return base + "/tiercel/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(path()))
        << path() << " is missing; run ./quickstart, which fetches it, or set TIERCEL_MODEL";
    const auto file = GgufFile::open(path());
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    auto read = Tokenizer::from_gguf(*file);
    ASSERT_TRUE(read.ok()) << read.status().to_string();
    tokenizer = std::move(*read);
  }
  std::optional<Tokenizer> tokenizer;
};

TEST_F(RealModel, IdsAgreeWithAnIndependentTokenizer) {
  const auto texts = tokenizer_texts();
  const auto expected = read_tokenizer_data("smollm2").at("ids");
  ASSERT_EQ(expected.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(texts[i]).value(), expected[i].get<Tokens>()) << "text " << i << ": " << texts[i];
  }
}

TEST_F(RealModel, TokensGiveTheTextBackButForBytesItLacks) {
  // This vocabulary has no tokens for these bytes.
  const std::string lacking = "\x04\x06\x13\x14\x16\x1D\xF1\xF2";
  for (std::string text : tokenizer_texts()) {
    const std::string back = tokenizer->decode(tokenizer->encode(text).value());
    std::erase_if(text, [&](char byte) { return lacking.find(byte) != std::string::npos; });
    EXPECT_EQ(back, text);
  }
}

TEST_F(RealModel, ChatMarksAreTokensOnlyWhereAskedFor) {
  EXPECT_EQ(tokenizer->encode("<|im_start|>user\nHi<|im_end|>\n", true).value(), (Tokens{1, 4093, 198, 26843, 2, 198}));
  const Tokens plain = tokenizer->encode("<|im_start|>user\nHi<|im_end|>\n").value();
  for (const TokenId token : plain) EXPECT_FALSE(tokenizer->is_special(token));
}

TEST_F(RealModel, EndsAtEndOfTextAndEndOfTurn) {
  EXPECT_EQ(tokenizer->size(), 49152u);
  EXPECT_EQ(tokenizer->begin_text(), "<|im_start|>");
  EXPECT_EQ(tokenizer->end_text(), "<|im_end|>");
  Tokens ends;
  for (TokenId token = 0; token < 49152; ++token) {
    if (tokenizer->is_end(token)) ends.push_back(token);
  }
  EXPECT_EQ(ends, (Tokens{0, 2}));
}

}  // namespace
}  // namespace tiercel
