#include "text/jinja_functions.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <functional>

#include <fmt/format.h>

#include "text/jinja_interpreter.h"

namespace tiercel::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

Status bad(std::string message) { return Status::invalid_argument(std::move(message)); }

// Bytes of the UTF-8 character at `at`.
std::size_t character_bytes(std::string_view text, std::size_t at) {
  std::size_t end = at + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  return end - at;
}
std::size_t character_count(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

Text strip(const Text& text, std::string_view set, bool left, bool right) {
  std::size_t first = left ? text.bytes.find_first_not_of(set) : 0;
  if (first == std::string::npos) return {};
  std::size_t end = right ? text.bytes.find_last_not_of(set) + 1 : text.bytes.size();
  return end > first ? text.substr(first, end - first) : Text{};
}

Text replace(const Text& text, std::string_view from, const Text& to, std::int64_t most) {
  Text out;
  std::size_t at = 0;
  while (!from.empty() && most != 0) {
    const std::size_t found = text.bytes.find(from, at);
    if (found == std::string::npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
    --most;
  }
  out += text.substr(at);
  return out;
}

Value split(const Text& text, const std::string* separator, std::int64_t most, bool from_right) {
  List parts;
  if (!separator) {
    std::size_t at = 0;
    while ((at = text.bytes.find_first_not_of(kSpace, at)) != std::string::npos) {
      std::size_t end = most == 0 ? std::string::npos : text.bytes.find_first_of(kSpace, at);
      if (end == std::string::npos) {
        parts.push_back(Value::text(most == 0 ? strip(text.substr(at), kSpace, false, true) : text.substr(at)));
        break;
      }
      parts.push_back(Value::text(text.substr(at, end - at)));
      at = end;
      --most;
    }
    return Value::list(std::move(parts));
  }
  if (from_right) {
    std::size_t end = text.bytes.size();
    while (most != 0) {
      const std::size_t found =
          end < separator->size() ? std::string::npos : text.bytes.rfind(*separator, end - separator->size());
      if (found == std::string::npos) break;
      parts.push_back(Value::text(text.substr(found + separator->size(), end - found - separator->size())));
      end = found;
      --most;
    }
    parts.push_back(Value::text(text.substr(0, end)));
    std::ranges::reverse(parts);
    return Value::list(std::move(parts));
  }
  std::size_t at = 0;
  while (most != 0) {
    const std::size_t found = text.bytes.find(*separator, at);
    if (found == std::string::npos) break;
    parts.push_back(Value::text(text.substr(at, found - at)));
    at = found + separator->size();
    --most;
  }
  parts.push_back(Value::text(text.substr(at)));
  return Value::list(std::move(parts));
}

// ASCII case only; the masks stay, since lengths do.
Text map_case(Text text, const std::function<char(char, bool)>& change) {
  bool word_start = true;
  for (char& c : text.bytes) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    c = change(c, word_start);
    word_start = !letter;
  }
  return text;
}
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
Text capitalize(const Text& text) {
  bool first = true;
  return map_case(text, [&](char c, bool) { return std::exchange(first, false) ? upper(c) : lower(c); });
}

const Value* argument(const Arguments& arguments, std::size_t position, std::string_view name) {
  if (position < arguments.positional.size()) return &arguments.positional[position];
  return find(arguments.named, name);
}
std::int64_t integer_argument(const Arguments& arguments, std::size_t position, std::string_view name,
                              std::int64_t fallback) {
  const Value* value = argument(arguments, position, name);
  std::int64_t number = fallback;
  if (value) value->as_integer(number);
  return number;
}

Result<Value> join(const Value& value, const Arguments& arguments, const Limits& limits) {
  const auto items = items_of(value);
  if (!items) return bad(fmt::format("cannot join a {}", value.kind()));
  const Value* separator = argument(arguments, 0, "d");
  const Value* name = argument(arguments, 1, "attribute");
  Text out;
  for (std::size_t i = 0; i < items->size(); ++i) {
    if (i > 0 && separator) out += separator->str();
    const Value& item = (*items)[i];
    if (name && item.as_dict() && name->as_text()) {
      const Value* member = find(*item.as_dict(), name->as_text()->bytes);
      if (member) out += member->str();
    } else {
      out += item.str();
    }
    if (out.bytes.size() > limits.output_bytes) return bad("a string is too long");
  }
  return Value::text(std::move(out));
}

Value member_of(const Value& item, std::string_view path) {
  Value at = item;
  while (!path.empty()) {
    const std::size_t dot = path.find('.');
    const std::string_view name = path.substr(0, dot);
    const Value* found = at.as_dict() ? find(*at.as_dict(), name) : nullptr;
    if (!found) return Value::Undefined{std::string(name)};
    at = Value(*found);
    path = dot == std::string_view::npos ? "" : path.substr(dot + 1);
  }
  return at;
}

// select, reject, selectattr, rejectattr.
Result<Value> choose(const Value& value, const Arguments& arguments, bool by_member, bool keep) {
  const auto items = items_of(value);
  if (!items) return bad(fmt::format("cannot choose from a {}", value.kind()));
  List rest = arguments.positional;
  std::string member;
  if (by_member) {
    if (rest.empty() || !rest.front().as_text()) return bad("selectattr and rejectattr need the name of a member");
    member = rest.front().as_text()->bytes;
    rest.erase(rest.begin());
  }
  std::string test;
  if (!rest.empty()) {
    if (!rest.front().as_text()) return bad("a test is named by a string");
    test = rest.front().as_text()->bytes;
    rest.erase(rest.begin());
  }
  List chosen;
  for (const Value& item : *items) {
    const Value subject = by_member ? member_of(item, member) : item;
    bool passes = subject.truthy();
    if (!test.empty()) {
      auto outcome = apply_test(test, subject, {.positional = rest});
      if (!outcome.ok()) return outcome;
      passes = outcome->truthy();
    }
    if (passes == keep) chosen.push_back(item);
  }
  return Value::list(std::move(chosen));
}

Result<Value> map(const Value& value, const Arguments& arguments, const Limits& limits) {
  const auto items = items_of(value);
  if (!items) return bad(fmt::format("cannot map a {}", value.kind()));
  List mapped;
  if (const Value* member = find(arguments.named, "attribute"); member && member->as_text()) {
    const Value* fallback = find(arguments.named, "default");
    for (const Value& item : *items) {
      Value found = member_of(item, member->as_text()->bytes);
      mapped.push_back(found.is_undefined() && fallback ? *fallback : found);
    }
    return Value::list(std::move(mapped));
  }
  if (arguments.positional.empty() || !arguments.positional.front().as_text())
    return bad("map needs a filter's name or attribute=");
  const Arguments rest{.positional = List(arguments.positional.begin() + 1, arguments.positional.end()),
                       .named = arguments.named};
  for (const Value& item : *items) {
    auto outcome = apply_filter(arguments.positional.front().as_text()->bytes, item, rest, limits);
    if (!outcome.ok()) return outcome;
    mapped.push_back(*outcome);
  }
  return Value::list(std::move(mapped));
}

Text indent(const Text& text, std::size_t width, bool first, bool blank) {
  const Text space = Text::of(std::string(width, ' '), true);
  Text out;
  for (std::size_t at = 0; at <= text.bytes.size();) {
    const std::size_t end = std::min(text.bytes.find('\n', at), text.bytes.size());
    if ((at > 0 || first) && (end > at || blank)) out += space;
    out += text.substr(at, end - at + (end < text.bytes.size()));
    at = end + 1;
  }
  return out;
}

Value pairs_of(const Entries& entries) {
  List pairs;
  for (const auto& [key, value] : entries) pairs.push_back(Value::list({Value::text(key), value}));
  return Value::list(std::move(pairs));
}

Result<Value> to_integer(const Value& value, const Arguments& arguments) {
  double number = 0;
  if (value.as_number(number)) return Value(static_cast<std::int64_t>(std::clamp(number, -9e18, 9e18)));
  if (const Text* text = value.as_text()) {
    const Text trimmed = strip(*text, kSpace, true, true);
    std::int64_t integer = 0;
    const char* end = trimmed.bytes.data() + trimmed.bytes.size();
    if (std::from_chars(trimmed.bytes.data(), end, integer).ptr == end && !trimmed.bytes.empty()) return Value(integer);
  }
  return Value(integer_argument(arguments, 0, "default", 0));
}

}  // namespace

