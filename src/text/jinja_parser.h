// Tokens to a tree, by jinja2's grammar (jinja2.parser).
#pragma once

#include <string_view>

#include "text/jinja_ast.h"

namespace tiercel::jinja {

inline constexpr std::size_t kMaxSourceBytes = std::size_t{1} << 20;

// Throws Error. No tree is deeper than kMaxDepth.
Body parse_template(std::string_view source);

}  // namespace tiercel::jinja
