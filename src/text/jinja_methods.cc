#include "text/jinja_methods.h"

#include <algorithm>
#include <limits>

#include "text/unicode_case.h"
#include "text/utf8.h"

namespace tiercel::jinja {
namespace {

constexpr std::int64_t kNoLimit = -1;

constexpr std::string_view kTextMethods[] = {
    "strip", "lstrip", "rstrip", "split", "rsplit",  "splitlines",   "startswith",   "endswith", "upper",
    "lower", "title",  "find",   "count", "replace", "removeprefix", "removesuffix", "join",     "capitalize",
};
constexpr std::string_view kMappingMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kUnsupportedTextMethods[] = {
    "casefold", "center",     "encode",    "expandtabs", "format",       "format_map", "index",     "isalnum",
    "isalpha",  "isascii",    "isdecimal", "isdigit",    "isidentifier", "islower",    "isnumeric", "isprintable",
    "isspace",  "istitle",    "isupper",   "ljust",      "maketrans",    "partition",  "rfind",     "rindex",
    "rjust",    "rpartition", "swapcase",  "translate",  "zfill",
};
constexpr std::string_view kUnsupportedMappingMethods[] = {"clear",   "copy",       "fromkeys", "pop",
                                                           "popitem", "setdefault", "update"};
constexpr std::string_view kUnsupportedSequenceMethods[] = {"append", "clear",  "copy", "count",   "extend", "index",
                                                            "insert", "remove", "pop",  "reverse", "sort"};

template <class Names>
std::string_view find_name(const Names& names, std::string_view name) {
  const auto* found = std::find(std::begin(names), std::end(names), name);
  return found == std::end(names) ? std::string_view() : *found;
}

// The most pieces to cut off; negative: no limit.
std::int64_t limit_argument(const std::optional<Value>& value, std::string_view callee) {
  return value ? integer_argument(*value, callee) : kNoLimit;
}

std::size_t pieces_left(std::int64_t limit) {
  return limit < 0 ? std::numeric_limits<std::size_t>::max() : static_cast<std::size_t>(limit);
}

std::vector<Span> split_at_spaces(std::string_view text, std::int64_t limit) {
  std::vector<Span> pieces;
  std::size_t left = pieces_left(limit);
  std::size_t position = 0;
  for (;;) {
    const Span rest = stripped(text.substr(position), {.left = true, .right = false});
    if (rest.length == 0) return pieces;
    const std::size_t begin = position + rest.offset;
    if (left-- == 0) {
      pieces.push_back({begin, text.size() - begin});
      return pieces;
    }
    std::size_t end = begin;
    while (end < text.size()) {
      const Utf8Start start = read_utf8(text.substr(end));
      if (start.kind == Utf8Start::Kind::Character && is_space(start.code_point)) break;
      end += character_length(text, end);
    }
    pieces.push_back({begin, end - begin});
    position = end;
  }
}

std::vector<Span> split_at(std::string_view text, std::string_view separator, std::int64_t limit) {
  std::vector<Span> pieces;
  std::size_t left = pieces_left(limit);
  std::size_t begin = 0;
  while (left-- > 0) {
    const std::size_t end = find_text(text, separator, begin);
    if (end == std::string_view::npos) break;
    pieces.push_back({begin, end - begin});
    begin = end + separator.size();
  }
  pieces.push_back({begin, text.size() - begin});
  return pieces;
}

// What is between the places where replace("", ...) inserts: before each character and at the end, `limit` at most.
std::vector<Span> split_everywhere(std::string_view text, std::int64_t limit, Context& context) {
  if (limit == 0) return {{0, text.size()}};
  std::vector<Span> pieces = {{0, 0}};
  std::size_t position = 0;
  for (std::size_t left = pieces_left(limit) - 1; left > 0 && position < text.size(); --left) {
    context.budget.take_steps();
    const std::size_t length = character_length(text, position);
    pieces.push_back({position, length});
    position += length;
  }
  pieces.push_back({position, text.size() - position});
  return pieces;
}

std::vector<Span> split_at_from_right(std::string_view text, std::string_view separator, std::int64_t limit) {
  std::vector<Span> pieces;
  std::size_t end = text.size();
  for (std::size_t left = pieces_left(limit); left > 0 && end >= separator.size(); --left) {
    const std::size_t found = text.substr(0, end).rfind(separator);
    if (found == std::string_view::npos) break;
    pieces.push_back({found + separator.size(), end - found - separator.size()});
    end = found;
  }
  pieces.push_back({0, end});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

Value list_of(const Text& text, const std::vector<Span>& spans, Context& context) {
  std::vector<Value> items;
  for (const Span& span : spans) items.push_back(make_text(text.slice(span.offset, span.length)));
  return make_sequence(std::move(items), Sequence::Kind::List, context);
}

Value split(const Text& text, const Arguments& arguments, bool from_right, Context& context) {
  const std::string_view callee = from_right ? "'rsplit'" : "'split'";
  const auto bound = bind_arguments(arguments, callee, {"sep", "maxsplit"});
  const std::int64_t limit = limit_argument(bound[1], callee);
  context.budget.write(text.size());
  if (!bound[0] || is_none(*bound[0])) {
    if (from_right && limit >= 0) fail("'rsplit' by white space with a limit is not supported");
    return list_of(text, split_at_spaces(text.bytes, limit), context);
  }
  const Text& separator = text_argument(*bound[0], callee);
  if (separator.empty()) fail("the separator is empty");
  if (from_right && separator.size() > 64) fail("'rsplit' with a separator of more than 64 bytes is not supported");
  return list_of(text,
                 from_right && limit >= 0 ? split_at_from_right(text.bytes, separator.bytes, limit)
                                          : split_at(text.bytes, separator.bytes, limit),
                 context);
}

Value strip(const Text& text, std::string_view name, const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments(arguments, name, {"chars"});
  const Sides sides{.left = name != "rstrip", .right = name != "lstrip"};
  Span span{};
  if (bound[0] && !is_none(*bound[0])) {
    const std::string_view characters = text_argument(*bound[0], name).bytes;
    context.budget.read(text.size() * std::min<std::size_t>(characters.size(), 64));
    if (characters.size() > 64) fail("'" + std::string(name) + "' of more than 64 bytes is not supported");
    span = stripped(text.bytes, sides, &characters);
  } else {
    span = stripped(text.bytes, sides);
  }
  context.budget.write(span.length);
  return make_text(text.slice(span.offset, span.length));
}

bool has_affix(const Text& text, const Text& affix, bool at_start, Context& context) {
  context.budget.read(affix.size());
  return at_start ? text.bytes.starts_with(affix.bytes) : text.bytes.ends_with(affix.bytes);
}

Value test_affix(const Text& text, std::string_view name, const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments(arguments, name, {"prefix"});
  if (!bound[0]) fail("'" + std::string(name) + "' needs an argument");
  const bool at_start = name == "startswith";
  const Sequence* choices = as_sequence(*bound[0]);
  if (choices == nullptr || choices->kind != Sequence::Kind::Tuple) {
    return has_affix(text, text_argument(*bound[0], name), at_start, context);
  }
  return std::any_of(choices->items.begin(), choices->items.end(), [&](const Value& choice) {
    context.budget.take_steps();
    return has_affix(text, text_argument(choice, name), at_start, context);
  });
}

Value remove_affix(const Text& text, std::string_view name, const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments(arguments, name, {"prefix"});
  if (!bound[0]) fail("'" + std::string(name) + "' needs an argument");
  const Text& affix = text_argument(*bound[0], name);
  const bool at_start = name == "removeprefix";
  const std::size_t length = has_affix(text, affix, at_start, context) ? affix.size() : 0;
  context.budget.write(text.size());
  return make_text(text.slice(at_start ? length : 0, text.size() - length));
}

Value find_or_count(const Text& text, std::string_view name, const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments(arguments, name, {"sub"});
  if (!bound[0]) fail("'" + std::string(name) + "' needs an argument");
  const Text& needle = text_argument(*bound[0], name);
  context.budget.read(text.size() + needle.size());
  if (name == "find") {
    const std::size_t found = needle.empty() ? 0 : find_text(text.bytes, needle.bytes, 0);
    if (found == std::string_view::npos) return std::int64_t{-1};
    return static_cast<std::int64_t>(count_characters(std::string_view(text.bytes).substr(0, found)));
  }
  if (needle.empty()) return static_cast<std::int64_t>(count_characters(text.bytes)) + 1;
  return static_cast<std::int64_t>(split_at(text.bytes, needle.bytes, kNoLimit).size()) - 1;
}

Value join(const Text& separator, const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments(arguments, "'join'", {"iterable"});
  if (!bound[0]) fail("'join' needs an argument");
  Text out;
  bool is_first = true;
  const auto sequence = iterate(*bound[0], context);
  for (const Value& item : sequence->items) {
    const Text& text = text_argument(item, "'join'");
    context.budget.write(text.size() + separator.size());
    if (!std::exchange(is_first, false)) out.append(separator);
    out.append(text);
    if (out.size() > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
  }
  return make_text(std::move(out));
}

bool starts_with_letter(std::string_view text) {
  if (text.empty()) return false;
  const Utf8Start start = read_utf8(text);
  return start.kind == Utf8Start::Kind::Character && is_cased(start.code_point);
}

Value call_text_method(const Text& text, std::string_view name, const Arguments& arguments, Context& context) {
  if (name.ends_with("strip")) return strip(text, name, arguments, context);
  if (name == "split" || name == "rsplit") return split(text, arguments, name == "rsplit", context);
  if (name == "startswith" || name == "endswith") return test_affix(text, name, arguments, context);
  if (name == "removeprefix" || name == "removesuffix") return remove_affix(text, name, arguments, context);
  if (name == "find" || name == "count") return find_or_count(text, name, arguments, context);
  if (name == "join") return join(text, arguments, context);
  if (name == "splitlines") {
    const auto bound = bind_arguments(arguments, "'splitlines'", {"keepends"});
    context.budget.write(text.size());
    return list_of(text, split_lines(text.bytes, bound[0] && is_true(*bound[0])), context);
  }
  if (name == "replace") {
    const auto bound = bind_arguments(arguments, "'replace'", {"old", "new", "count"});
    if (!bound[0] || !bound[1]) fail("'replace' needs two arguments");
    return make_text(replace_text(text, text_argument(*bound[0], "'replace'"), text_argument(*bound[1], "'replace'"),
                                  limit_argument(bound[2], "'replace'"), context));
  }
  bind_arguments(arguments, name, {});
  const Case to = name == "upper"   ? Case::Upper
                  : name == "lower" ? Case::Lower
                  : name == "title" ? Case::Title
                                    : Case::Capitalized;
  return make_text(change_case(text, to, context));
}

Value call_mapping_method(const Mapping& mapping, std::string_view name, const Arguments& arguments, Context& context) {
  if (name == "get") {
    const auto bound = bind_arguments(arguments, "'get'", {"key", "default"});
    if (!bound[0]) fail("'get' needs an argument");
    if (const Value* found = find_key(mapping, *bound[0], context)) return *found;
    return bound[1].value_or(None{});
  }
  bind_arguments(arguments, name, {});
  std::vector<Value> items;
  for (const auto& [key, item] : mapping.items) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(item);
    } else {
      items.push_back(make_sequence({key, item}, Sequence::Kind::Tuple, context));
    }
  }
  return make_sequence(std::move(items), Sequence::Kind::View, context);
}

}  // namespace

std::string_view find_method(const Value& value, std::string_view name) {
  std::string_view found;
  std::string_view unsupported;
  if (as_text(value) != nullptr) {
    found = find_name(kTextMethods, name);
    unsupported = find_name(kUnsupportedTextMethods, name);
  } else if (as_mapping(value) != nullptr) {
    found = find_name(kMappingMethods, name);
    unsupported = find_name(kUnsupportedMappingMethods, name);
  } else if (as_sequence(value) != nullptr) {
    unsupported = find_name(kUnsupportedSequenceMethods, name);
  }
  if (!unsupported.empty()) {
    fail("the " + std::string(type_name(value)) + " method '" + std::string(name) + "' is not supported");
  }
  return found;
}

Value call_method(const Value& value, std::string_view name, const Arguments& arguments, Context& context) {
  if (const Text* text = as_text(value)) return call_text_method(*text, name, arguments, context);
  return call_mapping_method(*as_mapping(value), name, arguments, context);
}

Text change_case(const Text& text, Case to, Context& context) {
  context.budget.write(text.size() * 3);
  Text out;
  bool after_letter = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = character_length(text.bytes, i);
    const Utf8Start start = read_utf8(std::string_view(text.bytes).substr(i));
    if (start.kind != Utf8Start::Kind::Character) {
      out.append(text, i, length);
      after_letter = false;
    } else {
      const bool is_start = to == Case::Title ? !after_letter : i == 0;
      std::string mapped;
      if (to == Case::Upper) {
        append_upper(start.code_point, mapped);
      } else if (to == Case::Lower || !is_start) {
        append_lower(start.code_point, mapped);
      } else {
        append_title(start.code_point, mapped);
      }
      // The one rule that looks at the neighbours: a capital sigma at the end of a word.
      const bool is_sigma = start.code_point == 0x3A3 && mapped == "\u03C3" && after_letter;
      if (is_sigma && !starts_with_letter(std::string_view(text.bytes).substr(i + length))) mapped = "\u03C2";
      out.append_as(mapped, text.trusted[i]);
      after_letter = is_cased(start.code_point);
    }
    i += length;
  }
  return out;
}

