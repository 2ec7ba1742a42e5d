// A status whose message is made of parts, for where no exception may leave.
//
// Memory may be short just when a call is refused for want of it. The code is what callers decide by, so it must not be
// lost with the sentence: without memory for that there is none.
#pragma once

#include <new>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tiercel/status.h"

namespace tiercel {

template <class... Parts>
Status refusal(StatusCode code, fmt::format_string<Parts...> message, Parts&&... parts) noexcept {
  try {
    return {code, fmt::format(message, std::forward<Parts>(parts)...)};
  } catch (const std::bad_alloc&) {
    return {code, std::string()};
  }
}

}  // namespace tiercel
