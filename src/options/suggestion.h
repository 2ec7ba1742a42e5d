// What somebody meant who wrote a name that does not exist.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tiercel {

// "; did you mean NEAREST?", or nothing where none of `known` is near. A name also stands for itself without what is
// before its last dot.
std::string did_you_mean(std::string_view name, std::span<const std::string> known);

}  // namespace tiercel
