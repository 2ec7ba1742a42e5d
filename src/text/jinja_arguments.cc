#include "text/jinja_arguments.h"

#include <algorithm>

namespace tiercel::jinja {

std::vector<std::optional<Value>> bind_arguments(const Arguments& arguments, std::string_view callee,
                                                 std::initializer_list<std::string_view> names) {
  if (arguments.positional.size() > names.size()) fail(std::string(callee) + " is given too many arguments");
  std::vector<std::optional<Value>> bound(names.size());
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto* found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) fail(std::string(callee) + " has no argument '" + name + "'");
    std::optional<Value>& slot = bound[static_cast<std::size_t>(found - names.begin())];
    if (slot) fail(std::string(callee) + " is given '" + name + "' twice");
    slot = value;
  }
  return bound;
}

const Text& text_argument(const Value& value, std::string_view callee) {
  const Text* text = as_text(value);
  if (text == nullptr) fail(std::string(callee) + " needs a string, not " + std::string(type_name(value)));
  return *text;
}

std::int64_t integer_argument(const Value& value, std::string_view callee) {
  std::int64_t storage = 0;
  const std::int64_t* integer = as_integer(value, storage);
  if (integer == nullptr) fail(std::string(callee) + " needs an integer, not " + std::string(type_name(value)));
  return *integer;
}

}  // namespace tiercel::jinja
