// Any text through a byte-level tokenizer and back, and any output bytes through the stream decoder.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/expect.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace {

using tiercel::Tokenizer;
using tiercel::Vocabulary;

std::string utf8(unsigned code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
}

// GPT-2's alphabet: printable Latin-1 stands for itself, the rest for code points from 256 on.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    alphabet.push_back(utf8(printable ? byte : next++));
  }
  return alphabet;
}

Tokenizer make_tokenizer(const char* pre_tokenizer) {
  Vocabulary vocabulary;
  vocabulary.tokens = byte_alphabet();
  const std::string space = vocabulary.tokens[' '];
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{{"t", "h"},
                                                                                    {"th", "e"},
                                                                                    {space, "the"},
                                                                                    {space, "a"},
                                                                                    {"1", "2"},
                                                                                    {"12", "3"},
                                                                                    {"a", "a"},
                                                                                    {"aa", "aa"},
                                                                                    {"aaaa", "aa"}}) {
    vocabulary.merges.push_back(left + " " + right);
    vocabulary.tokens.push_back(left + right);
  }
  vocabulary.types.assign(vocabulary.tokens.size(), 1);
  for (const char* special : {"<|end|>", "<|start|>", "<|s"}) {
    vocabulary.tokens.push_back(special);
    vocabulary.types.push_back(3);
  }
  vocabulary.end_token = static_cast<std::int64_t>(vocabulary.tokens.size()) - 3;
  vocabulary.pre_tokenizer = pre_tokenizer;
  return Tokenizer::make(std::move(vocabulary)).value();
}

void expect_round_trip(const Tokenizer& tokenizer, std::string_view text) {
  const auto plain = tokenizer.encode(text);
  const auto special = tokenizer.encode(text, true);
  TIERCEL_FUZZ_EXPECT(plain.ok() == special.ok());
  if (!plain.ok()) {
    TIERCEL_FUZZ_EXPECT(plain.status().code() == tiercel::StatusCode::InvalidArgument);
    return;
  }
  TIERCEL_FUZZ_EXPECT(tokenizer.decode(*plain, true) == text);
  TIERCEL_FUZZ_EXPECT(tokenizer.decode(*special, true) == text);
  for (const tiercel::TokenId token : *plain) TIERCEL_FUZZ_EXPECT(!tokenizer.is_special(token));
  // Trust in nothing and in everything are the two above.
  TIERCEL_FUZZ_EXPECT(tokenizer.encode(text, std::string(text.size(), '\0')).value() == *plain);
  TIERCEL_FUZZ_EXPECT(tokenizer.encode(text, std::string(text.size(), '\1')).value() == *special);
}

// The stream's text must not depend on how the bytes were cut into tokens.
void expect_same_stream(std::string_view bytes, std::size_t piece) {
  const std::vector<std::string> stops = {"STOP", "aab"};
  tiercel::StreamDecoder whole(stops);
  std::string expected = whole.push(bytes);
  if (!whole.stopped()) expected += whole.finish();

  tiercel::StreamDecoder cut(stops);
  std::string text;
  for (std::size_t i = 0; i < bytes.size() && !cut.stopped(); i += piece) text += cut.push(bytes.substr(i, piece));
  if (!cut.stopped()) text += cut.finish();
  TIERCEL_FUZZ_EXPECT(text == expected);
  TIERCEL_FUZZ_EXPECT(cut.stopped() == whole.stopped());
  for (const std::string& stop : stops) TIERCEL_FUZZ_EXPECT(text.find(stop) == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Tokenizer tokenizers[] = {make_tokenizer("smollm"), make_tokenizer("gpt-2"), make_tokenizer("llama-bpe"),
                                         make_tokenizer("qwen2")};
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  expect_round_trip(tokenizers[data[0] & 3], text);
  expect_same_stream(text, 1 + (data[0] >> 2) % 7);
  return 0;
}