std::optional<List> items_of(const Value& value) {
  if (const List* list = value.as_list()) return *list;
  if (value.is_undefined()) return List{};
  List items;
  if (const Entries* entries = value.as_dict()) {
    for (const auto& [key, held] : *entries) items.push_back(Value::text(key));
    return items;
  }
  if (const Text* text = value.as_text()) {
    for (std::size_t at = 0; at < text->bytes.size();) {
      const std::size_t size = character_bytes(text->bytes, at);
      items.push_back(Value::text(text->substr(at, size)));
      at += size;
    }
    return items;
  }
  return std::nullopt;
}

Result<Value> arithmetic(std::string_view op, const Value& left, const Value& right, const Limits& limits) {
  if (op == "~") {
    Text text = left.str();
    text += right.str();
    return Value::text(std::move(text));
  }
  const auto mismatch = [&] { return bad(fmt::format("'{}' of a {} and a {}", op, left.kind(), right.kind())); };
  if (op == "+" && left.as_text() && right.as_text()) {
    Text text = *left.as_text();
    text += *right.as_text();
    return Value::text(std::move(text));
  }
  if (op == "+" && left.as_list() && right.as_list()) {
    List list = *left.as_list();
    list.insert(list.end(), right.as_list()->begin(), right.as_list()->end());
    return Value::list(std::move(list));
  }
  std::int64_t a = 0, b = 0;
  if (op == "*" && (left.as_text() || left.as_list()) && right.as_integer(b)) {
    const std::size_t size = left.as_text() ? left.as_text()->bytes.size() : left.as_list()->size();
    const auto times = static_cast<std::size_t>(std::max<std::int64_t>(b, 0));
    if (size > 0 && times > limits.output_bytes / size) return bad("a repetition is too long");
    Text text;
    List list;
    for (std::size_t i = 0; i < times && size > 0; ++i) {
      if (left.as_text())
        text += *left.as_text();
      else
        list.insert(list.end(), left.as_list()->begin(), left.as_list()->end());
    }
    return left.as_text() ? Value::text(std::move(text)) : Value::list(std::move(list));
  }
  if (left.as_integer(a) && right.as_integer(b) && op != "/") {
    std::int64_t result = 0;
    if (op == "+" && !__builtin_add_overflow(a, b, &result)) return Value(result);
    if (op == "-" && !__builtin_sub_overflow(a, b, &result)) return Value(result);
    if (op == "*" && !__builtin_mul_overflow(a, b, &result)) return Value(result);
    if (op == "//" || op == "%") {
      if (b == 0) return bad("division by zero");
      if (b == -1) return op == "%" ? Value(std::int64_t{0}) : Value(a == INT64_MIN ? a : -a);
      std::int64_t quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1, rest += b;  // Python rounds down
      return Value(op == "%" ? rest : quotient);
    }
    if (op == "**" && b >= 0) {
      result = 1;
      for (std::int64_t i = 0; i < b; ++i) {
        if (__builtin_mul_overflow(result, a, &result)) return bad("a number is too large");
        if (result == 0 || (result == 1 && a == 1)) break;
      }
      return Value(result);
    }
    if (op != "**") return bad("a number is too large");
  }
  double x = 0, y = 0;
  if (!left.as_number(x) || !right.as_number(y)) return mismatch();
  if ((op == "/" || op == "//" || op == "%") && y == 0) return bad("division by zero");
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  if (op == "/") return Value(x / y);
  if (op == "//") return Value(std::floor(x / y));
  if (op == "%") return Value(x - y * std::floor(x / y));
  if (op == "**") return Value(std::pow(x, y));
  return mismatch();
}

