// What a chat template can do to values: operators, filters, tests, methods and functions. Errors are InvalidArgument
// without the line, which the interpreter adds.
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja_value.h"
#include "tiercel/status.h"

namespace tiercel::jinja {

struct Limits;

struct Arguments {
  List positional = {};
  Entries named = {};
};

// Elements of a list, characters (UTF-8) of a string, keys of a mapping; nothing for what cannot be looped over.
// Undefined: none.
std::optional<List> items_of(const Value& value);

Result<Value> arithmetic(std::string_view op, const Value& left, const Value& right, const Limits& limits);
Result<Value> comparison(std::string_view op, const Value& left, const Value& right);
Result<Value> apply_filter(std::string_view name, const Value& value, const Arguments& arguments, const Limits& limits);
Result<Value> apply_test(std::string_view name, const Value& value, const Arguments& arguments);
Result<Value> call_method(const Value& object, std::string_view name, const Arguments& arguments);
bool is_function(std::string_view name);
Result<Value> call_function(std::string_view name, const Arguments& arguments, const Limits& limits);

}  // namespace tiercel::jinja
