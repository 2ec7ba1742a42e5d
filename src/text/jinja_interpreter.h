// Runs a parsed chat template over its variables, within limits on output, steps and depth.
#pragma once

#include <string>

#include "text/jinja_parser.h"
#include "text/jinja_value.h"
#include "tiercel/status.h"

namespace tiercel::jinja {

struct Limits {
  std::size_t output_bytes = std::size_t{16} << 20;  // of the result, and of any value on the way
  std::size_t steps = 1'000'000;
  int depth = 200;
};

// The text. InvalidArgument: "line 3: ..." for what is not understood or wrong at run time; what the template itself
// refuses through raise_exception is passed on in its own words.
Result<Text> render(const Block& block, Entries variables, const Limits& limits);

}  // namespace tiercel::jinja