Result<Value> comparison(std::string_view op, const Value& left, const Value& right) {
  if (op == "==") return Value(equal(left, right));
  if (op == "!=") return Value(!equal(left, right));
  if (op == "in" || op == "not in") {
    bool contained = false;
    if (right.as_text()) {
      if (!left.as_text()) return bad(fmt::format("'in' a string needs a string, not a {}", left.kind()));
      contained = right.as_text()->bytes.find(left.as_text()->bytes) != std::string::npos;
    } else if (right.as_list()) {
      contained = std::ranges::any_of(*right.as_list(), [&](const Value& item) { return equal(item, left); });
    } else if (right.as_dict()) {
      contained = left.as_text() && find(*right.as_dict(), left.as_text()->bytes);
    } else if (!right.is_undefined()) {
      return bad(fmt::format("'in' a {}", right.kind()));
    }
    return Value(contained == (op == "in"));
  }
  double x = 0, y = 0;
  int order = 0;
  if (left.as_number(x) && right.as_number(y)) {
    order = x < y ? -1 : x > y;
  } else if (left.as_text() && right.as_text()) {
    order = left.as_text()->bytes.compare(right.as_text()->bytes);
  } else {
    return bad(fmt::format("'{}' of a {} and a {}", op, left.kind(), right.kind()));
  }
  return Value(op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0);
}