Text replace_text(const Text& text, const Text& old_text, const Text& new_text, std::int64_t count, Context& context) {
  context.budget.read(text.size() + old_text.size());
  const std::vector<Span> pieces =
      old_text.empty() ? split_everywhere(text.bytes, count, context) : split_at(text.bytes, old_text.bytes, count);
  if (new_text.size() > 0 && pieces.size() > kMaxTextBytes / new_text.size())
    fail("it makes a text of more than 16 MiB");
  context.budget.write(text.size() + (pieces.size() - 1) * new_text.size());
  Text out;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) out.append(new_text);
    out.append(text, pieces[i].offset, pieces[i].length);
  }
  return out;
}

std::vector<Span> split_lines(std::string_view text, bool keeps_ends) {
  std::vector<Span> lines;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = character_length(text, i);
    const Utf8Start start = read_utf8(text.substr(i));
    const char32_t c = start.kind == Utf8Start::Kind::Character ? start.code_point : 0;
    const bool is_end = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (c == '\r' && text.substr(i + 1).starts_with("\n")) length = 2;
    if (is_end) lines.push_back({begin, i - begin + (keeps_ends ? length : 0)});
    i += length;
    if (is_end) begin = i;
  }
  if (begin < text.size()) lines.push_back({begin, text.size() - begin});
  return lines;
}

}  // namespace tiercel::jinja
