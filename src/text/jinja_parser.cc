#include "text/jinja_parser.h"

#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "text/jinja_lexer.h"

namespace tiercel::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxDepth = 200;

// Recursive descent. The first error is kept; after it every function returns null at once.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<Block> run() {
    Block block = parse_block({});
    if (!status_.ok()) return status_;
    return block;
  }

 private:
  class Depth {
   public:
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) parser_.fail("nested too deeply");
    }
    ~Depth() { --parser_.depth_; }

   private:
    Parser& parser_;
  };

  const Token& peek(std::size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& take() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool failed() const { return !status_.ok(); }
  std::nullptr_t fail(std::string_view what) {
    if (!failed()) status_ = Status::invalid_argument(fmt::format("line {}: {}", peek().line, what));
    return nullptr;
  }
  bool is_operator(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::Operator && peek(ahead).text == text;
  }
  bool is_name(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::Name && peek(ahead).text == text;
  }
  bool accept_operator(std::string_view text) { return is_operator(text) && (take(), true); }
  bool accept_name(std::string_view text) { return is_name(text) && (take(), true); }
  void expect_operator(std::string_view text) {
    if (!accept_operator(text)) fail(fmt::format("expected '{}', found '{}'", text, peek().text));
  }
  void expect_end() {
    if (peek().kind == TokenKind::BlockEnd) {
      take();
    } else {
      fail(fmt::format("unexpected '{}' in a block", peek().text));
    }
  }
  std::string expect_name() {
    if (peek().kind == TokenKind::Name) return take().text;
    fail(fmt::format("expected a name, found '{}'", peek().text));
    return "";
  }

  // Until one of `ends` follows a block's beginning; that name is taken, the rest of its tag is not. Empty: the end.
  Block parse_block(std::initializer_list<std::string_view> ends) {
    const Depth depth(*this);
    Block block;
    while (!failed()) {
      const Token& token = take();
      if (token.kind == TokenKind::End) {
        if (ends.size() > 0) fail(fmt::format("'{}' is missing", *std::prev(ends.end())));
        break;
      }
      if (token.kind == TokenKind::Data) {
        block.push_back({.kind = Statement::Kind::Data, .line = token.line, .text = token.text});
      } else if (token.kind == TokenKind::PrintBegin) {
        Statement print{.kind = Statement::Kind::Print, .line = token.line};
        print.expression = parse_tuple();
        if (take().kind != TokenKind::PrintEnd) fail("unexpected text in a {{ }}");
        block.push_back(std::move(print));
      } else {
        for (const std::string_view end : ends) {
          if (accept_name(end)) {
            ended_by_ = end;
            return block;
          }
        }
        parse_statement(block);
      }
    }
    return block;
  }

  void parse_statement(Block& block) {
    const int line = peek().line;
    const std::string name = expect_name();
    if (name == "if") return parse_if(block, line);
    if (name == "for") return parse_for(block, line);
    if (name == "set") return parse_set(block, line);
    if (name == "macro") return parse_macro(block, line);
    if (name == "filter") {
      Statement statement{.kind = Statement::Kind::Filter, .line = line};
      auto value = std::make_unique<Expression>(Expression{.kind = Kind::Name, .line = line, .text = "<body>"});
      statement.expression = parse_filter(std::move(value));
      expect_end();
      statement.body = parse_block({"endfilter"});
      expect_end();
      return block.push_back(std::move(statement));
    }
    if (name == "generation" || name == "endgeneration") return expect_end();  // marks training data; shows nothing
    if (name == "break" || name == "continue") {
      block.push_back({.kind = name == "break" ? Statement::Kind::Break : Statement::Kind::Continue, .line = line});
      return expect_end();
    }
    fail(fmt::format("'{}' blocks are not understood", name));
  }

  void parse_if(Block& block, int line) {
    Statement statement{.kind = Statement::Kind::If, .line = line};
    for (bool more = true; more && !failed();) {
      ExpressionPtr condition = ended_with_else_ ? nullptr : parse_tuple();
      expect_end();
      const bool is_else = std::exchange(ended_with_else_, false);
      Block body = is_else ? parse_block({"endif"}) : parse_block({"elif", "else", "endif"});
      statement.branches.emplace_back(std::move(condition), std::move(body));
      more = ended_by_ != "endif";
      ended_with_else_ = ended_by_ == "else";
    }
    ended_with_else_ = false;
    expect_end();
    block.push_back(std::move(statement));
  }

  void parse_for(Block& block, int line) {
    Statement statement{.kind = Statement::Kind::For, .line = line};
    const bool parenthesis = accept_operator("(");
    do statement.names.push_back(expect_name());
    while (accept_operator(","));
    if (parenthesis) expect_operator(")");
    if (!accept_name("in")) fail("expected 'in' in a for block");
    statement.expression = parse_or();  // an inline if belongs to the loop
    if (accept_name("if")) statement.condition = parse_expression();
    if (is_name("recursive")) fail("recursive loops are not understood");
    expect_end();
    statement.body = parse_block({"else", "endfor"});
    if (ended_by_ == "else" && !failed()) {
      expect_end();
      statement.otherwise = parse_block({"endfor"});
    }
    expect_end();
    block.push_back(std::move(statement));
  }

  void parse_set(Block& block, int line) {
    Statement statement{.kind = Statement::Kind::Set, .line = line};
    do statement.names.push_back(expect_name());
    while (accept_operator(","));
    if (accept_operator(".")) statement.text = expect_name();
    if (accept_operator("=")) {
      statement.expression = parse_tuple();
      expect_end();
    } else {
      statement.kind = Statement::Kind::SetBlock;
      if (is_operator("|")) fail("filters on set blocks are not understood");
      expect_end();
      statement.body = parse_block({"endset"});
      expect_end();
    }
    block.push_back(std::move(statement));
  }

  void parse_macro(Block& block, int line) {
    auto macro = std::make_shared<Macro>();
    macro->name = expect_name();
    expect_operator("(");
    while (!failed() && !is_operator(")")) {
      std::string parameter = expect_name();
      ExpressionPtr fallback = accept_operator("=") ? parse_expression() : nullptr;
      macro->parameters.emplace_back(std::move(parameter), std::move(fallback));
      if (!accept_operator(",")) break;
    }
    expect_operator(")");
    expect_end();
    macro->body = parse_block({"endmacro"});
    expect_end();
    Statement statement{.kind = Statement::Kind::Macro, .line = line, .text = macro->name};
    statement.macro = std::move(macro);
    block.push_back(std::move(statement));
  }

  ExpressionPtr node(Kind kind, std::string text = {}) const {
    return std::make_unique<Expression>(Expression{.kind = kind, .line = peek().line, .text = std::move(text)});
  }
  ExpressionPtr node(Kind kind, std::string text, ExpressionPtr a, ExpressionPtr b = nullptr) const {
    auto made = node(kind, std::move(text));
    made->children.push_back(std::move(a));
    if (b) made->children.push_back(std::move(b));
    return made;
  }
  ExpressionPtr literal(Value value) const {
    auto made = node(Kind::Literal);
    made->value = std::move(value);
    return made;
  }

  ExpressionPtr parse_tuple() {
    ExpressionPtr first = parse_expression();
    if (!is_operator(",")) return first;
    auto tuple = node(Kind::ListLiteral, "", std::move(first));
    while (!failed() && accept_operator(",")) {
      if (peek().kind == TokenKind::BlockEnd || peek().kind == TokenKind::PrintEnd || is_operator(")") ||
          is_operator("="))
        break;
      tuple->children.push_back(parse_expression());
    }
    return tuple;
  }

  ExpressionPtr parse_expression() {
    const Depth depth(*this);
    if (failed()) return nullptr;
    ExpressionPtr value = parse_or();
    while (!failed() && accept_name("if")) {
      auto choice = node(Kind::Choice);
      choice->children.push_back(parse_or());
      choice->children.push_back(std::move(value));
      choice->children.push_back(accept_name("else") ? parse_expression() : nullptr);
      value = std::move(choice);
    }
    return value;
  }
  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (!failed() && accept_name("or")) left = node(Kind::Binary, "or", std::move(left), parse_and());
    return left;
  }
  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (!failed() && accept_name("and")) left = node(Kind::Binary, "and", std::move(left), parse_not());
    return left;
  }
  ExpressionPtr parse_not() {
    const Depth depth(*this);
    if (failed()) return nullptr;
    if (accept_name("not")) return node(Kind::Unary, "not", parse_not());
    return parse_compare();
  }
  ExpressionPtr parse_compare() {
    ExpressionPtr first = parse_sum();
    ExpressionPtr chain;
    for (;;) {
      std::string op;
      for (const std::string_view candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (accept_operator(candidate)) {
          op = candidate;
          break;
        }
      }
      if (op.empty() && accept_name("in")) op = "in";
      if (op.empty() && is_name("not") && is_name("in", 1)) {
        take();
        take();
        op = "not in";
      }
      if (op.empty() || failed()) return chain ? std::move(chain) : std::move(first);
      if (!chain) chain = node(Kind::Compare, "", std::move(first));
      chain->names.push_back(op);
      chain->children.push_back(parse_sum());
    }
  }
  ExpressionPtr parse_sum() {
    ExpressionPtr left = parse_concat();
    while (!failed() && (is_operator("+") || is_operator("-"))) {
      std::string op = take().text;
      left = node(Kind::Binary, std::move(op), std::move(left), parse_concat());
    }
    return left;
  }
  ExpressionPtr parse_concat() {
    ExpressionPtr left = parse_product();
    while (!failed() && accept_operator("~")) left = node(Kind::Binary, "~", std::move(left), parse_product());
    return left;
  }
  ExpressionPtr parse_product() {
    ExpressionPtr left = parse_unary();
    while (!failed() && (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%"))) {
      std::string op = take().text;
      left = node(Kind::Binary, std::move(op), std::move(left), parse_unary());
    }
    return left;
  }
  ExpressionPtr parse_unary(bool with_filters = true) {
    const Depth depth(*this);
    if (failed()) return nullptr;
    ExpressionPtr value;
    if (is_operator("-") || is_operator("+")) {
      std::string op = take().text;
      value = node(Kind::Unary, std::move(op), parse_unary(false));
    } else {
      value = parse_primary();
    }
    value = parse_postfix(std::move(value));
    if (!failed() && accept_operator("**")) value = node(Kind::Binary, "**", std::move(value), parse_unary(false));
    return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_primary() {
    const Token token = take();
    switch (token.kind) {
      case TokenKind::Name:
        if (token.text == "true" || token.text == "True") return literal(true);
        if (token.text == "false" || token.text == "False") return literal(false);
        if (token.text == "none" || token.text == "None") return literal(Value::None{});
        return node(Kind::Name, token.text);
      case TokenKind::String: {
        std::string text = token.text;
        while (peek().kind == TokenKind::String) text += take().text;
        return literal(Value::text(text));
      }
      case TokenKind::Integer: {
        std::int64_t number = 0;
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), number);
        return literal(number);
      }
      case TokenKind::Float: {
        double number = 0;
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), number);
        return literal(number);
      }
      case TokenKind::Operator: break;
      default: return fail(fmt::format("unexpected end of an expression"));
    }
    if (token.text == "(") {
      if (accept_operator(")")) return node(Kind::ListLiteral);
      ExpressionPtr inner = parse_tuple();
      expect_operator(")");
      return inner;
    }
    if (token.text == "[") {
      auto list = node(Kind::ListLiteral);
      while (!failed() && !is_operator("]")) {
        list->children.push_back(parse_expression());
        if (!accept_operator(",")) break;
      }
      expect_operator("]");
      return list;
    }
    if (token.text == "{") {
      auto dict = node(Kind::DictLiteral);
      while (!failed() && !is_operator("}")) {
        dict->children.push_back(parse_expression());
        expect_operator(":");
        dict->children.push_back(parse_expression());
        if (!accept_operator(",")) break;
      }
      expect_operator("}");
      return dict;
    }
    return fail(fmt::format("unexpected '{}'", token.text));
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    while (!failed()) {
      if (accept_operator(".")) {
        if (peek().kind == TokenKind::Integer) {
          auto index = parse_primary();
          value = node(Kind::Subscript, "", std::move(value), std::move(index));
        } else {
          value = node(Kind::Attribute, expect_name(), std::move(value));
        }
      } else if (accept_operator("[")) {
        value = parse_subscript(std::move(value));
      } else if (is_operator("(")) {
        auto call = node(Kind::Call, "", std::move(value));
        parse_arguments(*call);
        value = std::move(call);
      } else {
        break;
      }
    }
    return value;
  }
  ExpressionPtr parse_subscript(ExpressionPtr value) {
    std::vector<ExpressionPtr> parts(1);
    bool slice = false;
    while (!failed() && !is_operator("]")) {
      if (accept_operator(":")) {
        slice = true;
        parts.emplace_back();
      } else {
        parts.back() = parse_expression();
      }
    }
    expect_operator("]");
    if (failed()) return nullptr;
    if (!slice) {
      if (!parts.front()) return fail("an empty subscript");
      return node(Kind::Subscript, "", std::move(value), std::move(parts.front()));
    }
    if (parts.size() > 3) return fail("a slice of more than three parts");
    parts.resize(3);
    auto made = node(Kind::Slice, "", std::move(value));
    for (auto& part : parts) made->children.push_back(std::move(part));
    return made;
  }
  void parse_arguments(Expression& call) {
    expect_operator("(");
    while (!failed() && !is_operator(")")) {
      if (is_operator("*") || is_operator("**"))
        return static_cast<void>(fail("unpacked arguments are not understood"));
      if (peek().kind == TokenKind::Name && is_operator("=", 1)) {
        call.names.push_back(take().text);
        take();
      } else if (!call.names.empty()) {
        return static_cast<void>(fail("a positional argument after a named one"));
      }
      call.children.push_back(parse_expression());
      if (!accept_operator(",")) break;
    }
    expect_operator(")");
  }

  ExpressionPtr parse_filters_and_tests(ExpressionPtr value) {
    while (!failed()) {
      if (accept_operator("|")) {
        value = parse_filter(std::move(value));
      } else if (accept_name("is")) {
        const bool negated = accept_name("not");
        auto test = node(Kind::Test, "", std::move(value));
        // Operators serve as tests too; `in` and none are words of the language.
        test->text = peek().kind == TokenKind::Operator ? take().text : expect_name();
        if (is_operator("(")) {
          parse_arguments(*test);
        } else if (const Token& next = peek();
                   next.kind == TokenKind::String || next.kind == TokenKind::Integer || next.kind == TokenKind::Float ||
                   (next.kind == TokenKind::Name && !is_name("and") && !is_name("or") && !is_name("else") &&
                    !is_name("if") && !is_name("is") && !is_name("in") && !is_name("not")) ||
                   is_operator("[")) {
          test->children.push_back(parse_postfix(parse_primary()));
        }
        value = negated ? node(Kind::Unary, "not", std::move(test)) : std::move(test);
      } else {
        break;
      }
    }
    return value;
  }
  ExpressionPtr parse_filter(ExpressionPtr value) {
    auto filter = node(Kind::Filter, "", std::move(value));
    filter->text = expect_name();
    if (is_operator("(")) parse_arguments(*filter);
    return filter;
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  std::string_view ended_by_;
  bool ended_with_else_ = false;
  Status status_;
};

}  // namespace

Result<Block> parse(std::string_view source) {
  auto tokens = tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(std::move(*tokens)).run();
}

}  // namespace tiercel::jinja