Result<Value> apply_filter(std::string_view name, const Value& value, const Arguments& arguments,
                           const Limits& limits) {
  if (name == "default" || name == "d") {
    const Value* fallback = argument(arguments, 0, "default_value");
    const Value* falsy_too = argument(arguments, 1, "boolean");
    const bool missing = value.is_undefined() || (falsy_too && falsy_too->truthy() && !value.truthy());
    return missing ? (fallback ? *fallback : Value::text("")) : value;
  }
  if (name == "safe") return value;
  if (name == "string") return Value::text(value.str());
  if (name == "tojson") {
    // As Hugging Face's: keys in order, no HTML escapes. What a message brought stays untrusted.
    const bool from_message = value.as_text() && value.as_text()->trusted.find('\0') != std::string::npos;
    return Value::text(
        Text::of(value.json(static_cast<int>(integer_argument(arguments, 0, "indent", -1))), !from_message));
  }
  if (name == "trim") {
    const Value* set = argument(arguments, 0, "chars");
    return Value::text(
        strip(value.str(), set && set->as_text() ? std::string_view(set->as_text()->bytes) : kSpace, true, true));
  }
  if (name == "upper") return Value::text(map_case(value.str(), [](char c, bool) { return upper(c); }));
  if (name == "lower") return Value::text(map_case(value.str(), [](char c, bool) { return lower(c); }));
  if (name == "title")
    return Value::text(map_case(value.str(), [](char c, bool start) { return start ? upper(c) : lower(c); }));
  if (name == "capitalize") return Value::text(capitalize(value.str()));
  if (name == "replace") {
    const Value *from = argument(arguments, 0, "old"), *to = argument(arguments, 1, "new");
    if (!from || !to) return bad("replace needs what to replace and by what");
    return Value::text(replace(value.str(), from->str().bytes, to->str(), integer_argument(arguments, 2, "count", -1)));
  }
  if (name == "indent") {
    const Value *first = argument(arguments, 1, "first"), *blank = argument(arguments, 2, "blank");
    const auto width = std::clamp<std::int64_t>(integer_argument(arguments, 0, "width", 4), 0, 1000);
    return Value::text(
        indent(value.str(), static_cast<std::size_t>(width), first && first->truthy(), blank && blank->truthy()));
  }
  if (name == "length" || name == "count") {
    if (const Text* text = value.as_text()) return Value(static_cast<std::int64_t>(character_count(text->bytes)));
    const auto items = items_of(value);
    if (!items) return bad(fmt::format("a {} has no length", value.kind()));
    return Value(static_cast<std::int64_t>(items->size()));
  }
  if (name == "int") return to_integer(value, arguments);
  if (name == "float") {
    double number = 0;
    if (!value.as_number(number) && value.as_text()) {
      const std::string& text = value.as_text()->bytes;
      std::from_chars(text.data(), text.data() + text.size(), number);
    }
    return Value(number);
  }
  if (name == "abs") {
    double number = 0;
    std::int64_t integer = 0;
    if (value.as_integer(integer)) return Value(integer < 0 ? -integer : integer);
    if (value.as_number(number)) return Value(std::abs(number));
    return bad(fmt::format("abs of a {}", value.kind()));
  }
  if (name == "join") return join(value, arguments, limits);
  if (name == "items" || name == "dictsort") {
    if (value.is_undefined()) return Value::list({});
    if (!value.as_dict()) return bad(fmt::format("{} of a {}", name, value.kind()));
    Entries entries = *value.as_dict();
    if (name == "dictsort") std::ranges::sort(entries, {}, [](const auto& entry) { return entry.first; });
    return pairs_of(entries);
  }
  if (name == "map") return map(value, arguments, limits);
  if (name == "select") return choose(value, arguments, false, true);
  if (name == "reject") return choose(value, arguments, false, false);
  if (name == "selectattr") return choose(value, arguments, true, true);
  if (name == "rejectattr") return choose(value, arguments, true, false);
  if (name == "list" || name == "first" || name == "last" || name == "reverse" || name == "unique") {
    auto items = items_of(value);
    if (!items) return bad(fmt::format("{} of a {}", name, value.kind()));
    if (name == "first") return items->empty() ? Value(Value::Undefined{"first"}) : items->front();
    if (name == "last") return items->empty() ? Value(Value::Undefined{"last"}) : items->back();
    if (name == "reverse") std::ranges::reverse(*items);
    if (name == "unique") {
      List once;
      for (const Value& item : *items) {
        if (std::ranges::none_of(once, [&](const Value& seen) { return equal(seen, item); })) once.push_back(item);
      }
      items = std::move(once);
    }
    if (name == "reverse" && value.as_text()) return join(Value::list(std::move(*items)), {}, limits);
    return Value::list(std::move(*items));
  }
  return bad(fmt::format("the filter '{}' is not understood", name));
}

