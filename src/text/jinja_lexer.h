// A template's text as tokens, with white space already removed where the template's tags ask for it.
//
// The rules are those of jinja2.lexer with trim_blocks and lstrip_blocks set, which is how chat templates are run: the
// line feed after a block tag goes, and so does white space between the start of a line and a block tag or comment.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tiercel::jinja {

struct Token {
  enum class Kind {
    Data,
    BlockBegin,
    BlockEnd,
    OutputBegin,
    OutputEnd,
    Name,
    String,
    Integer,
    Float,
    Operator,
    End,
  };
  Kind kind;
  int line;
  std::string text = {};  // of a string literal, what it stands for
  std::int64_t integer = 0;
  double number = 0;
};

// Throws Error. The last token is End.
std::vector<Token> tokenize(std::string_view source);

}  // namespace tiercel::jinja
