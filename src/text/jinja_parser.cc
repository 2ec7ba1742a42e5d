#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <utility>

#include "text/jinja_expression_parser.h"

namespace tiercel::jinja {
namespace {

using enum Token::Kind;

// Statements; what is in them is the ExpressionParser's.
class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body run() {
    Body body = parse_body({}, "");
    if (current().kind != End) fail("unexpected end of a tag", current().line);
    return body;
  }

 private:
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

  int loop_depth_ = 0;   // loops around the current statement that 'break' can leave
  int scope_depth_ = 0;  // blocks around it that have variables of their own
};

}  // namespace

Body parse_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) fail("it is longer than 1 MiB");
  return Parser(source).run();
}

}  // namespace tiercel::jinja
