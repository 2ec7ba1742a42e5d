// Where a parser is in a template's tokens, what it finds there and what it expects; and how deep it has gone.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_budget.h"
#include "text/jinja_error.h"
#include "text/jinja_lexer.h"

namespace tiercel::jinja {

class TokenCursor {
 public:
  explicit TokenCursor(std::string_view source) : tokens_(tokenize(source)) {}

  // One for each level of the parser's own recursion, which it bounds.
  class Descent {
   public:
    explicit Descent(TokenCursor& cursor) : cursor_(cursor) {
      if (++cursor_.depth_ > kMaxDepth) fail("nested more than 200 deep", cursor_.current().line);
    }
    ~Descent() { --cursor_.depth_; }
    Descent(const Descent&) = delete;
    Descent& operator=(const Descent&) = delete;

   private:
    TokenCursor& cursor_;
  };

  const Token& current() const { return tokens_[position_]; }
  const Token& following() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[position_ + 1 < tokens_.size() ? position_++ : position_]; }

  bool at_operator(std::string_view text) const {
    return current().kind == Token::Kind::Operator && current().text == text;
  }
  bool at_name(std::string_view text) const { return current().kind == Token::Kind::Name && current().text == text; }
  bool skip_operator(std::string_view text) { return at_operator(text) && (next(), true); }
  bool skip_name(std::string_view text) { return at_name(text) && (next(), true); }

  // Throw Error where something else is there.
  [[noreturn]] void unexpected(std::string_view wanted) const;
  void expect_operator(std::string_view text);
  std::string expect_name(std::string_view wanted);
  void expect_block_end();

 private:
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace tiercel::jinja
