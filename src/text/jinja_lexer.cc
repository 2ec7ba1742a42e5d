#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace tiercel::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {
    if (source_.ends_with('\n')) source_.remove_suffix(1);  // as Jinja does
  }

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) {
      if (Status status = next(); !status.ok()) return status;
    }
    add(TokenKind::End, "");
    return std::move(tokens_);
  }

 private:
  Status error(std::string_view what) const {
    return Status::invalid_argument(fmt::format("line {}: {}", line_, what));
  }
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void skip_to(std::size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    at_ = end;
  }
  bool looking_at(std::string_view text) const { return source_.substr(at_).starts_with(text); }

  Status next() {
    std::size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= source_.size()) {
        add_data(source_.substr(at_));
        skip_to(source_.size());
        return {};
      }
      const char c = source_[tag + 1];
      if (c == '{' || c == '%' || c == '#') break;
    }
    const char kind = source_[tag + 1], control = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    std::string_view data = source_.substr(at_, tag - at_);
    if (control == '-') {
      const std::size_t last = data.find_last_not_of(kSpace);
      data = data.substr(0, last == std::string_view::npos ? 0 : last + 1);
    } else if (control != '+' && kind != '{') {
      // lstrip_blocks: white space between the line's start and a block goes.
      const std::size_t last = data.find_last_not_of(" \t");
      const bool at_line_start = tokens_.empty() || at_ == 0 || source_[at_ - 1] == '\n' || ate_newline_;
      if (last == std::string_view::npos ? at_line_start : data[last] == '\n')
        data = data.substr(0, last == std::string_view::npos ? 0 : last + 1);
    }
    add_data(data);
    skip_to(tag + 2);
    const bool has_control = control == '-' || (control == '+' && kind != '{');
    if (kind == '#') return comment();
    if (has_control) skip_to(at_ + 1);
    return kind == '{' ? inside(TokenKind::PrintBegin, TokenKind::PrintEnd, "}}") : block();
  }

  void add_data(std::string_view data) {
    if (data.empty()) return;
    std::string text;
    for (std::size_t i = 0; i < data.size(); ++i) {
      if (data[i] == '\r') {
        text += '\n';
        if (i + 1 < data.size() && data[i + 1] == '\n') ++i;
      } else {
        text += data[i];
      }
    }
    add(TokenKind::Data, std::move(text));
  }

  // What follows a closing tag: `-` eats all white space, otherwise a block's or comment's end eats one line feed.
  void after_tag(char control, bool block) {
    ate_newline_ = false;
    if (control == '-') {
      const std::size_t next = source_.find_first_not_of(kSpace, at_);
      skip_to(next == std::string_view::npos ? source_.size() : next);
    } else if (block && control != '+') {
      if (looking_at("\r\n"))
        skip_to(at_ + 2), ate_newline_ = true;
      else if (looking_at("\n"))
        skip_to(at_ + 1), ate_newline_ = true;
    }
  }

  Status comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) return error("a comment is not closed");
    const char control = end > at_ ? source_[end - 1] : ' ';
    skip_to(end + 2);
    after_tag(control, true);
    return {};
  }

  Status block() {
    const std::size_t first = source_.find_first_not_of(kSpace, at_);
    if (first != std::string_view::npos && source_.substr(first).starts_with("raw")) {
      std::size_t close = source_.find_first_not_of(kSpace, first + 3);
      if (close != std::string_view::npos &&
          (source_.substr(close).starts_with("%}") || source_.substr(close).starts_with("-%}")))
        return raw(close);
    }
    return inside(TokenKind::BlockBegin, TokenKind::BlockEnd, "%}");
  }

  Status raw(std::size_t close) {
    const char open_control = source_[close] == '-' ? '-' : ' ';
    skip_to(close + (open_control == '-' ? 3 : 2));
    after_tag(open_control, true);
    std::size_t end = at_;
    for (;; ++end) {
      end = source_.find("{%", end);
      if (end == std::string_view::npos) return error("a raw block is not closed");
      std::size_t name = end + 2;
      const bool strip = name < source_.size() && source_[name] == '-';
      name = source_.find_first_not_of(kSpace, name + strip);
      if (name == std::string_view::npos || !source_.substr(name).starts_with("endraw")) continue;
      std::size_t stop = source_.find_first_not_of(kSpace, name + 6);
      if (stop == std::string_view::npos) return error("a raw block is not closed");
      std::string_view data = source_.substr(at_, end - at_);
      if (strip)
        data = data.substr(0, data.find_last_not_of(kSpace) + 1);
      else if (const std::size_t last = data.find_last_not_of(" \t");
               last != std::string_view::npos && data[last] == '\n')
        data = data.substr(0, last + 1);
      add_data(data);
      const char control = source_[stop] == '-' ? '-' : ' ';
      stop += control == '-';
      if (!source_.substr(stop).starts_with("%}")) return error("a raw block is not closed");
      skip_to(stop + 2);
      after_tag(control, true);
      return {};
    }
  }

  Status inside(TokenKind begin, TokenKind end, std::string_view close) {
    add(begin, "");
    for (;;) {
      const std::size_t next = source_.find_first_not_of(kSpace, at_);
      if (next == std::string_view::npos) return error("a tag is not closed");
      skip_to(next);
      if (open_ > 0 && looking_at("}")) {  // of a mapping, although a second one may follow
        add(TokenKind::Operator, "}");
        ++at_;
        --open_;
        continue;
      }
      if (looking_at(close) || (looking_at("-") && source_.substr(at_ + 1).starts_with(close)) ||
          (close == "%}" && looking_at("+") && source_.substr(at_ + 1).starts_with(close))) {
        const char control = source_[at_] == close[0] ? ' ' : source_[at_];
        skip_to(at_ + close.size() + (control != ' '));
        add(end, "");
        open_ = 0;
        after_tag(control, end == TokenKind::BlockEnd);
        return {};
      }
      if (Status status = expression_token(); !status.ok()) return status;
    }
  }

  Status expression_token() {
    const char c = source_[at_];
    if (is_name_start(c)) {
      std::size_t end = at_;
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      add(TokenKind::Name, std::string(source_.substr(at_, end - at_)));
      at_ = end;
      return {};
    }
    if (is_digit(c)) {
      std::size_t end = at_;
      bool real = false;
      const auto digits = [&] {
        while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) ++end;
      };
      const auto digit_at = [&](std::size_t i) { return i < source_.size() && is_digit(source_[i]); };
      digits();
      if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) real = true, ++end, digits();
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        const std::size_t sign = end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
        if (digit_at(end + 1 + sign)) real = true, end += 1 + sign, digits();
      }
      std::string text(source_.substr(at_, end - at_));
      std::erase(text, '_');
      if (text.size() > 18) return error("a number is too long");
      add(real ? TokenKind::Float : TokenKind::Integer, std::move(text));
      at_ = end;
      return {};
    }
    if (c == '\'' || c == '"') return string_token(c);
    static constexpr std::array<std::string_view, 6> kPairs = {"==", "!=", "<=", ">=", "//", "**"};
    for (const std::string_view pair : kPairs) {
      if (looking_at(pair)) {
        add(TokenKind::Operator, std::string(pair));
        at_ += 2;
        return {};
      }
    }
    if (std::string_view("+-*/%~<>=()[]{},.:|").find(c) == std::string_view::npos)
      return error(fmt::format("unexpected character '{}'", c));
    if (c == '{') ++open_;
    add(TokenKind::Operator, std::string(1, c));
    ++at_;
    return {};
  }

  Status string_token(char quote) {
    std::string text;
    const int line = line_;
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      char c = source_[at_];
      if (c == '\n') ++line_;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (++at_ >= source_.size()) break;
      switch (c = source_[at_]) {
        case 'n': text += '\n'; break;
        case 't': text += '\t'; break;
        case 'r': text += '\r'; break;
        case '\n': break;
        case '\\':
        case '\'':
        case '"': text += c; break;
        case 'u':
        case 'x': {
          const std::size_t digits = c == 'u' ? 4 : 2;
          unsigned code = 0;
          for (std::size_t i = 0; i < digits; ++i) {
            const std::size_t digit =
                at_ + 1 + i < source_.size()
                    ? std::string_view("0123456789abcdef").find(static_cast<char>(source_[at_ + 1 + i] | 0x20))
                    : 16;
            if (digit > 15) return error("a string has a bad escape");
            code = code * 16 + static_cast<unsigned>(digit);
          }
          at_ += digits;
          if (code >= 0xd800 && code < 0xe000) return error("a string has a surrogate escape");
          if (code < 0x80) {
            text += static_cast<char>(code);
          } else if (code < 0x800) {
            text += {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
          } else {
            text += {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
                     static_cast<char>(0x80 | (code & 63))};
          }
          break;
        }
        default: text += {'\\', c};
      }
    }
    if (at_ >= source_.size()) return error("a string is not closed");
    ++at_;
    tokens_.push_back({TokenKind::String, std::move(text), line});
    return {};
  }

  std::string_view source_;
  std::size_t at_ = 0;
  int line_ = 1;
  int open_ = 0;              // braces of mappings in the current tag
  bool ate_newline_ = false;  // the tag before ended a line, which trim_blocks removed
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace tiercel::jinja
