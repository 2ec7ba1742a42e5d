#include <charconv>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "options/option_table.h"
#include "options/options_text.h"

namespace tiercel {
namespace {

using Json = nlohmann::ordered_json;

// Reads text and counts its lines, so that what the parser meets has a line.
class LineCounter {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  LineCounter(const char* at, std::size_t& line) : at_(at), line_(&line) {}
  reference operator*() const { return *at_; }
  LineCounter& operator++() {
    if (*at_++ == '\n') ++*line_;
    return *this;
  }
  LineCounter operator++(int) {
    LineCounter before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const LineCounter& a, const LineCounter& b) { return a.at_ == b.at_; }
  friend bool operator!=(const LineCounter& a, const LineCounter& b) { return a.at_ != b.at_; }

 private:
  const char* at_;
  std::size_t* line_;
};

// Takes what nlohmann's parser finds, in order. Returning false stops it.
class SettingsReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SettingsReader(std::string_view path, const std::size_t& line) : path_(path), line_(line) {}

  bool null() override { return add("null"); }
  bool boolean(bool value) override { return add(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return add(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(fmt::format("{}", value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(fmt::format("{}", value)); }
  bool string(string_t& value) override { return add(value, true); }
  bool binary(binary_t&) override { return add("binary"); }

  bool key(string_t& name) override {
    key_line_ = line_;
    name_ = name;
    return true;
  }
  bool start_object(std::size_t) override {
    if (in_list_) return refuse("is a list of objects; no option is");
    if (depth_ >= 2) return refuse("is an object; no option is");
    if (depth_++ == 1) prefix_ = name_ + ".";
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) prefix_.clear();
    return true;
  }
  bool start_array(std::size_t) override {
    if (in_list_) return refuse("is a list of lists; no option is");
    add("");
    return in_list_ = depth_ > 0;
  }
  bool end_array() override {
    in_list_ = false;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    std::string_view what = error.what();
    what.remove_prefix(std::min(what.size(), what.find("] ") + 2));
    status_ = wrong_at(path_, line_, what);
    return false;
  }

  Result<std::vector<Setting>> result() && {
    if (!status_.ok()) return status_;
    return std::move(settings_);
  }

 private:
  bool add(std::string text, bool quoted = false) {
    if (depth_ == 0) {
      status_ = wrong_at(path_, line_, "not an object of options");
      return false;
    }
    if (in_list_) {
      std::string& list = settings_.back().text;
      list += (list.empty() ? "" : ",") + text;
    } else {
      settings_.push_back({.key = prefix_ + name_, .text = std::move(text), .quoted = quoted, .line = key_line_});
    }
    return true;
  }
  bool refuse(std::string_view what) {
    status_ = wrong_at(path_, key_line_, fmt::format("{}{} {}", prefix_, name_, what));
    return false;
  }

  const std::string_view path_;
  const std::size_t& line_;
  std::string prefix_;
  std::string name_;
  std::size_t key_line_ = 1;
  int depth_ = 0;
  bool in_list_ = false;
  Status status_;
  std::vector<Setting> settings_;
};

Json json_value(const OptionField& field, const std::string& text) {
  if (field.is_text()) return text;
  if (std::holds_alternative<OptionMember<std::vector<std::uint32_t>>>(field.member)) {
    return Json::parse("[" + text + "]");
  }
  const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json(text) : value;  // a size with its unit is no JSON of its own
}

}  // namespace

Result<std::vector<Setting>> parse_json(const std::string& text, std::string_view path) {
  std::size_t line = 1;
  SettingsReader reader(path, line);
  const char* begin = text.data();
  nlohmann::json::sax_parse(LineCounter(begin, line), LineCounter(begin + text.size(), line), &reader);
  return std::move(reader).result();
}

Result<std::string> format_json(const EngineOptions& options, OptionsShown shown) {
  Json json = Json::object();
  for (const OptionField& field : option_fields()) {
    if (shown == OptionsShown::Changed && field.is_default(options)) continue;
    const std::size_t dot = field.key.find('.');
    Json& object = dot == std::string_view::npos ? json : json[std::string(field.key.substr(0, dot))];
    object[std::string(field.key.substr(dot + 1))] = json_value(field, *field.text(options));
  }
  return json.dump(2) + "\n";
}

}  // namespace tiercel
