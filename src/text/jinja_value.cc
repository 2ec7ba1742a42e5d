#include "text/jinja_value.h"

#include <cmath>

#include <fmt/format.h>

namespace tiercel::jinja {
namespace {

std::string float_text(double number) {
  std::string text = fmt::format("{}", number);
  if (text.find_first_of(".einf") == std::string::npos) text += ".0";
  return text;
}

std::string quote(std::string_view text, char mark, bool json) {
  std::string out(1, mark);
  for (const char c : text) {
    if (c == mark || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += json ? fmt::format("\\u{:04x}", static_cast<unsigned char>(c))
                  : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + mark;
}

}  // namespace

bool Value::as_integer(std::int64_t& number) const {
  if (const auto* integer = as<std::int64_t>()) return number = *integer, true;
  if (const auto* truth = as<bool>()) return number = *truth, true;
  return false;
}

bool Value::as_number(double& number) const {
  if (const auto* real = as<double>()) return number = *real, true;
  std::int64_t integer = 0;
  if (!as_integer(integer)) return false;
  return number = static_cast<double>(integer), true;
}

bool Value::truthy() const {
  double number = 0;
  if (as_number(number)) return number != 0;
  if (const Text* text = as_text()) return !text->bytes.empty();
  if (const List* list = as_list()) return !list->empty();
  if (const Entries* entries = as_dict()) return !entries->empty();
  return as<Function>() != nullptr;
}

std::string_view Value::kind() const {
  if (is_undefined()) return "undefined value";
  if (is_none()) return "none";
  if (as<bool>()) return "boolean";
  if (as<std::int64_t>()) return "integer";
  if (as<double>()) return "float";
  if (as_text()) return "string";
  if (as_list()) return "list";
  if (as_dict()) return "mapping";
  return "function";
}

Text Value::str() const {
  if (const Text* text = as_text()) return *text;
  return Text::of(is_undefined() ? "" : repr(), true);
}

std::string Value::repr() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "None";
  if (const auto* truth = as<bool>()) return *truth ? "True" : "False";
  if (const auto* integer = as<std::int64_t>()) return std::to_string(*integer);
  if (const auto* real = as<double>()) return float_text(*real);
  if (const Text* text = as_text()) {
    const bool double_quotes =
        text->bytes.find('\'') != std::string::npos && text->bytes.find('"') == std::string::npos;
    return quote(text->bytes, double_quotes ? '"' : '\'', false);
  }
  std::string out;
  if (const List* list = as_list()) {
    for (const Value& item : *list) out += (out.empty() ? "" : ", ") + item.repr();
    return "[" + out + "]";
  }
  if (const Entries* entries = as_dict()) {
    for (const auto& [key, value] : *entries)
      out += (out.empty() ? "" : ", ") + quote(key, '\'', false) + ": " + value.repr();
    return "{" + out + "}";
  }
  return "<function>";
}

std::string Value::json(int indent, int depth) const {
  if (is_none() || is_undefined()) return "null";
  if (const auto* truth = as<bool>()) return *truth ? "true" : "false";
  if (const Text* text = as_text()) return quote(text->bytes, '"', true);
  const auto line = [&](int level) {
    return indent < 0 ? std::string() : "\n" + std::string(static_cast<std::size_t>(indent * level), ' ');
  };
  const std::string separator = indent < 0 ? ", " : ",";
  std::string out;
  if (const List* list = as_list()) {
    if (list->empty()) return "[]";
    for (const Value& item : *list)
      out += (out.empty() ? "" : separator) + line(depth + 1) + item.json(indent, depth + 1);
    return "[" + out + line(depth) + "]";
  }
  if (const Entries* entries = as_dict()) {
    if (entries->empty()) return "{}";
    for (const auto& [key, value] : *entries) {
      out += (out.empty() ? "" : separator) + line(depth + 1) + quote(key, '"', true) + ": " +
             value.json(indent, depth + 1);
    }
    return "{" + out + line(depth) + "}";
  }
  return repr();
}

bool equal(const Value& a, const Value& b) {
  double x = 0, y = 0;
  if (a.as_number(x) && b.as_number(y)) return x == y;
  if (a.as_text() && b.as_text()) return a.as_text()->bytes == b.as_text()->bytes;
  if (a.as_list() && b.as_list()) {
    const List &left = *a.as_list(), &right = *b.as_list();
    if (left.size() != right.size()) return false;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (!equal(left[i], right[i])) return false;
    }
    return true;
  }
  if (a.as_dict() && b.as_dict()) {
    if (a.as_dict()->size() != b.as_dict()->size()) return false;
    for (const auto& [key, value] : *a.as_dict()) {
      const Value* other = find(*b.as_dict(), key);
      if (!other || !equal(value, *other)) return false;
    }
    return true;
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

const Value* find(const Entries& entries, std::string_view key) {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

void assign(Entries& entries, std::string_view key, Value value) {
  for (auto& [name, old] : entries) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  entries.emplace_back(std::string(key), std::move(value));
}

}  // namespace tiercel::jinja
