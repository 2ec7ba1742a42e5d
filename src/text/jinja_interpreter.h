// Runs a parsed template.
#pragma once

#include <ctime>
#include <functional>
#include <string_view>
#include <unordered_map>

#include "text/jinja_ast.h"

namespace tiercel::jinja {

using Variables = std::unordered_map<std::string_view, Value>;

// Throws Error. `variables` are what the template is given; `local_time` is what strftime_now reads.
Text interpret(const Body& body, Variables variables, const std::function<std::tm()>& local_time, Context& context);

}  // namespace tiercel::jinja
