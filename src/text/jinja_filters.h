// The filters and tests of jinja2 that chat templates use, with the filter tojson as Hugging Face's transformers
// defines it.
#pragma once

#include <string_view>

#include "text/jinja_arguments.h"

namespace tiercel::jinja {

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Context& context);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Context& context);

// JSON as Python's json.dumps writes it, without escapes for non-ASCII characters unless they are asked for.
Value write_json(const Value& value, const Arguments& arguments, Context& context);

}  // namespace tiercel::jinja