Result<Value> apply_test(std::string_view name, const Value& value, const Arguments& arguments) {
  const auto other = [&]() -> Value { return arguments.positional.empty() ? Value() : arguments.positional.front(); };
  std::int64_t integer = 0, divisor = 0;
  if (name == "defined") return Value(!value.is_undefined());
  if (name == "undefined") return Value(value.is_undefined());
  if (name == "none") return Value(value.is_none());
  if (name == "string") return Value(value.as_text() != nullptr);
  if (name == "mapping") return Value(value.as_dict() != nullptr);
  if (name == "sequence" || name == "iterable")
    return Value(value.as_text() || value.as_list() || value.as_dict() || value.is_undefined());
  if (name == "boolean") return Value(value.as<bool>() != nullptr);
  if (name == "integer") return Value(value.as<std::int64_t>() != nullptr);
  if (name == "float") return Value(value.as<double>() != nullptr);
  if (name == "number") return Value(value.as<std::int64_t>() || value.as<double>() || value.as<bool>());
  if (name == "callable") return Value(value.as<Value::Function>() != nullptr);
  if (name == "true") return Value(value.as<bool>() && *value.as<bool>());
  if (name == "false") return Value(value.as<bool>() && !*value.as<bool>());
  if (name == "odd" && value.as_integer(integer)) return Value(integer % 2 != 0);
  if (name == "even" && value.as_integer(integer)) return Value(integer % 2 == 0);
  if (name == "divisibleby" && value.as_integer(integer) && other().as_integer(divisor) && divisor != 0)
    return Value(integer % divisor == 0);
  if (name == "equalto" || name == "eq" || name == "==" || name == "sameas") return comparison("==", value, other());
  if (name == "ne" || name == "!=") return comparison("!=", value, other());
  if (name == "lt" || name == "<" || name == "lessthan") return comparison("<", value, other());
  if (name == "le" || name == "<=") return comparison("<=", value, other());
  if (name == "gt" || name == ">" || name == "greaterthan") return comparison(">", value, other());
  if (name == "ge" || name == ">=") return comparison(">=", value, other());
  if (name == "in") return comparison("in", value, other());
  return bad(fmt::format("the test '{}' is not understood for a {}", name, value.kind()));
}

