#include <algorithm>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#define TOML_EXCEPTIONS 0
// toml++ 3.3 promises the compiler two things that files need not keep. That characters such as U+00E9 are unreachable
// where it asks whether one is white space: here the answer is "no", which is right. And what a key begins with, before
// it checks that and has an error for it: here it promises nothing.
#include <toml++/impl/forward_declarations.h>
#undef TOML_ASSERT_ASSUME
#define TOML_ASSERT_ASSUME(expression) static_assert(true)
#pragma push_macro("TOML_UNREACHABLE")
#undef TOML_UNREACHABLE
#define TOML_UNREACHABLE return false
#include <toml++/impl/unicode.h>
#pragma pop_macro("TOML_UNREACHABLE")
#include <toml++/toml.h>

#include "options/option_table.h"
#include "options/options_text.h"

namespace tiercel {
namespace {

template <class Node>
std::string as_written(const Node& node) {
  std::ostringstream text;
  text << node;
  return text.str();
}

Setting setting_of(std::string key, const toml::node& node) {
  Setting setting{.key = std::move(key), .text = {}, .quoted = node.is_string(), .line = node.source().begin.line};
  node.visit([&](const auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    if constexpr (toml::is_string<Value>) {
      setting.text = *value;
    } else if constexpr (toml::is_table<Value>) {
      setting.text = "a table";
    } else if constexpr (toml::is_integer<Value> || toml::is_floating_point<Value>) {
      setting.text = fmt::format("{}", *value);
    } else if constexpr (toml::is_array<Value>) {
      for (const toml::node& item : value) {
        setting.text += setting.text.empty() ? "" : ",";
        setting.text += item.is_integer() ? fmt::format("{}", **item.as_integer()) : as_written(toml::node_view(item));
      }
    } else {
      setting.text = as_written(value);
    }
  });
  return setting;
}

void append_settings(const toml::table& table, const std::string& prefix, std::vector<Setting>& settings) {
  for (const auto& [name, node] : table) {
    std::string key = prefix + std::string(name.str());
    // Deeper tables hold no option: they are refused as they are.
    if (const toml::table* inner = node.as_table(); inner && prefix.empty()) {
      append_settings(*inner, key + ".", settings);
    } else {
      settings.push_back(setting_of(std::move(key), node));
      settings.back().line = name.source().begin.line;
    }
  }
}

std::string toml_value(const OptionField& field, const std::string& text) {
  if (std::holds_alternative<OptionMember<std::vector<std::uint32_t>>>(field.member)) return "[" + text + "]";
  const bool number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  // TOML's whole numbers end at 2^63 - 1, which has 19 digits.
  const bool plain = field.is_text() ? false : !field.key.ends_with("_bytes") && text.size() < 19;
  if (plain || (number && !field.is_text() && text.size() < 19)) return text;
  std::string quoted = nlohmann::json(text).dump();  // its escapes are TOML's, which has one more
  for (std::size_t at = 0; (at = quoted.find('\x7f', at)) != std::string::npos;) quoted.replace(at, 1, "\\u007f");
  return quoted;
}

}  // namespace

Status wrong_at(std::string_view path, std::size_t line, std::string_view message) {
  return Status::invalid_argument(fmt::format("{}:{}: {}", path, line, printable(message)));
}

Result<std::vector<Setting>> parse_toml(const std::string& text, std::string_view path) {
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) return wrong_at(path, parsed.error().source().begin.line, parsed.error().description());
  std::vector<Setting> settings;
  append_settings(parsed.table(), "", settings);
  std::ranges::stable_sort(settings, {}, &Setting::line);
  return settings;
}

Result<std::string> format_toml(const EngineOptions& options, OptionsShown shown) {
  std::string toml = "# Options of tiercel: docs/options.md\n";
  std::string_view table;
  for (const OptionField& field : option_fields()) {
    const bool is_default = field.is_default(options);
    if (is_default && shown == OptionsShown::Changed) continue;
    const std::size_t dot = field.key.find('.');
    const std::string_view prefix = dot == std::string_view::npos ? "" : field.key.substr(0, dot);
    if (prefix != table) toml += fmt::format("\n[{}]\n", table = prefix);
    const std::string line = fmt::format("{} = {}", field.key.substr(dot + 1), toml_value(field, *field.text(options)));
    if (shown == OptionsShown::All) toml += fmt::format("\n# {}. Give {}.\n", field.help, field.range);
    toml += fmt::format("{}{}\n", is_default ? "# " : "", line);
  }
  return toml;
}

}  // namespace tiercel
