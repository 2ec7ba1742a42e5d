#include "text/utf8.h"

#include <optional>
#include <string>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

// The other way to say what UTF-8 is: decode by arithmetic, then demand that the value needs just that many bytes.
std::optional<char32_t> decode_by_arithmetic(const std::string& bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const std::size_t length = at(0) < 0x80   ? 1
                             : at(0) < 0xC0 ? 0
                             : at(0) < 0xE0 ? 2
                             : at(0) < 0xF0 ? 3
                             : at(0) < 0xF8 ? 4
                                            : 0;
  if (length == 0 || length != bytes.size()) return std::nullopt;
  char32_t value = length == 1 ? at(0) : at(0) & (0xFF >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80) return std::nullopt;
    value = value << 6 | (at(i) & 0x3F);
  }
  const std::size_t needed = value < 0x80 ? 1 : value < 0x800 ? 2 : value < 0x10000 ? 3 : 4;
  if (needed != length || (value >= 0xD800 && value <= 0xDFFF) || value > 0x10FFFF) return std::nullopt;
  return value;
}

TEST(Utf8, EveryCharacterIsReadAsItWasWritten) {
  for (char32_t code_point = 0; code_point < 0x110000; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string bytes;
    append_utf8(code_point, bytes);
    ASSERT_EQ(decode_by_arithmetic(bytes), code_point);
    const Utf8Start start = read_utf8(bytes + "\x80!");
    ASSERT_EQ(start.kind, Utf8Start::Kind::Character);
    ASSERT_EQ(start.length, bytes.size());
    ASSERT_EQ(start.code_point, code_point);
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const Utf8Start beginning = read_utf8(bytes.substr(0, cut));
      ASSERT_EQ(beginning.kind, Utf8Start::Kind::Incomplete);
      ASSERT_EQ(beginning.length, cut);
    }
  }
}

TEST(Utf8, EverySequenceOfThreeBytesAfterALeadByteIsJudgedRight) {
  std::string bytes(3, '\0');
  for (unsigned value = 0xBF0000; value < 0x1000000; ++value) {
    bytes[0] = static_cast<char>(value >> 16);
    bytes[1] = static_cast<char>(value >> 8);
    bytes[2] = static_cast<char>(value);
    std::size_t expected = 0;
    while (expected < 3) {
      std::size_t length = 1;
      while (length <= 3 - expected && !decode_by_arithmetic(bytes.substr(expected, length))) ++length;
      if (length > 3 - expected) break;
      expected += length;
    }
    ASSERT_EQ(find_invalid_utf8(bytes), expected == 3 ? std::string::npos : expected) << std::hex << value;
  }
}

TEST(Utf8, TheFirstErrorIsFoundWhereverItIs) {
  for (const std::string good : {"a", "é", "漢", "😀"}) {
    for (const std::string bad :
         {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF8", "\xFF", "\xE6\xBC", "\xF0\x9F\x98"}) {
      std::string before;
      for (int i = 0; i < 40; ++i) {
        EXPECT_EQ(find_invalid_utf8(before), std::string::npos);
        EXPECT_EQ(find_invalid_utf8(before + bad), before.size());
        EXPECT_EQ(find_invalid_utf8(before + bad + "more text, and \xFF again"), before.size());
        before += i % 5 == 4 ? good : "x";
      }
    }
  }
}

TEST(Utf8, InvalidBytesAreMeasuredByMaximalSubpart) {
  const auto invalid_length = [](const std::string& bytes) {
    const Utf8Start start = read_utf8(bytes);
    EXPECT_EQ(start.kind, Utf8Start::Kind::Invalid);
    return start.length;
  };
  EXPECT_EQ(invalid_length("\x80"), 1u);
  EXPECT_EQ(invalid_length("\xC0\xAF"), 1u);
  EXPECT_EQ(invalid_length("\xE0\x80\xBF"), 1u);
  EXPECT_EQ(invalid_length("\xED\xA0\x80"), 1u);
  EXPECT_EQ(invalid_length("\xE1\x80\xE2"), 2u);
  EXPECT_EQ(invalid_length("\xF1\x80\x80\x41"), 3u);
  EXPECT_EQ(invalid_length("\xF4\x90\x80\x80"), 1u);
}

}  // namespace
}  // namespace tiercel
