#include "text/jinja_lexer.h"

#include <array>
#include <charconv>

#include "text/jinja_error.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

namespace tiercel::jinja {
namespace {

constexpr std::string_view kTwoByteOperators[] = {"//", "**", "==", "!=", ">=", "<="};
constexpr std::string_view kOneByteOperators = "+-/*%~[](){}><=.:|,;";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// One trailing line feed goes; all kinds of line end become line feeds.
std::string normalize_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_lines(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) read_data();
    emit(Token::Kind::End, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(position_); }
  bool at(std::string_view text) const { return rest().starts_with(text); }
  char peek(std::size_t ahead = 0) const {
    return position_ + ahead < source_.size() ? source_[position_ + ahead] : '\0';
  }

  void emit(Token::Kind kind, std::string_view text) { tokens_.push_back({kind, line_, std::string(text)}); }

  void advance(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) line_ += source_[position_ + i] == '\n';
    position_ += count;
    line_starting_ = position_ > 0 && source_[position_ - 1] == '\n';
  }

  std::size_t spaces_at(std::size_t offset) const {
    const std::string_view text = std::string_view(source_).substr(offset);
    return text.size() - stripped(text, {.left = true, .right = false}).length;
  }

  // Text up to the next tag, then the tag.
  void read_data() {
    std::size_t tag = position_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 == source_.size()) break;
      if (std::string_view("{%#").find(source_[tag + 1]) != std::string_view::npos) break;
    }
    if (tag == std::string::npos || tag + 1 == source_.size()) {
      emit(Token::Kind::Data, rest());
      return advance(source_.size() - position_);
    }
    const char kind = source_[tag + 1];
    const char next = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    take_data(tag, sign, kind != '{');
    if (kind == '%' && read_raw(sign)) return;
    const int line = line_;
    if (kind != '#') emit(kind == '{' ? Token::Kind::OutputBegin : Token::Kind::BlockBegin, "");
    advance(sign == '\0' ? 2 : 3);
    if (kind == '#') return skip_comment(line);
    read_tag(kind == '{', line);
  }

  // Emits the text before `end`, without the white space that the tag there removes.
  void take_data(std::size_t end, char sign, bool is_block) {
    std::string_view text = rest().substr(0, end - position_);
    if (sign == '-') {
      text = text.substr(0, stripped(text, {.left = false, .right = true}).length);
    } else if (sign != '+' && is_block) {
      const std::size_t line_start = text.rfind('\n') + 1;  // 0 where there is no line feed
      const bool is_indent = stripped(text.substr(line_start), {.left = true, .right = false}).length == 0;
      if ((line_start > 0 || line_starting_) && is_indent) text = text.substr(0, line_start);
    }
    if (!text.empty()) emit(Token::Kind::Data, text);
    advance(end - position_);
  }

  // The length of a tag that holds only `word`, as in "{%- endraw -%}", with the white space it removes; 0 if there is
  // none at `offset`.
  std::size_t bare_tag_length(std::size_t offset, std::string_view word, bool trims_line) const {
    const std::string_view text(source_);
    std::size_t end = offset + 2;
    if (end < text.size() && (text[end] == '-' || text[end] == '+')) ++end;
    end += spaces_at(end);
    if (!text.substr(end).starts_with(word)) return 0;
    end += word.size();
    end += spaces_at(end);
    if (text.substr(end).starts_with("-%}")) return end + 3 + spaces_at(end + 3) - offset;
    if (trims_line && text.substr(end).starts_with("+%}")) return end + 3 - offset;
    if (!text.substr(end).starts_with("%}")) return 0;
    end += 2;
    if (trims_line && text.substr(end).starts_with("\n")) ++end;
    return end - offset;
  }

  bool read_raw(char) {
    const std::size_t begin = bare_tag_length(position_, "raw", false);
    if (begin == 0) return false;
    const int line = line_;
    advance(begin);
    for (std::size_t tag = position_;; ++tag) {
      tag = source_.find("{%", tag);
      if (tag == std::string::npos) fail("'raw' is never closed by 'endraw'", line);
      const std::size_t length = bare_tag_length(tag, "endraw", true);
      if (length == 0) continue;
      const char sign = source_[tag + 2];
      take_data(tag, sign, true);
      advance(length);
      return true;
    }
  }

  void skip_comment(int line) {
    const std::size_t end = source_.find("#}", position_);
    if (end == std::string::npos) fail("a comment is never closed by '#}'", line);
    const char sign = end > position_ ? source_[end - 1] : '\0';
    advance(end + 2 - position_);
    if (sign == '-') {
      advance(spaces_at(position_));
    } else if (sign != '+' && peek() == '\n') {
      advance(1);
    }
  }

  // The end of the tag here, if there is one: 0 or its length with the white space it removes.
  std::size_t tag_end_length(bool is_output) const {
    const std::string_view end = is_output ? "}}" : "%}";
    if (peek() == '-' && rest().substr(1).starts_with(end)) return 3 + spaces_at(position_ + 3);
    if (!is_output && at("+%}")) return 3;
    if (!at(end)) return 0;
    return !is_output && peek(2) == '\n' ? 3 : 2;
  }

  void read_tag(bool is_output, int line) {
    std::string brackets;
    while (position_ < source_.size()) {
      if (const std::size_t length = brackets.empty() ? tag_end_length(is_output) : 0) {
        emit(is_output ? Token::Kind::OutputEnd : Token::Kind::BlockEnd, "");
        return advance(length);
      }
      if (const std::size_t spaces = spaces_at(position_)) {
        advance(spaces);
      } else if (is_digit(peek())) {
        read_number();
      } else if (is_word(peek())) {
        std::size_t length = 1;
        while (is_word(peek(length))) ++length;
        emit(Token::Kind::Name, rest().substr(0, length));
        advance(length);
      } else if (peek() == '\'' || peek() == '"') {
        read_string();
      } else {
        read_operator(brackets);
      }
    }
    fail("a tag is never closed", line);
  }

  // Digits with single underscores between them, as in Python.
  std::size_t digits_at(std::size_t offset) const {
    std::size_t end = offset;
    while (is_digit(peek(end)) || (end > offset && peek(end) == '_' && is_digit(peek(end + 1)))) ++end;
    return end - offset;
  }

  void read_number() {
    std::size_t length = digits_at(0);
    bool is_float = false;
    if (position_ == 0 || source_[position_ - 1] != '.') {
      if (peek(length) == '.' && digits_at(length + 1) > 0) {
        length += 1 + digits_at(length + 1);
        is_float = true;
      }
      if (peek(length) == 'e' || peek(length) == 'E') {
        const std::size_t sign = peek(length + 1) == '+' || peek(length + 1) == '-';
        if (const std::size_t digits = digits_at(length + 1 + sign)) {
          length += 1 + sign + digits;
          is_float = true;
        }
      }
    }
    std::string digits;
    for (const char c : rest().substr(0, length)) {
      if (c != '_') digits += c;
    }
    Token token{is_float ? Token::Kind::Float : Token::Kind::Integer, line_, digits};
    const char* end = digits.data() + digits.size();
    const bool is_padded = !is_float && digits.size() > 1 && digits.find_first_not_of('0') != 0 &&
                           digits.find_first_not_of('0') != std::string::npos;
    const auto error = is_float ? std::from_chars(digits.data(), end, token.number).ec
                                : std::from_chars(digits.data(), end, token.integer).ec;
    if (error != std::errc() || is_padded || is_word(peek(length))) {
      fail("the number " + digits + " is not supported", line_);
    }
    tokens_.push_back(std::move(token));
    advance(length);
  }

  void read_string() {
    const char quote = peek();
    std::size_t end = 1;
    while (position_ + end < source_.size() && peek(end) != quote) end += peek(end) == '\\' ? 2 : 1;
    if (position_ + end >= source_.size()) fail("a string is never closed", line_);
    Token token{Token::Kind::String, line_};
    const std::string_view inside = rest().substr(1, end - 1);
    for (std::size_t i = 0; i < inside.size();) {
      if (inside[i] != '\\') {
        token.text += inside[i++];
      } else {
        i += 1 + append_escape(inside.substr(i + 1), token.text);
      }
    }
    tokens_.push_back(std::move(token));
    advance(end + 1);
  }

  // What follows a backslash; returns how many bytes it was.
  std::size_t append_escape(std::string_view text, std::string& out) {
    static constexpr std::string_view kLetters = "abfnrtv\\'\"";
    static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    const char c = text.empty() ? '\\' : text[0];
    if (c == '\n') return 1;
    if (const std::size_t i = kLetters.find(c); i != std::string_view::npos) {
      out += kMeanings[i];
      return 1;
    }
    if (c == 'N') fail("the escape \\N is not supported", line_);
    const std::size_t hex_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const bool is_octal = c >= '0' && c <= '7';
    if (hex_digits == 0 && !is_octal) {
      out += '\\';
      return 0;  // the character stays as it is
    }
    const std::string_view digits =
        is_octal ? text.substr(0, std::min<std::size_t>(3, std::min(text.find_first_not_of("01234567"), text.size())))
                 : text.substr(1, hex_digits);
    std::uint32_t code_point = 0;
    const char* end = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), end, code_point, is_octal ? 8 : 16);
    const bool is_character = code_point < 0xD800 || (code_point > 0xDFFF && code_point <= 0x10FFFF);
    if (result.ec != std::errc() || result.ptr != end || (!is_octal && digits.size() != hex_digits) || !is_character) {
      fail("a string has an escape that is not a character", line_);
    }
    append_utf8(static_cast<char32_t>(code_point), out);
    return digits.size() + (is_octal ? 0 : 1);
  }

  void read_operator(std::string& brackets) {
    std::string_view text = rest().substr(0, 1);
    for (const std::string_view candidate : kTwoByteOperators) {
      if (at(candidate)) text = candidate;
    }
    const char c = text[0];
    if (text.size() == 1 && kOneByteOperators.find(c) == std::string_view::npos) {
      fail("unexpected character '" + std::string(rest().substr(0, character_length(rest(), 0))) + "'", line_);
    }
    if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) fail("unexpected '" + std::string(text) + "'", line_);
      if (brackets.back() != c) {
        fail("unexpected '" + std::string(text) + "', expected '" + brackets.back() + "'", line_);
      }
      brackets.pop_back();
    }
    emit(Token::Kind::Operator, text);
    advance(text.size());
  }

  std::string source_;
  std::size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace tiercel::jinja
