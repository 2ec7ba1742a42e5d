#include "text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/utf8.h"

namespace tiercel::jinja {
namespace {

// Python's str.isprintable, but for code points that no Unicode version has assigned yet.
bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  if (c <= 0xA0 || c == 0xAD) return false;
  const bool is_format = (c >= 0x600 && c <= 0x605) || c == 0x61C || c == 0x6DD || c == 0x70F || c == 0x180E ||
                         (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) ||
                         c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE007F);
  const bool is_private = (c >= 0xE000 && c <= 0xF8FF) || c >= 0xF0000;
  return !is_format && !is_private && !is_space(c);
}

void append_escape(char32_t c, char mark, Text& out) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string escape = c <= 0xFF ? "\\x" : c <= 0xFFFF ? "\\u" : "\\U";
  for (int shift = c <= 0xFF ? 4 : c <= 0xFFFF ? 12 : 28; shift >= 0; shift -= 4) escape += kDigits[c >> shift & 0xF];
  out.append_as(escape, mark);
}

void append_quoted(const Text& text, Text& out) {
  const bool has_single = text.bytes.find('\'') != std::string::npos;
  const char quote = has_single && text.bytes.find('"') == std::string::npos ? '"' : '\'';
  out.append_trusted({&quote, 1});
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = character_length(text.bytes, i);
    const char mark = text.trusted[i];
    const Utf8Start start = read_utf8(std::string_view(text.bytes).substr(i));
    const char c = text.bytes[i];
    if (c == quote || c == '\\') {
      out.append_as("\\", mark);
      out.append(text, i, 1);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.append_as(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", mark);
    } else if (start.kind == Utf8Start::Kind::Character && !is_printable(start.code_point)) {
      append_escape(start.code_point, mark, out);
    } else {
      out.append(text, i, length);
    }
    i += length;
  }
  out.append_trusted({&quote, 1});
}

void append_repr(const Value& value, Context& context, Text& out);

void append_sequence(const Sequence& sequence, Context& context, Text& out) {
  if (sequence.kind != Sequence::Kind::List && sequence.kind != Sequence::Kind::Tuple) {
    fail("an iterator or a view cannot be printed; pass it through the filter 'list' or 'join'");
  }
  const bool is_tuple = sequence.kind == Sequence::Kind::Tuple;
  out.append_trusted(is_tuple ? "(" : "[");
  for (std::size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out.append_trusted(", ");
    append_repr(sequence.items[i], context, out);
  }
  if (is_tuple && sequence.items.size() == 1) out.append_trusted(",");
  out.append_trusted(is_tuple ? ")" : "]");
}

void append_mapping(const Mapping& mapping, Context& context, Text& out) {
  out.append_trusted("{");
  for (std::size_t i = 0; i < mapping.items.size(); ++i) {
    if (i > 0) out.append_trusted(", ");
    append_repr(mapping.items[i].first, context, out);
    out.append_trusted(": ");
    append_repr(mapping.items[i].second, context, out);
  }
  out.append_trusted("}");
}

void append_repr(const Value& value, Context& context, Text& out) {
  context.budget.take_steps();
  if (const Text* text = as_text(value)) {
    context.budget.write(text->size() * 4 + 2);
    append_quoted(*text, out);
  } else if (const Sequence* sequence = as_sequence(value)) {
    append_sequence(*sequence, context, out);
  } else if (const Mapping* mapping = as_mapping(value)) {
    append_mapping(*mapping, context, out);
  } else if (is_undefined(value)) {
    out.append_trusted("Undefined");
  } else {
    out.append(to_text(value, context));
  }
  if (out.size() > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
}

int deeper(int depth) {
  if (depth >= kMaxDepth) fail("it nests values more than 200 deep");
  return depth + 1;
}

bool are_equal_items(const Sequence& a, const Sequence& b, Context& context) {
  if (a.kind != b.kind || a.items.size() != b.items.size()) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    if (!is_equal(a.items[i], b.items[i], context)) return false;
  }
  return true;
}

