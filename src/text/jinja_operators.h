// What the operators of a template do to values: Python's rules.
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja_value.h"

namespace tiercel::jinja {

Value calculate(std::string_view operation, const Value& a, const Value& b, Context& context);  // + - * / // % **
Value negate(const Value& value);
bool compare(std::string_view operation, const Value& a, const Value& b, Context& context);  // == != < <= > >=
bool contains(const Value& container, const Value& item, Context& context);

// object.name and object[key]: undefined where there is none, an error where the object itself is undefined.
Value get_attribute(const Value& object, std::string_view name, Context& context);
Value get_item(const Value& object, const Value& key, Context& context);
// object[begin:end:step]; each of the three may be none.
Value slice(const Value& object, const Value& begin, const Value& end, const Value& step, Context& context);

}  // namespace tiercel::jinja
