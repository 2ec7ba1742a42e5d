// A parsed template. Immutable once parsed; nodes own what is below them.
//
// One node type for expressions and one for statements, each with a kind: the interpreter is a switch over it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/jinja_value.h"

namespace tiercel::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    Constant,   // constant
    Name,       // name
    List,       // children
    Tuple,      // children
    Dict,       // children: key, value, key, value, ...
    Attribute,  // children[0].name
    Item,       // children[0][children[1]]
    Slice,      // children[0][children[1]:children[2]:children[3]], each of the three may be null
    Call,       // children[0](children[1], ...)
    Filter,     // children[0] | name(children[1], ...); children[0] is null in a filter block
    Test,       // children[0] is name(children[1], ...)
    Not,
    Negate,
    Plus,
    Arithmetic,   // name is the operator
    Concatenate,  // children[0] ~ children[1] ~ ...
    And,
    Or,
    Compare,    // children[0] names[0] children[1] names[1] children[2] ...
    Condition,  // children[0] if children[1] else children[2], which may be null
  };
  Kind kind;
  int line = 0;
  int depth = 1;  // of the tree below, this node included
  std::string name = {};
  Value constant = {};
  std::vector<ExpressionPtr> children = {};
  std::vector<std::string> names = {};  // of the keyword arguments, which are the last children; operators of Compare
};

struct Statement;
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

// What `set` and `for` assign to: name, or the attribute of the namespace called name.
struct Target {
  std::string name;
  std::string attribute;
};

struct Parameter {
  std::string name;
  ExpressionPtr otherwise;  // may be null
};

struct Branch {
  ExpressionPtr condition;
  Body body;
};

struct Statement {
  enum class Kind {
    Data,         // constant
    Output,       // expression
    If,           // branches, otherwise
    For,          // targets in expression if condition: body, otherwise
    Set,          // targets = expression
    SetBlock,     // targets[0] = body, through the filters of expression, which may be null
    Macro,        // name(parameters): body
    FilterBlock,  // body through the filters of expression
    With,         // parameters are the assignments; body
    Generation,   // body; marks what the assistant wrote, for training
    Break,
    Continue,
  };
  Kind kind;
  int line = 0;
  std::string name = {};
  Value constant = {};
  ExpressionPtr expression = {};
  ExpressionPtr condition = {};
  std::vector<Target> targets = {};
  bool unpacks = false;  // the targets take apart one value
  std::vector<Parameter> parameters = {};
  std::vector<Branch> branches = {};
  Body body = {};
  Body otherwise = {};
};

}  // namespace tiercel::jinja
