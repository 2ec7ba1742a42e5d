// Arguments of a call to a function, filter, test or method that is built in.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace tiercel::jinja {

struct Arguments {
  std::vector<Value> positional = {};
  std::vector<std::pair<std::string, Value>> named = {};
};

// The arguments in the order of `names`; throws where there are more, or one of another name. `callee` is for messages:
// "filter 'join'". Those not given are empty.
std::vector<std::optional<Value>> bind_arguments(const Arguments& arguments, std::string_view callee,
                                                 std::initializer_list<std::string_view> names);

// Throw where the argument is of another type.
const Text& text_argument(const Value& value, std::string_view callee);
std::int64_t integer_argument(const Value& value, std::string_view callee);

}  // namespace tiercel::jinja