bool are_equal_mappings(const Mapping& a, const Mapping& b, Context& context) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, item] : a.items) {
    const Value* other = find_key(b, key, context);
    if (other == nullptr || !is_equal(item, *other, context)) return false;
  }
  return true;
}

}  // namespace

Value make_undefined(std::string why) { return Undefined{std::make_shared<const std::string>(std::move(why))}; }
Value make_text(Text text) { return std::make_shared<const Text>(std::move(text)); }
Value make_trusted(std::string_view text) { return make_text(trusted_text(text)); }

Value make_sequence(std::vector<Value> items, Sequence::Kind kind, Context& context) {
  context.budget.take_steps(items.size());
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return std::make_shared<const Sequence>(Sequence{kind, std::move(items), deeper(depth)});
}

Value make_mapping(std::vector<std::pair<Value, Value>> items, Context& context) {
  context.budget.take_steps(items.size());
  int depth = 0;
  for (const auto& [key, item] : items) depth = std::max({depth, depth_of(key), depth_of(item)});
  return std::make_shared<const Mapping>(Mapping{std::move(items), deeper(depth)});
}

const Text* as_text(const Value& value) {
  const auto* text = std::get_if<std::shared_ptr<const Text>>(&value);
  return text == nullptr ? nullptr : text->get();
}

const Sequence* as_sequence(const Value& value) {
  const auto* sequence = std::get_if<std::shared_ptr<const Sequence>>(&value);
  return sequence == nullptr ? nullptr : sequence->get();
}

const Mapping* as_mapping(const Value& value) {
  const auto* mapping = std::get_if<std::shared_ptr<const Mapping>>(&value);
  return mapping == nullptr ? nullptr : mapping->get();
}

bool is_undefined(const Value& value) { return std::holds_alternative<Undefined>(value); }
bool is_none(const Value& value) { return std::holds_alternative<None>(value); }

const std::int64_t* as_integer(const Value& value, std::int64_t& storage) {
  if (const bool* boolean = std::get_if<bool>(&value)) {
    storage = *boolean;
    return &storage;
  }
  return std::get_if<std::int64_t>(&value);
}

bool as_number(const Value& value, double& number) {
  std::int64_t storage = 0;
  if (const std::int64_t* integer = as_integer(value, storage)) {
    number = static_cast<double>(*integer);
    return true;
  }
  const double* real = std::get_if<double>(&value);
  if (real != nullptr) number = *real;
  return real != nullptr;
}

std::string_view type_name(const Value& value) {
  static constexpr std::string_view kNames[] = {"Undefined", "NoneType", "bool",      "int",  "float",   "str",
                                                "list",      "dict",     "Namespace", "loop", "function"};
  if (const Sequence* sequence = as_sequence(value)) {
    static constexpr std::string_view kKinds[] = {"list", "tuple", "view", "iterator"};
    return kKinds[static_cast<std::size_t>(sequence->kind)];
  }
  return kNames[value.index()];
}

int depth_of(const Value& value) {
  if (const Sequence* sequence = as_sequence(value)) return sequence->depth;
  if (const Mapping* mapping = as_mapping(value)) return mapping->depth;
  if (const auto* loop = std::get_if<std::shared_ptr<const Loop>>(&value)) return (*loop)->sequence->depth + 1;
  return 0;
}

bool is_true(const Value& value) {
  double number = 0;
  if (as_number(value, number)) return number != 0;
  if (const Text* text = as_text(value)) return !text->empty();
  if (const Sequence* sequence = as_sequence(value)) {
    return sequence->kind == Sequence::Kind::Iterator || !sequence->items.empty();
  }
  if (const Mapping* mapping = as_mapping(value)) return !mapping->items.empty();
  return !is_undefined(value) && !is_none(value);
}

