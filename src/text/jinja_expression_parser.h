// Expressions of a template, by jinja2's precedences: 'not' binds looser than comparisons, '~' tighter than '+', and a
// filter tighter than any of them.
#pragma once

#include <string>

#include "text/jinja_ast.h"
#include "text/jinja_token_cursor.h"

namespace tiercel::jinja {

// How tightly operators bind, loosest first.
enum Precedence { kCondition, kOr, kAnd, kNot, kComparison, kSum, kConcatenation, kProduct, kPower };

// Each parse_... leaves the cursor behind what it parsed, or throws Error.
class ExpressionParser : public TokenCursor {
 public:
  using TokenCursor::TokenCursor;

  // One expression, or several with commas: a tuple.
  ExpressionPtr parse_tuple(Precedence minimum, bool is_bracketed = false);
  ExpressionPtr parse_expression(Precedence minimum);
  // Filters, tests and calls after `node`. With `starts_with_name` the first filter stands without its '|'.
  ExpressionPtr parse_filters(ExpressionPtr node, bool starts_with_name = false);

 private:
  bool at_end_of_tuple() const;
  ExpressionPtr parse_operand(Precedence minimum);
  // The operator after `left` with what follows it; null where none binds tightly enough.
  ExpressionPtr parse_operation(ExpressionPtr& left, Precedence minimum);
  bool at_comparison() const;
  ExpressionPtr parse_comparison(ExpressionPtr& left);
  ExpressionPtr parse_concatenation(ExpressionPtr& left);
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_dict(int line);
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node, int line);
  // The arguments in brackets, as the children after `first`.
  ExpressionPtr parse_call(Expression::Kind kind, int line, std::string name, ExpressionPtr first);
  ExpressionPtr parse_test(ExpressionPtr node, int line);
  bool at_test_argument() const;
};

}  // namespace tiercel::jinja