Result<Value> call_method(const Value& object, std::string_view name, const Arguments& arguments) {
  const Value* first = argument(arguments, 0, "");
  const std::string* text_argument = first && first->as_text() ? &first->as_text()->bytes : nullptr;
  if (const Text* text = object.as_text()) {
    const std::string_view set = text_argument ? std::string_view(*text_argument) : kSpace;
    if (name == "strip") return Value::text(strip(*text, set, true, true));
    if (name == "lstrip") return Value::text(strip(*text, set, true, false));
    if (name == "rstrip") return Value::text(strip(*text, set, false, true));
    if (name == "upper" || name == "lower" || name == "title" || name == "capitalize")
      return apply_filter(name, object, {}, {});
    if (name == "splitlines") {
      Value lines = split(*text, text->bytes.empty() ? nullptr : &static_cast<const std::string&>("\n"), -1, false);
      if (text->bytes.ends_with('\n')) lines.as_list()->pop_back();
      return lines;
    }
    if (name == "split" || name == "rsplit") {
      if (text_argument && text_argument->empty()) return bad("an empty separator");
      return split(*text, text_argument, integer_argument(arguments, 1, "maxsplit", -1), name == "rsplit");
    }
    if (name == "replace" && text_argument && arguments.positional.size() >= 2) {
      return Value::text(
          replace(*text, *text_argument, arguments.positional[1].str(), integer_argument(arguments, 2, "count", -1)));
    }
    if (name == "startswith" || name == "endswith") {
      List options = first && first->as_list() ? *first->as_list() : first ? List{*first} : List{};
      return Value(std::ranges::any_of(options, [&](const Value& option) {
        const Text* part = option.as_text();
        return part &&
               (name == "startswith" ? text->bytes.starts_with(part->bytes) : text->bytes.ends_with(part->bytes));
      }));
    }
    if (name == "find" && text_argument) {
      const std::size_t found = text->bytes.find(*text_argument);
      return Value(found == std::string::npos
                       ? std::int64_t{-1}
                       : static_cast<std::int64_t>(character_count(std::string_view(text->bytes).substr(0, found))));
    }
    if (name == "count" && text_argument && !text_argument->empty()) {
      return Value(static_cast<std::int64_t>(split(*text, text_argument, -1, false).as_list()->size()) - 1);
    }
    if (name == "join" && first) return apply_filter("join", *first, {.positional = {object}}, {});
    if (name == "isdigit")
      return Value(!text->bytes.empty() &&
                   std::ranges::all_of(text->bytes, [](char c) { return c >= '0' && c <= '9'; }));
  }
  if (Entries* entries = object.as_dict()) {
    if (name == "items") return pairs_of(*entries);
    if (name == "keys") return Value::list(*items_of(object));
    if (name == "values") {
      List values;
      for (const auto& [key, value] : *entries) values.push_back(value);
      return Value::list(std::move(values));
    }
    if (name == "get" && text_argument) {
      const Value* value = find(*entries, *text_argument);
      return value ? *value : arguments.positional.size() > 1 ? arguments.positional[1] : Value(Value::None{});
    }
  }
  if (List* list = object.as_list()) {
    if (name == "append" && first) return list->push_back(*first), Value(Value::None{});
    if (name == "pop" && !list->empty()) {
      Value last = list->back();
      return list->pop_back(), last;
    }
  }
  return bad(fmt::format("the method '{}' of a {} is not understood", name, object.kind()));
}

bool is_function(std::string_view name) {
  return name == "range" || name == "namespace" || name == "dict" || name == "raise_exception" ||
         name == "strftime_now";
}

Result<Value> call_function(std::string_view name, const Arguments& arguments, const Limits& limits) {
  if (name == "namespace" || name == "dict") {
    Entries entries;
    if (!arguments.positional.empty() && arguments.positional.front().as_dict())
      entries = *arguments.positional.front().as_dict();
    for (const auto& [key, value] : arguments.named) assign(entries, key, value);
    return Value::dict(std::move(entries));
  }
  if (name == "range") {
    std::int64_t numbers[3] = {0, 0, 1};
    const std::size_t count = arguments.positional.size();
    if (count < 1 || count > 3) return bad("range needs one to three integers");
    for (std::size_t i = 0; i < count; ++i) {
      if (!arguments.positional[i].as_integer(numbers[count == 1 ? 1 : i])) return bad("range needs integers");
    }
    const auto [first, last, stride] = numbers;
    if (stride == 0) return bad("a range of step 0");
    List list;
    for (std::int64_t i = first; stride > 0 ? i < last : i > last;) {
      if (list.size() >= limits.steps) return bad("a range is too long");
      list.emplace_back(i);
      if (__builtin_add_overflow(i, stride, &i)) break;
    }
    return Value::list(std::move(list));
  }
  if (name == "strftime_now") {
    if (arguments.positional.empty() || !arguments.positional.front().as_text())
      return bad("strftime_now needs a format");
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    localtime_r(&now, &local);
    char buffer[256];
    const std::size_t size =
        std::strftime(buffer, sizeof buffer, arguments.positional.front().as_text()->bytes.c_str(), &local);
    return Value::text(std::string_view(buffer, size));
  }
  return bad(fmt::format("'{}' is not defined", name));
}

}  // namespace tiercel::jinja
