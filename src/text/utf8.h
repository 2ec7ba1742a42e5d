// UTF-8 as the Unicode Standard defines it (chapter 3.9, table 3-7): shortest forms only, no surrogates, at most
// U+10FFFF.
//
// Thread-safety: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tiercel {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Where the first ill-formed or cut-off sequence starts; std::string_view::npos where all of `text` is UTF-8.
std::size_t find_invalid_utf8(std::string_view text);

// What a byte string, which must not be empty, starts with.
struct Utf8Start {
  enum class Kind {
    Character,   // `length` bytes are the character `code_point`
    Incomplete,  // all the bytes, `length` of them, are the beginning of a character; more bytes will tell
    Invalid,     // `length` bytes can never be part of a character; the standard's "maximal subpart", worth one U+FFFD
  };
  Kind kind;
  std::size_t length;
  char32_t code_point = 0;
};
Utf8Start read_utf8(std::string_view bytes);

// `code_point` must be a Unicode scalar value.
void append_utf8(char32_t code_point, std::string& out);

}  // namespace tiercel
