// The functions that transformers and jinja2 give to a chat template.
#pragma once

#include <ctime>
#include <functional>
#include <string_view>

#include "text/jinja_arguments.h"

namespace tiercel::jinja {

// The name, as a constant that lives for ever, if there is such a function; else empty.
std::string_view find_function(std::string_view name);
// `name` must be one that find_function() returns. raise_exception throws an Error that is a refusal.
Value call_function(std::string_view name, const Arguments& arguments, const std::function<std::tm()>& local_time,
                    Context& context);

}  // namespace tiercel::jinja
