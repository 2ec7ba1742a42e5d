// Options as the text of a file.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel {

// One value of a file, not yet understood.
struct Setting {
  std::string key;  // with dots
  std::string text;
  bool quoted = false;  // it was a string
  std::size_t line = 0;
};

// How the name of a place in a file goes before a message: "engine.toml:3: ...".
Status wrong_at(std::string_view path, std::size_t line, std::string_view message);

// In the order of their lines. `path` is for messages. InvalidArgument: the text is not TOML, or not JSON.
Result<std::vector<Setting>> parse_toml(const std::string& text, std::string_view path);
Result<std::vector<Setting>> parse_json(const std::string& text, std::string_view path);

// All options: those at their defaults as comments, with their help. Else: what is not at its default, alone.
enum class OptionsShown { Changed, All };
// InvalidArgument: a value that only code can give.
Result<std::string> format_toml(const EngineOptions& options, OptionsShown shown = OptionsShown::Changed);
Result<std::string> format_json(const EngineOptions& options, OptionsShown shown = OptionsShown::Changed);

}  // namespace tiercel
