#include "text/jinja_functions.h"

#include <clocale>  // newlocale, for strftime_l of <ctime>

#include <algorithm>
#include <array>

namespace tiercel::jinja {
namespace {

constexpr std::int64_t kMaxRange = 100'000;  // jinja2's sandbox has the same limit
constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};

Value make_range(const Arguments& arguments, Context& context) {
  const auto bound = bind_arguments({.positional = arguments.positional}, "'range'", {"start", "stop", "step"});
  if (!bound[0] || !arguments.named.empty()) fail("'range' needs one to three integers");
  std::array<std::int64_t, 3> numbers = {0, 0, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    if (bound[i]) numbers[i] = integer_argument(*bound[i], "'range'");
  }
  if (!bound[1]) numbers = {0, numbers[0], 1};
  const auto [start, stop, step] = numbers;
  if (step == 0) fail("the step of a range is zero");
  std::vector<Value> items;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<std::int64_t>(items.size()) == kMaxRange) fail("a range has more than 100,000 items");
    items.push_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_sequence(std::move(items), Sequence::Kind::List, context);
}

// Named arguments, after the items of the one positional argument, which is a dict.
std::vector<std::pair<Value, Value>> collect(std::string_view callee, const Arguments& arguments, Context& context) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) fail(std::string(callee) + " is given too many arguments");
  if (arguments.positional.size() == 1) {
    const Mapping* mapping = as_mapping(arguments.positional[0]);
    if (mapping == nullptr) fail(std::string(callee) + " of anything but a dict is not supported");
    items = mapping->items;
  }
  for (const auto& [name, value] : arguments.named) {
    const Value key = make_trusted(name);
    const auto same =
        std::find_if(items.begin(), items.end(), [&](const auto& item) { return is_equal(item.first, key, context); });
    if (same != items.end()) {
      same->second = value;
    } else {
      items.emplace_back(key, value);
    }
  }
  return items;
}

Value make_namespace(const Arguments& arguments, Context& context) {
  Namespace& space = context.namespaces.emplace_back();
  for (auto& [key, value] : collect("'namespace'", arguments, context)) {
    space.attributes[text_argument(key, "'namespace'").bytes] = value;
  }
  return &space;
}

Value format_now(const Arguments& arguments, const std::function<std::tm()>& local_time) {
  const auto bound = bind_arguments(arguments, "'strftime_now'", {"format"});
  if (!bound[0]) fail("'strftime_now' needs a format");
  const std::string& format = text_argument(*bound[0], "'strftime_now'").bytes;
  if (format.size() > 200) fail("a date format of more than 200 bytes is not supported");
  for (std::size_t i = format.find('%'); i != std::string::npos; i = format.find('%', i)) {
    ++i;
    if (i < format.size() && format[i] == '-') ++i;
    static constexpr std::string_view kKnown = "aAbBcdDeFgGhHIjklmMnprRSStTuUVwWxXyYzZ%";
    if (i == format.size() || kKnown.find(format[i]) == std::string_view::npos) {
      fail("the date format '" + format + "' is not supported");
    }
    ++i;
  }
  if (format.empty()) return make_trusted("");
  // Month names must not depend on the locale that the embedding program has set.
  const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  if (c_locale == nullptr) fail("the C locale is not available");
  std::array<char, 8192> buffer{};
  const std::tm time = local_time();
  const std::size_t length = strftime_l(buffer.data(), buffer.size(), format.c_str(), &time, c_locale);
  freelocale(c_locale);
  return make_trusted({buffer.data(), length});
}

}  // namespace

std::string_view find_function(std::string_view name) {
  if (name == "lipsum" || name == "cycler" || name == "joiner") {
    fail("the function '" + std::string(name) + "' is not supported");
  }
  const auto* found = std::find(std::begin(kFunctions), std::end(kFunctions), name);
  return found == std::end(kFunctions) ? std::string_view() : *found;
}

Value call_function(std::string_view name, const Arguments& arguments, const std::function<std::tm()>& local_time,
                    Context& context) {
  if (name == "range") return make_range(arguments, context);
  if (name == "namespace") return make_namespace(arguments, context);
  if (name == "dict") return make_mapping(collect("'dict'", arguments, context), context);
  if (name == "strftime_now") return format_now(arguments, local_time);
  const auto bound = bind_arguments(arguments, "'raise_exception'", {"message"});
  throw Error{.message = bound[0] ? to_text(*bound[0], context).bytes : "", .is_refusal = true};
}

}  // namespace tiercel::jinja
