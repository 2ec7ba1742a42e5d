#include "text/jinja_text.h"

#include <cassert>
#include <cstring>

#include "text/utf8.h"

namespace tiercel::jinja {
namespace {

constexpr char kTrusted = '\1';
constexpr char kUntrusted = '\0';

bool is_stripped(std::string_view character, const std::string_view* characters) {
  if (characters == nullptr) {
    const Utf8Start start = read_utf8(character);
    return start.kind == Utf8Start::Kind::Character && is_space(start.code_point);
  }
  for (std::size_t i = 0; i < characters->size();) {
    const std::size_t length = character_length(*characters, i);
    if (characters->substr(i, length) == character) return true;
    i += length;
  }
  return false;
}

// The start of the last character of text[0, end).
std::size_t last_character(std::string_view text, std::size_t end) {
  std::size_t start = end - 1;
  for (std::size_t back = 1; back < 4 && start > 0 && (text[start] & 0xC0) == 0x80; ++back) --start;
  const std::string_view tail = text.substr(start, end - start);
  return character_length(tail, 0) == tail.size() ? start : end - 1;
}

}  // namespace

void Text::append(const Text& text) {
  bytes += text.bytes;
  trusted += text.trusted;
}

void Text::append(const Text& text, std::size_t offset, std::size_t length) {
  bytes.append(text.bytes, offset, length);
  trusted.append(text.trusted, offset, length);
}

void Text::append_trusted(std::string_view text) { append_as(text, kTrusted); }

void Text::append_as(std::string_view text, char mark) {
  bytes += text;
  trusted.append(text.size(), mark);
}

Text Text::slice(std::size_t offset, std::size_t length) const {
  return {bytes.substr(offset, length), trusted.substr(offset, length)};
}

Text trusted_text(std::string_view text) { return {std::string(text), std::string(text.size(), kTrusted)}; }
Text untrusted_text(std::string_view text) { return {std::string(text), std::string(text.size(), kUntrusted)}; }

std::size_t character_length(std::string_view text, std::size_t offset) {
  assert(offset < text.size());
  if (static_cast<unsigned char>(text[offset]) < 0x80) return 1;
  const Utf8Start start = read_utf8(text.substr(offset));
  return start.kind == Utf8Start::Kind::Character ? start.length : 1;
}

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); i += character_length(text, i)) ++count;
  return count;
}

std::vector<std::size_t> character_offsets(std::string_view text) {
  std::vector<std::size_t> offsets;
  for (std::size_t i = 0; i < text.size(); i += character_length(text, i)) offsets.push_back(i);
  offsets.push_back(text.size());
  return offsets;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Span stripped(std::string_view text, Sides sides, const std::string_view* characters) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  while (sides.left && begin < end) {
    const std::size_t length = character_length(text, begin);
    if (!is_stripped(text.substr(begin, length), characters)) break;
    begin += length;
  }
  while (sides.right && begin < end) {
    const std::size_t last = last_character(text, end);
    if (!is_stripped(text.substr(last, end - last), characters)) break;
    end = last;
  }
  return {begin, end - begin};
}

std::size_t find_text(std::string_view text, std::string_view needle, std::size_t offset) {
  if (offset > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + offset, text.size() - offset, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

}  // namespace tiercel::jinja
