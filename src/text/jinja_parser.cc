#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include "text/jinja_lexer.h"

namespace tiercel::jinja {
namespace {

using enum Token::Kind;
using Kind = Expression::Kind;

// How tightly operators bind, loosest first.
enum Precedence { kCondition, kOr, kAnd, kNot, kComparison, kSum, kConcatenation, kProduct, kPower };

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

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Body run() {
    Body body = parse_body({}, "");
    if (current().kind != End) fail("unexpected end of a tag", current().line);
    return body;
  }

 private:
  // Bounds the parser's own recursion.
  class Descent {
   public:
    explicit Descent(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) fail("nested more than 200 deep", parser_.current().line);
    }
    ~Descent() { --parser_.depth_; }
    Descent(const Descent&) = delete;
    Descent& operator=(const Descent&) = delete;

   private:
    Parser& parser_;
  };

  const Token& current() const { return tokens_[position_]; }
  const Token& following() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[position_ + 1 < tokens_.size() ? position_++ : position_]; }

  bool at_operator(std::string_view text) const { return current().kind == Operator && current().text == text; }
  bool at_name(std::string_view text) const { return current().kind == Name && current().text == text; }
  bool skip_operator(std::string_view text) { return at_operator(text) && (next(), true); }
  bool skip_name(std::string_view text) { return at_name(text) && (next(), true); }

  [[noreturn]] void unexpected(std::string_view wanted) const {
    fail("expected " + std::string(wanted) + ", found " + describe(current()), current().line);
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) unexpected("'" + std::string(text) + "'");
  }
  std::string expect_name(std::string_view wanted) {
    if (current().kind != Name) unexpected(wanted);
    return next().text;
  }
  void expect_block_end() {
    if (current().kind != BlockEnd) unexpected("'%}'");
    next();
  }

  ExpressionPtr make(Kind kind, int line, std::string name, std::vector<ExpressionPtr> children) const {
    auto node = std::make_unique<Expression>(Expression{.kind = kind, .line = line, .name = std::move(name)});
    node->children = std::move(children);
    return finish(std::move(node));
  }

  // Left-recursive chains such as a + b + c grow without the parser recursing, so the tree is measured too.
  static ExpressionPtr finish(ExpressionPtr node) {
    for (const ExpressionPtr& child : node->children) {
      if (child) node->depth = std::max(node->depth, child->depth + 1);
    }
    if (node->depth > kMaxDepth) fail("an expression is nested more than 200 deep", node->line);
    return node;
  }

  template <class... Children>
  static std::vector<ExpressionPtr> list(Children... children) {
    std::vector<ExpressionPtr> out;
    (out.push_back(std::move(children)), ...);
    return out;
  }

  ExpressionPtr constant(Value value, int line) const {
    return std::make_unique<Expression>(Expression{.kind = Kind::Constant, .line = line, .constant = std::move(value)});
  }

  // ---- statements

  // Statements up to a tag with one of the names, which is left as the current token; `opener` has to be closed by it.
  Body parse_body(std::initializer_list<std::string_view> ends, std::string_view opener, int opener_line = 0) {
    const Descent descent(*this);
    Body body;
    for (;;) {
      const Token& token = current();
      if (token.kind == Data) {
        body.push_back(statement(Statement::Kind::Data, token.line));
        body.back()->constant = make_trusted(token.text);
        next();
      } else if (token.kind == OutputBegin) {
        body.push_back(statement(Statement::Kind::Output, next().line));
        body.back()->expression = parse_tuple(kCondition);
        if (current().kind != OutputEnd) unexpected("'}}'");
        next();
      } else if (token.kind == BlockBegin) {
        next();
        if (current().kind != Name) unexpected("the name of a tag");
        if (std::find(ends.begin(), ends.end(), current().text) != ends.end()) return body;
        body.push_back(parse_tag());
      } else {
        if (ends.size() > 0) fail("'" + std::string(opener) + "' is never closed", opener_line);
        return body;
      }
    }
  }

  Body parse_block(std::initializer_list<std::string_view> ends, const Statement& opener, std::string_view name) {
    expect_block_end();
    return parse_body(ends, name, opener.line);
  }

  // A block with variables of its own that 'break' cannot leave.
  Body parse_captured(std::initializer_list<std::string_view> ends, const Statement& opener, std::string_view name) {
    const int outer_loops = std::exchange(loop_depth_, 0);
    ++scope_depth_;
    Body body = parse_block(ends, opener, name);
    --scope_depth_;
    loop_depth_ = outer_loops;
    return body;
  }

  static StatementPtr statement(Statement::Kind kind, int line) {
    return std::make_unique<Statement>(Statement{.kind = kind, .line = line});
  }

  StatementPtr parse_tag() {
    const Token tag = next();
    if (tag.text == "if") return parse_if(tag.line);
    if (tag.text == "for") return parse_for(tag.line);
    if (tag.text == "set") return parse_set(tag.line);
    if (tag.text == "macro") return parse_macro(tag.line);
    if (tag.text == "filter") return parse_filter_block(tag.line);
    if (tag.text == "with") return parse_with(tag.line);
    if (tag.text == "generation") return parse_generation(tag.line);
    if (tag.text == "break" || tag.text == "continue") {
      if (loop_depth_ == 0) fail("'" + tag.text + "' outside of a loop", tag.line);
      expect_block_end();
      return statement(tag.text == "break" ? Statement::Kind::Break : Statement::Kind::Continue, tag.line);
    }
    if (tag.text.starts_with("end") || tag.text == "else" || tag.text == "elif") {
      fail("'" + tag.text + "' closes nothing", tag.line);
    }
    fail("the tag '" + tag.text + "' is not supported", tag.line);
  }

  StatementPtr parse_if(int line) {
    auto node = statement(Statement::Kind::If, line);
    do {
      Branch branch{parse_tuple(kOr), {}};
      branch.body = parse_block({"elif", "else", "endif"}, *node, "if");
      node->branches.push_back(std::move(branch));
    } while (skip_name("elif"));
    if (skip_name("else")) node->otherwise = parse_block({"endif"}, *node, "if");
    next();
    expect_block_end();
    return node;
  }

  StatementPtr parse_for(int line) {
    auto node = statement(Statement::Kind::For, line);
    parse_targets(*node, false);
    if (!skip_name("in")) unexpected("'in'");
    node->expression = parse_tuple(kOr);
    if (skip_name("if")) node->condition = parse_expression(kCondition);
    if (at_name("recursive")) fail("recursive loops are not supported", line);
    ++loop_depth_;
    ++scope_depth_;
    node->body = parse_block({"else", "endfor"}, *node, "for");
    --loop_depth_;
    if (skip_name("else")) node->otherwise = parse_block({"endfor"}, *node, "for");
    --scope_depth_;
    next();
    expect_block_end();
    return node;
  }

  void parse_targets(Statement& node, bool allows_attribute) {
    const bool is_bracketed = skip_operator("(");
    do {
      if (at_operator(")") || at_name("in") || at_operator("=")) break;
      Target target{parse_target_name(), ""};
      if (allows_attribute && skip_operator(".")) target.attribute = expect_name("the name of an attribute");
      node.targets.push_back(std::move(target));
      if (!at_operator(",")) break;
      node.unpacks = true;
    } while (skip_operator(","));
    if (is_bracketed) expect_operator(")");
    if (node.targets.empty()) unexpected("the name of a variable");
  }

  std::string parse_target_name() {
    if (at_operator("(")) fail("nested unpacking is not supported", current().line);
    const int line = current().line;
    std::string name = expect_name("the name of a variable");
    static constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kConstants), std::end(kConstants), name) != std::end(kConstants)) {
      fail("'" + name + "' cannot be assigned to", line);
    }
    return name;
  }

  StatementPtr parse_set(int line) {
    auto node = statement(Statement::Kind::Set, line);
    parse_targets(*node, true);
    if (skip_operator("=")) {
      node->expression = parse_tuple(kCondition);
    } else {
      node->kind = Statement::Kind::SetBlock;
      if (node->targets.size() != 1) unexpected("'='");
      if (at_operator("|")) node->expression = parse_filters(nullptr);
      node->body = parse_captured({"endset"}, *node, "set");
      next();
    }
    expect_block_end();
    return node;
  }

  StatementPtr parse_macro(int line) {
    // Elsewhere a macro would have to keep alive the variables around it.
    if (scope_depth_ > 0) fail("a macro inside a loop or another block is not supported", line);
    auto node = statement(Statement::Kind::Macro, line);
    node->name = expect_name("the name of a macro");
    expect_operator("(");
    while (!at_operator(")")) {
      if (!node->parameters.empty()) expect_operator(",");
      Parameter parameter{parse_target_name(), nullptr};
      if (skip_operator("=")) {
        parameter.otherwise = parse_expression(kCondition);
      } else if (!node->parameters.empty() && node->parameters.back().otherwise) {
        fail("a parameter without a default follows one with a default", line);
      }
      node->parameters.push_back(std::move(parameter));
    }
    next();
    node->body = parse_captured({"endmacro"}, *node, "macro");
    next();
    expect_block_end();
    return node;
  }

  StatementPtr parse_filter_block(int line) {
    auto node = statement(Statement::Kind::FilterBlock, line);
    node->expression = parse_filters(nullptr, true);
    node->body = parse_captured({"endfilter"}, *node, "filter");
    next();
    expect_block_end();
    return node;
  }

  StatementPtr parse_with(int line) {
    auto node = statement(Statement::Kind::With, line);
    while (current().kind != BlockEnd) {
      if (!node->parameters.empty()) expect_operator(",");
      Parameter variable{parse_target_name(), nullptr};
      expect_operator("=");
      variable.otherwise = parse_expression(kCondition);
      node->parameters.push_back(std::move(variable));
    }
    ++scope_depth_;
    node->body = parse_block({"endwith"}, *node, "with");
    --scope_depth_;
    next();
    expect_block_end();
    return node;
  }

  StatementPtr parse_generation(int line) {
    auto node = statement(Statement::Kind::Generation, line);
    node->body = parse_captured({"endgeneration"}, *node, "generation");
    next();
    expect_block_end();
    return node;
  }

  // ---- expressions

  bool at_end_of_tuple() const {
    const Token::Kind kind = current().kind;
    return kind == OutputEnd || kind == BlockEnd || at_operator(")") || at_name("recursive");
  }

  // One expression, or several with commas: a tuple.
  ExpressionPtr parse_tuple(Precedence minimum, bool is_bracketed = false) {
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

  ExpressionPtr parse_expression(Precedence minimum) {
    const Descent descent(*this);
    ExpressionPtr left = parse_operand(minimum);
    for (;;) {
      ExpressionPtr more = parse_operation(left, minimum);
      if (more == nullptr) return left;
      left = std::move(more);
    }
  }

  ExpressionPtr parse_operand(Precedence minimum) {
    const int line = current().line;
    if (minimum <= kNot && skip_name("not")) return make(Kind::Not, line, "", list(parse_expression(kNot)));
    return parse_unary(true);
  }

  // The operator after `left` with what follows it; null where none binds tightly enough.
  ExpressionPtr parse_operation(ExpressionPtr& left, Precedence minimum) {
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

  bool at_comparison() const {
    static constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
    if (current().kind == Operator) {
      return std::find(std::begin(kOperators), std::end(kOperators), current().text) != std::end(kOperators);
    }
    return at_name("in") || (at_name("not") && following().kind == Name && following().text == "in");
  }

  ExpressionPtr parse_comparison(ExpressionPtr& left) {
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

  ExpressionPtr parse_concatenation(ExpressionPtr& left) {
    auto node = std::make_unique<Expression>(Expression{.kind = Kind::Concatenate, .line = current().line});
    node->children.push_back(std::move(left));
    while (skip_operator("~")) node->children.push_back(parse_expression(kProduct));
    return finish(std::move(node));
  }

  ExpressionPtr parse_unary(bool with_filters) {
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

  ExpressionPtr parse_primary() {
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

  ExpressionPtr parse_name() {
    const Token& token = next();
    const std::string& name = token.text;
    if (name == "true" || name == "True") return constant(true, token.line);
    if (name == "false" || name == "False") return constant(false, token.line);
    if (name == "none" || name == "None") return constant(None{}, token.line);
    return make(Kind::Name, token.line, name, {});
  }

  ExpressionPtr parse_dict(int line) {
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

  ExpressionPtr parse_postfix(ExpressionPtr node) {
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

  ExpressionPtr parse_subscript(ExpressionPtr node, int line) {
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

  // The arguments in brackets, as the children after `first`.
  ExpressionPtr parse_call(Kind kind, int line, std::string name, ExpressionPtr first) {
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

  // Filters, tests and calls after `node`. With `starts_with_name` the first filter stands without its '|'.
  ExpressionPtr parse_filters(ExpressionPtr node, bool starts_with_name = false) {
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

  ExpressionPtr parse_test(ExpressionPtr node, int line) {
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

  bool at_test_argument() const {
    const Token& token = current();
    if (token.kind == Name) return token.text != "else" && token.text != "or" && token.text != "and";
    return token.kind == String || token.kind == Integer || token.kind == Float || at_operator("[") || at_operator("{");
  }

  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  int depth_ = 0;
  int loop_depth_ = 0;   // loops around the current statement that 'break' can leave
  int scope_depth_ = 0;  // blocks around it that have variables of their own
};

}  // namespace

Body parse_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) fail("it is longer than 1 MiB");
  return Parser(source).run();
}

}  // namespace tiercel::jinja
