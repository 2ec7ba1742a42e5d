#include "text/jinja_expression_parser.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace tiercel::jinja {
namespace {

using enum Token::Kind;
using Kind = Expression::Kind;

// Left-recursive chains such as a + b + c grow without the parser recursing, so the tree is measured too.
ExpressionPtr finish(ExpressionPtr node) {
  for (const ExpressionPtr& child : node->children) {
    if (child) node->depth = std::max(node->depth, child->depth + 1);
  }
  if (node->depth > kMaxDepth) fail("an expression is nested more than 200 deep", node->line);
  return node;
}

ExpressionPtr make(Kind kind, int line, std::string name, std::vector<ExpressionPtr> children) {
  auto node = std::make_unique<Expression>(Expression{.kind = kind, .line = line, .name = std::move(name)});
  node->children = std::move(children);
  return finish(std::move(node));
}

template <class... Children>
std::vector<ExpressionPtr> list(Children... children) {
  std::vector<ExpressionPtr> out;
  (out.push_back(std::move(children)), ...);
  return out;
}

ExpressionPtr constant(Value value, int line) {
  return std::make_unique<Expression>(Expression{.kind = Kind::Constant, .line = line, .constant = std::move(value)});
}

}  // namespace

bool ExpressionParser::at_end_of_tuple() const {
  const Token::Kind kind = current().kind;
  return kind == OutputEnd || kind == BlockEnd || at_operator(")") || at_name("recursive");
}

ExpressionPtr ExpressionParser::parse_tuple(Precedence minimum, bool is_bracketed) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (!at_end_of_tuple()) {
    items.push_back(parse_expression(minimum));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (items.empty() && !is_bracketed) unexpected("an expression");
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  return make(Kind::Tuple, line, "", std::move(items));
}

ExpressionPtr ExpressionParser::parse_expression(Precedence minimum) {
  const Descent descent(*this);
  ExpressionPtr left = parse_operand(minimum);
  for (;;) {
    ExpressionPtr more = parse_operation(left, minimum);
    if (more == nullptr) return left;
    left = std::move(more);
  }
}

ExpressionPtr ExpressionParser::parse_operand(Precedence minimum) {
  const int line = current().line;
  if (minimum <= kNot && skip_name("not")) return make(Kind::Not, line, "", list(parse_expression(kNot)));
  return parse_unary(true);
}

ExpressionPtr ExpressionParser::parse_operation(ExpressionPtr& left, Precedence minimum) {
  const int line = current().line;
  if (current().kind == Name) {
    if (minimum <= kCondition && skip_name("if")) {
      ExpressionPtr condition = parse_expression(kOr);
      ExpressionPtr otherwise = skip_name("else") ? parse_expression(kCondition) : nullptr;
      return make(Kind::Condition, line, "", list(std::move(left), std::move(condition), std::move(otherwise)));
    }
    if (minimum <= kOr && skip_name("or")) {
      return make(Kind::Or, line, "", list(std::move(left), parse_expression(kAnd)));
    }
    if (minimum <= kAnd && skip_name("and")) {
      return make(Kind::And, line, "", list(std::move(left), parse_expression(kNot)));
    }
  }
  if (minimum <= kComparison && at_comparison()) return parse_comparison(left);
  if (current().kind != Operator) return nullptr;
  const std::string text = current().text;
  if (minimum <= kConcatenation && text == "~") return parse_concatenation(left);
  const Precedence precedence = text == "+" || text == "-"                                  ? kSum
                                : text == "*" || text == "/" || text == "//" || text == "%" ? kProduct
                                : text == "**"                                              ? kPower
                                                                                            : kCondition;
  if (precedence == kCondition || minimum > precedence) return nullptr;
  next();
  // All associate to the left, '**' too. What follows '**' is a unary expression.
  ExpressionPtr right =
      precedence == kPower ? parse_unary(true) : parse_expression(static_cast<Precedence>(precedence + 1));
  return make(Kind::Arithmetic, line, text, list(std::move(left), std::move(right)));
}

bool ExpressionParser::at_comparison() const {
  static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
  if (current().kind == Operator) {
    return std::find(std::begin(kOperators), std::end(kOperators), current().text) != std::end(kOperators);
  }
  return at_name("in") || (at_name("not") && following().kind == Name && following().text == "in");
}

