// The values a chat template computes with: Python's, as far as templates need them.
//
// Values are immutable and shared, but for namespaces, which a rendering owns (so that a namespace that holds itself is
// no leak). Containers know how deep they nest and refuse to nest deeper than kMaxDepth, so recursion over a value is
// bounded.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja_budget.h"
#include "text/jinja_text.h"

namespace tiercel::jinja {

struct Sequence;
struct Mapping;
struct Namespace;
struct Loop;
struct Statement;

struct None {};
// The lack of a value: prints as nothing, is false; using it otherwise is the error that `why` states.
struct Undefined {
  std::shared_ptr<const std::string> why;
};
// A function, a macro, or a method that was named without being called.
struct Callable {
  std::string_view name;  // lives as long as the template
  const Statement* macro = nullptr;
};

using Value = std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
                           std::shared_ptr<const Sequence>, std::shared_ptr<const Mapping>, Namespace*,
                           std::shared_ptr<const Loop>, Callable>;

struct Sequence {
  enum class Kind {
    List,
    Tuple,
    View,      // dict.items() and the like: has a length, cannot be indexed
    Iterator,  // what map, select and reverse give: can be read once
  };
  Kind kind = Kind::List;
  std::vector<Value> items;
  int depth = 1;
  mutable bool is_consumed = false;  // Iterator
};

struct Mapping {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion; keys differ
  int depth = 1;
};

struct Namespace {
  std::unordered_map<std::string, Value> attributes;
};

// The variable `loop`.
struct Loop {
  std::shared_ptr<const Sequence> sequence;
  std::size_t index = 0;
};

// What the parts of one rendering share.
struct Context {
  Budget budget;
  std::deque<Namespace> namespaces;
};

Value make_undefined(std::string why);
Value make_text(Text text);
Value make_trusted(std::string_view text);
Value make_sequence(std::vector<Value> items, Sequence::Kind kind, Context& context);
Value make_mapping(std::vector<std::pair<Value, Value>> items, Context& context);  // keys must differ

// Null where the value is of another type.
const Text* as_text(const Value& value);
const Sequence* as_sequence(const Value& value);
const Mapping* as_mapping(const Value& value);
bool is_undefined(const Value& value);
bool is_none(const Value& value);
// An int, or a bool as the int that it is in Python.
const std::int64_t* as_integer(const Value& value, std::int64_t& storage);
bool as_number(const Value& value, double& number);

std::string_view type_name(const Value& value);  // Python's: "str", "NoneType", "dict"
int depth_of(const Value& value);
bool is_true(const Value& value);
bool is_equal(const Value& a, const Value& b, Context& context);
// Throws where the value cannot be the key of a dict.
void check_key(const Value& value);
// Null where there is none.
const Value* find_key(const Mapping& mapping, const Value& key, Context& context);

// Python's str() and repr().
Text to_text(const Value& value, Context& context);
std::string format_float(double number);

// The items that a loop over the value sees; fails where it cannot be iterated. An iterator is used up.
std::shared_ptr<const Sequence> iterate(const Value& value, Context& context);

}  // namespace tiercel::jinja
