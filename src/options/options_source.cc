#include "tiercel/options_source.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include <fmt/format.h>

#include "options/option_table.h"
#include "options/options_text.h"
#include "options/suggestion.h"

namespace tiercel {
namespace {

// So that no file nests deeper than the stack, and none takes long.
constexpr std::size_t kMostBytes = 16 << 10;
constexpr std::string_view kVariablePrefix = "TIERCEL_";

struct Format {
  std::string_view extension;
  Result<std::vector<Setting>> (*parse)(const std::string& text, std::string_view path);
  Result<std::string> (*format)(const EngineOptions& options, OptionsShown shown);
};
constexpr Format kFormats[] = {{".toml", parse_toml, format_toml}, {".json", parse_json, format_json}};

Result<Format> format_of(const std::string& path) {
  for (const Format& format : kFormats) {
    if (path.ends_with(format.extension)) return format;
  }
  return Status::invalid_argument(fmt::format("{} ends in neither .toml nor .json", path));
}

Result<std::string> read_options(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status::not_found(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return Status::unavailable(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() <= kMostBytes) return text;
  return Status::invalid_argument(fmt::format("{} has more than {} bytes; options have fewer", path, kMostBytes));
}

std::string variable_of(std::string_view key) {
  std::string name(kVariablePrefix);
  for (const char c : key) name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

bool has_other_meaning(std::string_view variable) {
  return variable == "TIERCEL_CACHE_DIR" || variable == "TIERCEL_LOG" || variable.starts_with("TIERCEL_SERVICE_") ||
         variable == "TIERCEL_PORT" || variable.starts_with("TIERCEL_PORT_");
}

// What all options are called by.
template <class Name>
std::vector<std::string> names_of_all(Name name) {
  std::vector<std::string> names;
  for (const OptionField& field : option_fields()) names.push_back(name(field.key));
  return names;
}

std::string unknown_key(std::string_view key) {
  if (key == "cache.tiers") return "cache.tiers comes from code alone";
  const auto known = names_of_all([](std::string_view name) { return std::string(name); });
  return fmt::format("{} is no option{}", printable(key), did_you_mean(key, known));
}

Status apply(const Setting& setting, EngineOptions& options) {
  const OptionField* field = find_option(setting.key);
  if (!field) return Status::invalid_argument(unknown_key(setting.key));
  if (field->is_text() && !setting.quoted) {
    return Status::invalid_argument(
        fmt::format("{} is {}; give {}, in quotes", setting.key, printable(setting.text), field->range));
  }
  return field->set(options, setting.key, setting.text);
}

// Calls of libraries that may throw, for want of memory or on text that is no UTF-8.
template <class Call>
auto without_exceptions(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::exception& error) {
    return Status::invalid_argument(error.what());
  }
}

Result<EngineOptions> load(const std::string& path, EngineOptions options) {
  const auto format = format_of(path);
  if (!format.ok()) return format.status();
  const auto text = read_options(path);
  if (!text.ok()) return text.status();
  const auto settings = format->parse(*text, path);
  if (!settings.ok()) return settings.status();
  for (auto setting = settings->begin(); setting != settings->end(); ++setting) {
    const auto earlier =
        std::find_if(settings->begin(), setting, [&](const Setting& s) { return s.key == setting->key; });
    if (earlier != setting) {
      return wrong_at(path, setting->line, fmt::format("{} is given in line {} already", setting->key, earlier->line));
    }
    if (const Status status = apply(*setting, options); !status.ok()) {
      return wrong_at(path, setting->line, status.message());
    }
  }
  return options;
}

Status save(const EngineOptions& options, const std::string& path) {
  const auto format = format_of(path);
  if (!format.ok()) return format.status();
  if (!options.cache.tiers.empty()) return Status::invalid_argument("cache.tiers comes from code alone");
  for (const OptionField& field : option_fields()) {
    TIERCEL_RETURN_IF_ERROR(field.check(options, field.key));
    if (!field.text(options)) return Status::invalid_argument(fmt::format("{} comes from code alone", field.key));
  }
  const auto text = format->format(options, OptionsShown::Changed);
  if (!text.ok()) return text.status();
  const std::string incoming = fmt::format("{}.{}", path, ::getpid());
  std::ofstream file(incoming, std::ios::binary | std::ios::trunc);
  file << *text << std::flush;
  std::error_code error;
  if (file) std::filesystem::rename(incoming, path, error);
  if (file && !error) return {};
  const Status status =
      Status::unavailable(fmt::format("cannot write {}: {}", path, error ? error.message() : std::strerror(errno)));
  std::filesystem::remove(incoming, error);
  return status;
}

}  // namespace

Result<EngineOptions> load_options(const std::string& path, EngineOptions base) {
  return without_exceptions([&] { return load(path, std::move(base)); });
}

Status apply_environment(EngineOptions& options) {
  EngineOptions changed = options;
  for (char** variable = environ; variable && *variable; ++variable) {
    const std::string_view entry = *variable;
    const std::string_view name = entry.substr(0, entry.find('='));
    const std::string_view text = entry.substr(std::min(entry.size(), name.size() + 1));
    if (!name.starts_with(kVariablePrefix) || text.empty() || has_other_meaning(name)) continue;
    const auto field =
        std::ranges::find(option_fields(), name, [](const OptionField& f) { return variable_of(f.key); });
    if (field == option_fields().end()) {
      return Status::invalid_argument(
          fmt::format("{} in the environment is no option{}", name, did_you_mean(name, names_of_all(variable_of))));
    }
    TIERCEL_RETURN_IF_ERROR(field->set(changed, name, text));
  }
  options = std::move(changed);
  return {};
}

Status set_option(EngineOptions& options, std::string_view key, std::string_view text) {
  const OptionField* field = find_option(key);
  return field ? field->set(options, key, text) : Status::invalid_argument(unknown_key(key));
}

Status save_options(const EngineOptions& options, const std::string& path) {
  return without_exceptions([&] { return save(options, path); });
}

}  // namespace tiercel
