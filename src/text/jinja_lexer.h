// A chat template's source as tokens, white space control applied (trim_blocks and lstrip_blocks on, as chat templates
// expect).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tiercel/status.h"

namespace tiercel::jinja {

enum class TokenKind { Data, Name, String, Integer, Float, Operator, BlockBegin, BlockEnd, PrintBegin, PrintEnd, End };

struct Token {
  TokenKind kind = TokenKind::End;
  std::string text;  // strings unescaped
  int line = 1;
};

Result<std::vector<Token>> tokenize(std::string_view source);

}  // namespace tiercel::jinja