bool is_equal(const Value& a, const Value& b, Context& context) {
  context.budget.take_steps();
  std::int64_t storage_a = 0;
  std::int64_t storage_b = 0;
  const std::int64_t* integer_a = as_integer(a, storage_a);
  const std::int64_t* integer_b = as_integer(b, storage_b);
  if (integer_a != nullptr && integer_b != nullptr) return *integer_a == *integer_b;
  double number_a = 0;
  double number_b = 0;
  if (as_number(a, number_a)) return as_number(b, number_b) && number_a == number_b;
  if (a.index() != b.index()) return false;
  if (const Text* text = as_text(a)) {
    if (text->size() != as_text(b)->size()) return false;
    context.budget.read(text->size());
    return text->bytes == as_text(b)->bytes;
  }
  if (const Sequence* sequence = as_sequence(a)) return are_equal_items(*sequence, *as_sequence(b), context);
  if (const Mapping* mapping = as_mapping(a)) return are_equal_mappings(*mapping, *as_mapping(b), context);
  if (Namespace* const* space = std::get_if<Namespace*>(&a)) return *space == std::get<Namespace*>(b);
  if (const Callable* callable = std::get_if<Callable>(&a)) {
    return callable->macro == std::get<Callable>(b).macro && callable->name == std::get<Callable>(b).name;
  }
  return is_undefined(a) || is_none(a);
}

void check_key(const Value& value) {
  const Sequence* sequence = as_sequence(value);
  if (as_mapping(value) != nullptr || (sequence != nullptr && sequence->kind != Sequence::Kind::Tuple)) {
    fail("a " + std::string(type_name(value)) + " cannot be the key of a dict");
  }
  if (sequence == nullptr) return;
  for (const Value& item : sequence->items) check_key(item);
}

const Value* find_key(const Mapping& mapping, const Value& key, Context& context) {
  for (const auto& [candidate, item] : mapping.items) {
    if (is_equal(candidate, key, context)) return &item;
  }
  return nullptr;
}

std::string format_float(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  // Python writes the shortest digits that read back the same, with an exponent from 1e16 and below 1e-4.
  const double magnitude = std::fabs(number);
  const bool is_plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto format = is_plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, format).ptr;
  std::string text(buffer, end);
  if (is_plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

Text to_text(const Value& value, Context& context) {
  if (const Text* text = as_text(value)) {
    context.budget.write(text->size());
    return *text;
  }
  if (is_undefined(value)) return {};
  if (is_none(value)) return trusted_text("None");
  if (const bool* boolean = std::get_if<bool>(&value)) return trusted_text(*boolean ? "True" : "False");
  if (const std::int64_t* integer = std::get_if<std::int64_t>(&value)) return trusted_text(std::to_string(*integer));
  if (const double* number = std::get_if<double>(&value)) return trusted_text(format_float(*number));
  if (as_sequence(value) == nullptr && as_mapping(value) == nullptr) {
    fail("a " + std::string(type_name(value)) + " cannot be printed");
  }
  Text out;
  append_repr(value, context, out);
  return out;
}

std::shared_ptr<const Sequence> iterate(const Value& value, Context& context) {
  if (const auto* shared = std::get_if<std::shared_ptr<const Sequence>>(&value)) {
    const Sequence& sequence = **shared;
    if (sequence.kind != Sequence::Kind::Iterator) return *shared;
    if (sequence.is_consumed) return std::make_shared<const Sequence>();
    sequence.is_consumed = true;
    return *shared;
  }
  std::vector<Value> items;
  if (const Text* text = as_text(value)) {
    context.budget.read(text->size());
    for (std::size_t i = 0; i < text->size();) {
      const std::size_t length = character_length(text->bytes, i);
      context.budget.take_steps();
      items.push_back(make_text(text->slice(i, length)));
      i += length;
    }
  } else if (const Mapping* mapping = as_mapping(value)) {
    for (const auto& item : mapping->items) items.push_back(item.first);
  } else if (!is_undefined(value)) {
    fail("'" + std::string(type_name(value)) + "' object is not iterable");
  }
  return std::get<std::shared_ptr<const Sequence>>(make_sequence(std::move(items), Sequence::Kind::List, context));
}

}  // namespace tiercel::jinja
