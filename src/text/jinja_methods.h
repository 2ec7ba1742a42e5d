// Methods of strings and dicts that templates call.
#pragma once

#include <string_view>

#include "text/jinja_arguments.h"

namespace tiercel::jinja {

// The name, as a constant that lives for ever, if the value has such a method; else empty. Throws for methods that
// Python has and this does not, since a template must not take them for missing.
std::string_view find_method(const Value& value, std::string_view name);
// `name` must be one that find_method() returns for the value.
Value call_method(const Value& value, std::string_view name, const Arguments& arguments, Context& context);

// What filters share with the methods. A negative count is no limit.
enum class Case { Upper, Lower, Title, Capitalized };
Text change_case(const Text& text, Case to, Context& context);
Text replace_text(const Text& text, const Text& old_text, const Text& new_text, std::int64_t count, Context& context);
std::vector<Span> split_lines(std::string_view text, bool keeps_ends);

}  // namespace tiercel::jinja
