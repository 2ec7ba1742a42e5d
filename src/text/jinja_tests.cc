#include "text/jinja_filters.h"
#include "text/jinja_operators.h"

namespace tiercel::jinja {
namespace {

bool is_iterable(const Value& value) {
  return as_text(value) != nullptr || as_sequence(value) != nullptr || as_mapping(value) != nullptr ||
         is_undefined(value);
}

bool is_sequence(const Value& value) {
  const Sequence* sequence = as_sequence(value);
  if (sequence != nullptr) return sequence->kind == Sequence::Kind::List || sequence->kind == Sequence::Kind::Tuple;
  return is_iterable(value);
}

// The operator that a comparing test stands for; empty if it is none.
std::string_view comparison_of(std::string_view test) {
  if (test == "equalto" || test == "eq" || test == "==") return "==";
  if (test == "ne" || test == "!=") return "!=";
  if (test == "lessthan" || test == "lt" || test == "<") return "<";
  if (test == "le" || test == "<=") return "<=";
  if (test == "greaterthan" || test == "gt" || test == ">") return ">";
  if (test == "ge" || test == ">=") return ">=";
  return {};
}

bool is_remainder(const Value& value, std::int64_t divisor, std::int64_t remainder, Context& context) {
  return is_equal(calculate("%", value, divisor, context), remainder, context);
}

}  // namespace

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Context& context) {
  context.budget.take_steps();
  const std::string callee = "test '" + std::string(name) + "'";
  const std::string_view comparison = comparison_of(name);
  if (!comparison.empty() || name == "in" || name == "divisibleby") {
    const auto bound = bind_arguments(arguments, callee, {"other"});
    if (!bound[0]) fail(callee + " needs an argument");
    if (name == "in") return contains(*bound[0], value, context);
    if (name == "divisibleby") return is_remainder(value, integer_argument(*bound[0], callee), 0, context);
    return compare(comparison, value, *bound[0], context);
  }
  bind_arguments(arguments, callee, {});
  const bool* boolean = std::get_if<bool>(&value);
  double number = 0;
  if (name == "defined") return !is_undefined(value);
  if (name == "undefined") return is_undefined(value);
  if (name == "none") return is_none(value);
  if (name == "string") return as_text(value) != nullptr;
  if (name == "mapping") return as_mapping(value) != nullptr;
  if (name == "sequence") return is_sequence(value);
  if (name == "iterable") return is_iterable(value);
  if (name == "number") return as_number(value, number);
  if (name == "integer") return std::holds_alternative<std::int64_t>(value);
  if (name == "float") return std::holds_alternative<double>(value);
  if (name == "boolean") return boolean != nullptr;
  if (name == "true") return boolean != nullptr && *boolean;
  if (name == "false") return boolean != nullptr && !*boolean;
  if (name == "even") return is_remainder(value, 2, 0, context);
  if (name == "odd") return is_remainder(value, 2, 1, context);
  if (name == "callable") return std::holds_alternative<Callable>(value) || is_undefined(value);
  fail("the test '" + std::string(name) + "' is not supported");
}

}  // namespace tiercel::jinja
