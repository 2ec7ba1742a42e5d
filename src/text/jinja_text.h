// Text in which every byte knows whether the template wrote it or a message brought it.
//
// Characters are what Python counts: code points. A byte that is not UTF-8 counts as a character of its own.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tiercel::jinja {

struct Text {
  std::string bytes;
  std::string trusted;  // as long as bytes: '\1' from the template, '\0' from a message

  std::size_t size() const { return bytes.size(); }
  bool empty() const { return bytes.empty(); }
  void append(const Text& text);
  void append(const Text& text, std::size_t offset, std::size_t length);
  void append_trusted(std::string_view text);
  void append_as(std::string_view text, char mark);  // `mark` is the trust of every byte
  Text slice(std::size_t offset, std::size_t length) const;
};

Text trusted_text(std::string_view text);
Text untrusted_text(std::string_view text);

// Bytes of the character at `offset`, which must be inside.
std::size_t character_length(std::string_view text, std::size_t offset);
std::size_t count_characters(std::string_view text);
// Offsets at which characters start, and the size of the text at last.
std::vector<std::size_t> character_offsets(std::string_view text);

// What Python's str.isspace and \s of its regular expressions hold for white space.
bool is_space(char32_t code_point);

// The part that is left without the white space at the sides, or without the characters of `*characters`.
struct Span {
  std::size_t offset;
  std::size_t length;
};
struct Sides {
  bool left;
  bool right;
};
Span stripped(std::string_view text, Sides sides, const std::string_view* characters = nullptr);

// std::string_view::find, but in linear time whatever is searched for. `needle` must not be empty.
std::size_t find_text(std::string_view text, std::string_view needle, std::size_t offset);

}  // namespace tiercel::jinja
