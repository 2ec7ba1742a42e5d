#include "text/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "text/jinja_methods.h"
#include "text/jinja_operators.h"

namespace tiercel::jinja {
namespace {

using Items = std::vector<Value>;

// What a filter is called with; `callee` is "filter 'name'", for messages.
struct Call {
  const Value& value;
  const Arguments& arguments;
  Context& context;
  std::string callee;

  std::vector<std::optional<Value>> bind(std::initializer_list<std::string_view> names) const {
    return bind_arguments(arguments, callee, names);
  }
  Text text() const { return to_text(value, context); }
};

bool flag(const std::optional<Value>& argument) { return argument && is_true(*argument); }
bool is_given(const std::optional<Value>& argument) { return argument && !is_none(*argument); }

// The attribute that a filter looks up in items: "name", "name.name", or a number.
Value look_up(const Value& item, const Value& path, Context& context) {
  const Text* text = as_text(path);
  if (text == nullptr) return get_item(item, path, context);
  Value value = item;
  for (std::size_t begin = 0; begin <= text->size();) {
    const std::size_t end = std::min(text->bytes.find('.', begin), text->size());
    const std::string part = text->bytes.substr(begin, end - begin);
    std::int64_t index = 0;
    const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && result.ec == std::errc() && result.ptr == part.data() + part.size();
    value = get_item(value, is_index ? Value(index) : make_trusted(part), context);
    begin = end + 1;
  }
  return value;
}

// What an item is compared by: itself or its attribute, strings in lower case unless case matters.
Value sort_key(const Value& item, const std::optional<Value>& attribute, bool is_case_sensitive, Context& context) {
  Value key = is_given(attribute) ? look_up(item, *attribute, context) : item;
  const Text* text = as_text(key);
  return text == nullptr || is_case_sensitive ? key : make_text(change_case(*text, Case::Lower, context));
}

// Sorted by the keys, of which there is one for each item.
Items sorted(const Items& items, const Items& keys, bool is_reversed, Context& context) {
  std::vector<std::size_t> positions(items.size());
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = i;
  std::stable_sort(positions.begin(), positions.end(), [&](std::size_t a, std::size_t b) {
    return is_reversed ? compare("<", keys[b], keys[a], context) : compare("<", keys[a], keys[b], context);
  });
  Items out;
  for (const std::size_t position : positions) out.push_back(items[position]);
  return out;
}

Value default_value(const Call& call) {
  const auto bound = call.bind({"default_value", "boolean"});
  const bool is_missing = is_undefined(call.value) || (flag(bound[1]) && !is_true(call.value));
  return is_missing ? bound[0].value_or(make_trusted("")) : call.value;
}

Value trim(const Call& call) {
  const auto bound = call.bind({"chars"});
  Arguments arguments;
  if (bound[0]) arguments.positional.push_back(*bound[0]);
  return call_method(make_text(call.text()), "strip", arguments, call.context);
}

Value length(const Call& call) {
  call.bind({});
  if (const Text* text = as_text(call.value)) {
    call.context.budget.read(text->size());
    return static_cast<std::int64_t>(count_characters(text->bytes));
  }
  if (const Mapping* mapping = as_mapping(call.value)) return static_cast<std::int64_t>(mapping->items.size());
  if (is_undefined(call.value)) return std::int64_t{0};
  const Sequence* sequence = as_sequence(call.value);
  if (sequence == nullptr || sequence->kind == Sequence::Kind::Iterator) {
    fail("a value of type " + std::string(type_name(call.value)) + " has no length");
  }
  return static_cast<std::int64_t>(sequence->items.size());
}

// Every word capitalised; words are parted by white space, '-' and opening brackets.
Value title(const Call& call) {
  call.bind({});
  const Text text = call.text();
  call.context.budget.write(text.size() * 3);
  Text out;
  bool is_start = true;
  std::size_t word = 0;
  const auto end_word = [&](std::size_t end) {
    if (end == word) return;
    const std::size_t first = character_length(text.bytes, word);
    out.append(change_case(text.slice(word, first), Case::Upper, call.context));
    out.append(change_case(text.slice(word + first, end - word - first), Case::Lower, call.context));
  };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t step = character_length(text.bytes, i);
    const std::string_view character = std::string_view(text.bytes).substr(i, step);
    const bool is_separator = std::string_view("-({[<").find(character) != std::string_view::npos ||
                              stripped(character, {.left = true, .right = false}).length == 0;
    if (is_separator) {
      if (!is_start) end_word(i);
      out.append(text, i, step);
      word = i + step;
    }
    is_start = is_separator;
    i += step;
  }
  end_word(text.size());
  return make_text(std::move(out));
}

Value change_text_case(const Call& call, Case to) {
  call.bind({});
  return make_text(change_case(call.text(), to, call.context));
}

Value join(const Call& call) {
  const auto bound = call.bind({"d", "attribute"});
  const Text separator = bound[0] ? to_text(*bound[0], call.context) : Text();
  Text out;
  bool is_first = true;
  const auto sequence = iterate(call.value, call.context);
  for (const Value& item : sequence->items) {
    call.context.budget.take_steps();
    const Text text = to_text(is_given(bound[1]) ? look_up(item, *bound[1], call.context) : item, call.context);
    call.context.budget.write(text.size() + separator.size());
    if (!std::exchange(is_first, false)) out.append(separator);
    out.append(text);
    if (out.size() > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
  }
  return make_text(std::move(out));
}

Value first_or_last(const Call& call, bool is_first) {
  call.bind({});
  const auto sequence = iterate(call.value, call.context);
  if (sequence->items.empty()) return make_undefined("the sequence is empty");
  return is_first ? sequence->items.front() : sequence->items.back();
}

Value replace(const Call& call) {
  const auto bound = call.bind({"old", "new", "count"});
  if (!bound[0] || !bound[1]) fail(call.callee + " needs two arguments");
  const std::int64_t count = is_given(bound[2]) ? integer_argument(*bound[2], call.callee) : -1;
  return make_text(replace_text(call.text(), to_text(*bound[0], call.context), to_text(*bound[1], call.context), count,
                                call.context));
}

Value to_list(const Call& call) {
  call.bind({});
  return make_sequence(iterate(call.value, call.context)->items, Sequence::Kind::List, call.context);
}

Value items_of(const Call& call) {
  call.bind({});
  if (is_undefined(call.value)) return make_sequence({}, Sequence::Kind::Iterator, call.context);
  if (as_mapping(call.value) == nullptr) fail(call.callee + " needs a dict, not " + std::string(type_name(call.value)));
  const Value view = call_method(call.value, "items", {}, call.context);
  return make_sequence(as_sequence(view)->items, Sequence::Kind::Iterator, call.context);
}

Value dict_sort(const Call& call) {
  const auto bound = call.bind({"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] ? text_argument(*bound[1], call.callee).bytes : "key";
  if (by != "key" && by != "value") fail("'by' of " + call.callee + " must be 'key' or 'value'");
  if (as_mapping(call.value) == nullptr) fail(call.callee + " needs a dict, not " + std::string(type_name(call.value)));
  const Value view = call_method(call.value, "items", {}, call.context);
  const Items& items = as_sequence(view)->items;
  Items keys;
  for (const Value& item : items) {
    keys.push_back(sort_key(item, std::int64_t{by == "key" ? 0 : 1}, flag(bound[0]), call.context));
  }
  return make_sequence(sorted(items, keys, flag(bound[2]), call.context), Sequence::Kind::List, call.context);
}

Value sort(const Call& call) {
  const auto bound = call.bind({"reverse", "case_sensitive", "attribute"});
  const auto sequence = iterate(call.value, call.context);
  Items keys;
  for (const Value& item : sequence->items) keys.push_back(sort_key(item, bound[2], flag(bound[1]), call.context));
  return make_sequence(sorted(sequence->items, keys, flag(bound[0]), call.context), Sequence::Kind::List, call.context);
}

Value smallest_or_largest(const Call& call, std::string_view is_better) {
  const auto bound = call.bind({"case_sensitive", "attribute"});
  const auto sequence = iterate(call.value, call.context);
  if (sequence->items.empty()) return make_undefined("the sequence is empty");
  std::size_t best = 0;
  Value best_key = sort_key(sequence->items[0], bound[1], flag(bound[0]), call.context);
  for (std::size_t i = 1; i < sequence->items.size(); ++i) {
    Value key = sort_key(sequence->items[i], bound[1], flag(bound[0]), call.context);
    if (!compare(is_better, key, best_key, call.context)) continue;
    best = i;
    best_key = std::move(key);
  }
  return sequence->items[best];
}

Value sum(const Call& call) {
  const auto bound = call.bind({"attribute", "start"});
  Value total = bound[1].value_or(std::int64_t{0});
  const auto sequence = iterate(call.value, call.context);
  for (const Value& item : sequence->items) {
    total = calculate("+", total, is_given(bound[0]) ? look_up(item, *bound[0], call.context) : item, call.context);
  }
  return total;
}

Value reverse(const Call& call) {
  call.bind({});
  if (as_text(call.value) != nullptr) return slice(call.value, None{}, None{}, std::int64_t{-1}, call.context);
  Items items = iterate(call.value, call.context)->items;
  std::reverse(items.begin(), items.end());
  return make_sequence(std::move(items), Sequence::Kind::Iterator, call.context);
}

// A number as Python's int() or float() reads it from a string, or nothing.
std::optional<double> parse_number(std::string_view text) {
  const Span span = stripped(text, {.left = true, .right = true});
  std::string digits(text.substr(span.offset, span.length));
  if (digits.starts_with("+")) digits.erase(0, 1);
  double number = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, number);
  if (result.ec != std::errc() || result.ptr != end || digits.find('(') != std::string::npos) return std::nullopt;
  return number;
}

Value to_integer(const Call& call) {
  const auto bound = call.bind({"default", "base"});
  if (bound[1] && integer_argument(*bound[1], call.callee) != 10) fail("a base other than 10 is not supported");
  const Value otherwise = bound[0].value_or(std::int64_t{0});
  std::int64_t storage = 0;
  if (const std::int64_t* integer = as_integer(call.value, storage)) return *integer;
  std::optional<double> number;
  if (const double* real = std::get_if<double>(&call.value)) number = *real;
  if (const Text* text = as_text(call.value)) {
    const Span span = stripped(text->bytes, {.left = true, .right = true});
    std::string_view digits = std::string_view(text->bytes).substr(span.offset, span.length);
    if (digits.starts_with("+") && !digits.starts_with("+-")) digits.remove_prefix(1);
    std::int64_t integer = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), integer);
    if (result.ec == std::errc() && result.ptr == digits.data() + digits.size()) return integer;
    number = parse_number(text->bytes);
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  if (std::fabs(*number) >= 9.2e18) fail("an integer does not fit 64 bits");
  return static_cast<std::int64_t>(*number);
}

Value to_float(const Call& call) {
  const auto bound = call.bind({"default"});
  if (const Undefined* undefined = std::get_if<Undefined>(&call.value)) fail(*undefined->why);
  double number = 0;
  if (as_number(call.value, number)) return number;
  const Text* text = as_text(call.value);
  const std::optional<double> parsed = text == nullptr ? std::nullopt : parse_number(text->bytes);
  return parsed ? Value(*parsed) : bound[0].value_or(0.0);
}

Value absolute(const Call& call) {
  call.bind({});
  double number = 0;
  if (!as_number(call.value, number)) fail(call.callee + " needs a number");
  std::int64_t storage = 0;
  const std::int64_t* integer = as_integer(call.value, storage);
  if (integer == nullptr) return std::fabs(number);
  return *integer < 0 ? negate(*integer) : Value(*integer);
}

Value indent(const Call& call) {
  const auto bound = call.bind({"width", "first", "blank"});
  Text margin = trusted_text("    ");
  if (bound[0]) {
    if (const Text* text = as_text(*bound[0])) {
      margin = *text;
    } else {
      const std::int64_t width = integer_argument(*bound[0], call.callee);
      if (width > 1000) fail("a width of " + call.callee + " above 1000 is not supported");
      margin = trusted_text(std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' '));
    }
  }
  Text text = text_argument(call.value, call.callee);
  text.append_trusted("\n");
  const std::vector<Span> lines = split_lines(text.bytes, false);
  if (margin.size() > 0 && lines.size() > kMaxTextBytes / margin.size()) fail("it makes a text of more than 16 MiB");
  call.context.budget.write(text.size() + lines.size() * margin.size());
  Text out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    // The line feed takes the trust of what ended the line.
    if (i > 0) out.append_as("\n", text.trusted[lines[i - 1].offset + lines[i - 1].length]);
    const bool is_indented = i == 0 ? flag(bound[1]) : flag(bound[2]) || lines[i].length > 0;
    if (is_indented) out.append(margin);
    out.append(text, lines[i].offset, lines[i].length);
  }
  return make_text(std::move(out));
}

