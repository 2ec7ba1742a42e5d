// How the Jinja files report what a template does wrong: they throw among themselves, and chat_template.cc, the only
// file to include them from outside, turns what they throw into a Status.
#pragma once

#include <string>
#include <utility>

namespace tiercel::jinja {

struct Error {
  std::string message;
  int line = 0;             // of the template, from 1; 0 where the thrower does not know
  bool is_refusal = false;  // the template called raise_exception with this message
};

[[noreturn]] inline void fail(std::string message, int line = 0) { throw Error{std::move(message), line}; }

}  // namespace tiercel::jinja
