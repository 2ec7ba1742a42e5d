// A chat template as a tree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"
#include "tiercel/status.h"

namespace tiercel::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    Literal,      // value
    Name,         // text
    ListLiteral,  // children; also tuples
    DictLiteral,  // children: key, value, key, value
    Unary,        // text: "not", "-", "+"; child
    Binary,       // text: operator, also "and", "or", "in", "not in"; two children
    Compare,      // chained: operators in names, children one more
    Attribute,    // child . text
    Subscript,    // child [ child ]
    Slice,        // children: object, start, stop, step; null where left out
    Call,         // callee, then arguments; named ones last, names beside
    Filter,       // text; value, then arguments
    Test,         // text; value, then arguments
    Choice,       // condition, then, otherwise (null: undefined)
  };
  Kind kind;
  int line = 1;
  std::string text = {};
  Value value = {};
  std::vector<ExpressionPtr> children = {};
  std::vector<std::string> names = {};  // of the last names.size() arguments
};

struct Statement;
using Block = std::vector<Statement>;

struct Macro {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default, or null
  Block body;
};

struct Statement {
  enum class Kind { Data, Print, If, For, Set, SetBlock, Macro, Filter, Break, Continue };
  Kind kind;
  int line = 1;
  std::string text = {};                                       // Data; Set: namespace attribute; Filter: none
  std::vector<std::string> names = {};                         // For, Set: targets
  ExpressionPtr expression = {};                               // Print, For: iterable, Set: value, Filter
  ExpressionPtr condition = {};                                // For: filter
  std::vector<std::pair<ExpressionPtr, Block>> branches = {};  // If: condition (null: else) and body
  Block body = {};
  Block otherwise = {};  // For
  std::shared_ptr<jinja::Macro> macro = {};
};

// InvalidArgument: "line 3: ...", naming the construct where it is one that is not understood.
Result<Block> parse(std::string_view source);

}  // namespace tiercel::jinja
