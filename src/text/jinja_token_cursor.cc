#include "text/jinja_token_cursor.h"

namespace tiercel::jinja {
namespace {

using enum Token::Kind;

std::string describe(const Token& token) {
  switch (token.kind) {
    case Data: return "text";
    case BlockBegin: return "'{%'";
    case BlockEnd: return "'%}'";
    case OutputBegin: return "'{{'";
    case OutputEnd: return "'}}'";
    case String: return "a string";
    case Integer:
    case Float: return "a number";
    case End: return "the end of the template";
    case Name:
    case Operator: return std::string("'").append(token.text).append("'");
  }
  return {};
}

}  // namespace

void TokenCursor::unexpected(std::string_view wanted) const {
  fail("expected " + std::string(wanted) + ", found " + describe(current()), current().line);
}

void TokenCursor::expect_operator(std::string_view text) {
  if (!skip_operator(text)) unexpected("'" + std::string(text) + "'");
}

std::string TokenCursor::expect_name(std::string_view wanted) {
  if (current().kind != Name) unexpected(wanted);
  return next().text;
}

void TokenCursor::expect_block_end() {
  if (current().kind != BlockEnd) unexpected("'%}'");
  next();
}

}  // namespace tiercel::jinja
