#include "text/utf8.h"

#include <cassert>
#include <cstdint>
#include <cstring>

namespace tiercel {
namespace {

unsigned char byte_at(std::string_view bytes, std::size_t i) { return static_cast<unsigned char>(bytes[i]); }

// How many bytes at the start of `bytes` are ASCII, looked at eight at a time; up to seven may be left uncounted.
std::size_t ascii_length(std::string_view bytes) {
  std::size_t length = 0;
  while (length + 8 <= bytes.size()) {
    std::uint64_t eight;
    std::memcpy(&eight, bytes.data() + length, 8);
    if (eight & 0x8080808080808080u) break;
    length += 8;
  }
  return length;
}

}  // namespace

Utf8Start read_utf8(std::string_view bytes) {
  assert(!bytes.empty());
  using enum Utf8Start::Kind;
  const unsigned char lead = byte_at(bytes, 0);
  if (lead < 0x80) return {Character, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Invalid, 1};

  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range is what rules out overlong forms, surrogates and values beyond U+10FFFF.
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;

  char32_t code_point = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Incomplete, i};
    const unsigned char byte = byte_at(bytes, i);
    if (byte < low || byte > high) return {Invalid, i};
    code_point = code_point << 6 | (byte & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {Character, length, code_point};
}

std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    i += ascii_length(text.substr(i));
    // One character at a time until ASCII can be skipped again.
    while (i < text.size()) {
      const Utf8Start start = read_utf8(text.substr(i));
      if (start.kind != Utf8Start::Kind::Character) return i;
      i += start.length;
      if (start.length == 1 && text.size() - i >= 8) break;
    }
  }
  return std::string_view::npos;
}

void append_utf8(char32_t code_point, std::string& out) {
  assert(code_point < 0x110000 && (code_point < 0xD800 || code_point > 0xDFFF));
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
  } else {
    if (code_point < 0x10000) {
      put(0xE0 | code_point >> 12);
    } else {
      put(0xF0 | code_point >> 18);
      put(0x80 | (code_point >> 12 & 0x3F));
    }
    put(0x80 | (code_point >> 6 & 0x3F));
  }
  put(0x80 | (code_point & 0x3F));
}

}  // namespace tiercel