ExpressionPtr ExpressionParser::parse_comparison(ExpressionPtr& left) {
  auto node = std::make_unique<Expression>(Expression{.kind = Kind::Compare, .line = current().line});
  node->children.push_back(std::move(left));
  while (at_comparison()) {
    std::string text = next().text;
    if (text == "not") text.append(" ").append(next().text);
    node->names.push_back(std::move(text));
    node->children.push_back(parse_expression(kSum));
  }
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_concatenation(ExpressionPtr& left) {
  auto node = std::make_unique<Expression>(Expression{.kind = Kind::Concatenate, .line = current().line});
  node->children.push_back(std::move(left));
  while (skip_operator("~")) node->children.push_back(parse_expression(kProduct));
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Descent descent(*this);
  const int line = current().line;
  ExpressionPtr node;
  if (skip_operator("-")) {
    node = make(Kind::Negate, line, "", list(parse_unary(false)));
  } else if (skip_operator("+")) {
    node = make(Kind::Plus, line, "", list(parse_unary(false)));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const Token& token = current();
  const int line = token.line;
  if (token.kind == Name) return parse_name();
  if (token.kind == String) {
    std::string text;
    while (current().kind == String) text += next().text;
    return constant(make_trusted(text), line);
  }
  if (token.kind == Integer) return constant(next().integer, line);
  if (token.kind == Float) return constant(next().number, line);
  if (skip_operator("(")) {
    ExpressionPtr node = parse_tuple(kCondition, true);
    expect_operator(")");
    return node;
  }
  if (skip_operator("[")) {
    std::vector<ExpressionPtr> items;
    while (!at_operator("]")) {
      if (!items.empty()) expect_operator(",");
      if (at_operator("]")) break;
      items.push_back(parse_expression(kCondition));
    }
    next();
    return make(Kind::List, line, "", std::move(items));
  }
  if (skip_operator("{")) return parse_dict(line);
  unexpected("an expression");
}

ExpressionPtr ExpressionParser::parse_name() {
  const Token& token = next();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return constant(true, token.line);
  if (name == "false" || name == "False") return constant(false, token.line);
  if (name == "none" || name == "None") return constant(None{}, token.line);
  return make(Kind::Name, token.line, name, {});
}

ExpressionPtr ExpressionParser::parse_dict(int line) {
  std::vector<ExpressionPtr> items;
  while (!at_operator("}")) {
    if (!items.empty()) expect_operator(",");
    if (at_operator("}")) break;
    items.push_back(parse_expression(kCondition));
    expect_operator(":");
    items.push_back(parse_expression(kCondition));
  }
  next();
  return make(Kind::Dict, line, "", std::move(items));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr node) {
  for (;;) {
    const int line = current().line;
    if (skip_operator(".")) {
      if (current().kind == Integer) {
        ExpressionPtr index = constant(next().integer, line);
        node = make(Kind::Item, line, "", list(std::move(node), std::move(index)));
      } else {
        node = make(Kind::Attribute, line, expect_name("the name of an attribute"), list(std::move(node)));
      }
    } else if (skip_operator("[")) {
      node = parse_subscript(std::move(node), line);
    } else if (at_operator("(")) {
      node = parse_call(Kind::Call, line, "", std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr node, int line) {
  std::vector<ExpressionPtr> parts = list(std::move(node));
  bool is_slice = false;
  parts.push_back(at_operator(":") ? nullptr : parse_expression(kCondition));
  while (parts.size() < 4 && skip_operator(":")) {
    is_slice = true;
    const bool is_left_out = at_operator(":") || at_operator("]");
    parts.push_back(is_left_out ? nullptr : parse_expression(kCondition));
  }
  if (at_operator(",")) fail("a subscript with commas is not supported", line);
  expect_operator("]");
  if (!is_slice) return make(Kind::Item, line, "", std::move(parts));
  parts.resize(4);
  return make(Kind::Slice, line, "", std::move(parts));
}

ExpressionPtr ExpressionParser::parse_call(Kind kind, int line, std::string name, ExpressionPtr first) {
  auto node = std::make_unique<Expression>(Expression{.kind = kind, .line = line, .name = std::move(name)});
  node->children.push_back(std::move(first));
  expect_operator("(");
  while (!at_operator(")")) {
    if (node->children.size() > 1) expect_operator(",");
    if (at_operator(")")) break;
    if (at_operator("*") || at_operator("**")) fail("arguments with '*' are not supported", line);
    if (current().kind == Name && following().kind == Operator && following().text == "=") {
      node->names.push_back(next().text);
      next();
    } else if (!node->names.empty()) {
      fail("an argument without a name follows one with a name", line);
    }
    node->children.push_back(parse_expression(kCondition));
  }
  next();
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr node, bool starts_with_name) {
  for (;;) {
    const int line = current().line;
    if (starts_with_name || skip_operator("|")) {
      starts_with_name = false;
      std::string name = expect_name("the name of a filter");
      while (skip_operator(".")) name.append(".").append(expect_name("the name of a filter"));
      node = at_operator("(") ? parse_call(Kind::Filter, line, std::move(name), std::move(node))
                              : make(Kind::Filter, line, std::move(name), list(std::move(node)));
    } else if (node && skip_name("is")) {
      node = parse_test(std::move(node), line);
    } else if (node && at_operator("(")) {
      node = parse_call(Kind::Call, line, "", std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr node, int line) {
  const bool is_negated = skip_name("not");
  std::string name = expect_name("the name of a test");
  ExpressionPtr test;
  if (at_operator("(")) {
    test = parse_call(Kind::Test, line, std::move(name), std::move(node));
  } else {
    std::vector<ExpressionPtr> parts = list(std::move(node));
    if (at_test_argument()) {
      if (at_name("is")) fail("tests cannot be chained with 'is'", line);
      parts.push_back(parse_postfix(parse_primary()));
    }
    test = make(Kind::Test, line, std::move(name), std::move(parts));
  }
  return is_negated ? make(Kind::Not, line, "", list(std::move(test))) : std::move(test);
}

bool ExpressionParser::at_test_argument() const {
  const Token& token = current();
  if (token.kind == Name) return token.text != "else" && token.text != "or" && token.text != "and";
  return token.kind == String || token.kind == Integer || token.kind == Float || at_operator("[") || at_operator("{");
}

}  // namespace tiercel::jinja