// What map, select and the like run over: nothing for all that is false, even a number.
std::shared_ptr<const Sequence> iterate_if_true(const Call& call) {
  return iterate(is_true(call.value) ? call.value : make_undefined("nothing to run over"), call.context);
}

// The arguments after the first `count` positional ones.
Arguments without_first(const Arguments& arguments, std::size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

Value map(const Call& call) {
  const auto sequence = iterate_if_true(call);
  Items out;
  if (call.arguments.positional.empty()) {
    const auto bound = call.bind({"attribute", "default"});
    if (!bound[0]) fail(call.callee + " needs an attribute or the name of a filter");
    for (const Value& item : sequence->items) {
      Value value = look_up(item, *bound[0], call.context);
      out.push_back(is_undefined(value) && is_given(bound[1]) ? *bound[1] : std::move(value));
    }
  } else {
    const std::string name = text_argument(call.arguments.positional[0], call.callee).bytes;
    const Arguments rest = without_first(call.arguments, 1);
    for (const Value& item : sequence->items) out.push_back(apply_filter(name, item, rest, call.context));
  }
  return make_sequence(std::move(out), Sequence::Kind::Iterator, call.context);
}

// select, reject, selectattr and rejectattr.
Value select(const Call& call, bool by_attribute, bool keeps) {
  const Items& arguments = call.arguments.positional;
  const std::size_t test_at = by_attribute ? 1 : 0;
  if (arguments.size() < test_at) fail(call.callee + " needs the name of an attribute");
  std::optional<std::string> test;
  Arguments rest;
  if (arguments.size() > test_at) {
    test = text_argument(arguments[test_at], call.callee).bytes;
    rest = without_first(call.arguments, test_at + 1);
  }
  Items out;
  const auto sequence = iterate_if_true(call);
  for (const Value& item : sequence->items) {
    call.context.budget.take_steps();
    const Value tested = by_attribute ? look_up(item, arguments[0], call.context) : item;
    const bool is_match = test ? apply_test(*test, tested, rest, call.context) : is_true(tested);
    if (is_match == keeps) out.push_back(item);
  }
  return make_sequence(std::move(out), Sequence::Kind::Iterator, call.context);
}

}  // namespace

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Context& context) {
  context.budget.take_steps();
  const Call call{value, arguments, context, "filter '" + std::string(name) + "'"};
  if (name == "trim") return trim(call);
  if (name == "tojson") return write_json(value, arguments, context);
  if (name == "length" || name == "count") return length(call);
  if (name == "default" || name == "d") return default_value(call);
  if (name == "upper") return change_text_case(call, Case::Upper);
  if (name == "lower") return change_text_case(call, Case::Lower);
  if (name == "capitalize") return change_text_case(call, Case::Capitalized);
  if (name == "title") return title(call);
  if (name == "join") return join(call);
  if (name == "first" || name == "last") return first_or_last(call, name == "first");
  if (name == "replace") return replace(call);
  if (name == "list") return to_list(call);
  if (name == "items") return items_of(call);
  if (name == "dictsort") return dict_sort(call);
  if (name == "sort") return sort(call);
  if (name == "min") return smallest_or_largest(call, "<");
  if (name == "max") return smallest_or_largest(call, ">");
  if (name == "sum") return sum(call);
  if (name == "reverse") return reverse(call);
  if (name == "map") return map(call);
  if (name == "select" || name == "reject") return select(call, false, name == "select");
  if (name == "selectattr" || name == "rejectattr") return select(call, true, name == "selectattr");
  if (name == "int") return to_integer(call);
  if (name == "float") return to_float(call);
  if (name == "abs") return absolute(call);
  if (name == "indent") return indent(call);
  if (name == "string" || name == "safe") {
    call.bind({});
    return make_text(call.text());
  }
  fail("the filter '" + std::string(name) + "' is not supported");
}

}  // namespace tiercel::jinja
