#include "text/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "text/jinja_arguments.h"
#include "text/jinja_methods.h"

namespace tiercel::jinja {
namespace {

void check_defined(const Value& value) {
  if (const Undefined* undefined = std::get_if<Undefined>(&value)) fail(*undefined->why);
}

[[noreturn]] void unsupported_operands(std::string_view operation, const Value& a, const Value& b) {
  fail("'" + std::string(operation) + "' of " + std::string(type_name(a)) + " and " + std::string(type_name(b)) +
       " is not supported");
}

[[noreturn]] void overflow() { fail("an integer does not fit 64 bits"); }

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (b == -1 && a == std::numeric_limits<std::int64_t>::min()) overflow();
  const std::int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

Value integer_power(std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fail("division by zero");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  if (base == 0 || base == 1) return exponent == 0 ? std::int64_t{1} : base;
  if (base == -1) return exponent % 2 == 0 ? std::int64_t{1} : std::int64_t{-1};
  std::int64_t result = 1;
  // A base of two or more overflows within 64 rounds.
  for (std::int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) overflow();
  }
  return result;
}

Value calculate_integers(std::string_view operation, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool is_overflow = false;
  if (operation == "+") {
    is_overflow = __builtin_add_overflow(a, b, &result);
  } else if (operation == "-") {
    is_overflow = __builtin_sub_overflow(a, b, &result);
  } else if (operation == "*") {
    is_overflow = __builtin_mul_overflow(a, b, &result);
  } else if (operation == "**") {
    return integer_power(a, b);
  } else {
    if (b == 0) fail("division by zero");
    if (operation == "/") return static_cast<double>(a) / static_cast<double>(b);
    if (operation == "//") return floor_divide(a, b);
    return b == -1 ? std::int64_t{0} : a - floor_divide(a, b) * b;
  }
  if (is_overflow) overflow();
  return result;
}

Value calculate_floats(std::string_view operation, double a, double b) {
  if (operation == "+") return a + b;
  if (operation == "-") return a - b;
  if (operation == "*") return a * b;
  if (operation == "**") {
    if (a == 0 && b < 0) fail("division by zero");
    if (a < 0 && b != std::floor(b)) fail("a complex number is not supported");
    const double power = std::pow(a, b);
    if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) fail("the result of '**' is too large");
    return power;
  }
  if (b == 0) fail("division by zero");
  if (operation == "/") return a / b;
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (remainder == 0) remainder = std::copysign(0.0, b);
  if (operation == "%") return remainder;
  const double quotient = (a - remainder) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value repeat(const Value& value, std::int64_t count, Context& context) {
  const std::size_t times = count < 0 ? 0 : static_cast<std::size_t>(count);
  if (const Text* text = as_text(value)) {
    if (text->size() > 0 && times > kMaxTextBytes / text->size()) fail("it makes a text of more than 16 MiB");
    context.budget.write(text->size() * times);
    Text out;
    for (std::size_t i = 0; i < times && !text->empty(); ++i) out.append(*text);
    return make_text(std::move(out));
  }
  const Sequence& sequence = *as_sequence(value);
  std::vector<Value> items;
  for (std::size_t i = 0; i < times && !sequence.items.empty(); ++i) {
    context.budget.take_steps(sequence.items.size());
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return make_sequence(std::move(items), sequence.kind, context);
}

bool is_repeatable(const Value& value) {
  const Sequence* sequence = as_sequence(value);
  return as_text(value) != nullptr ||
         (sequence != nullptr && (sequence->kind == Sequence::Kind::List || sequence->kind == Sequence::Kind::Tuple));
}

// -1, 0 or 1; nothing where the two have no order (NaN).
std::optional<int> order(std::string_view operation, const Value& a, const Value& b, Context& context) {
  context.budget.take_steps();
  std::int64_t storage_a = 0;
  std::int64_t storage_b = 0;
  const std::int64_t* integer_a = as_integer(a, storage_a);
  const std::int64_t* integer_b = as_integer(b, storage_b);
  if (integer_a != nullptr && integer_b != nullptr) return (*integer_a > *integer_b) - (*integer_a < *integer_b);
  double number_a = 0;
  double number_b = 0;
  if (as_number(a, number_a) && as_number(b, number_b)) {
    if (std::isnan(number_a) || std::isnan(number_b)) return std::nullopt;
    return (number_a > number_b) - (number_a < number_b);
  }
  if (a.index() != b.index()) unsupported_operands(operation, a, b);
  if (const Text* text = as_text(a)) {
    context.budget.read(std::min(text->size(), as_text(b)->size()));
    // The order of UTF-8 bytes is the order of code points.
    const int result = text->bytes.compare(as_text(b)->bytes);
    return (result > 0) - (result < 0);
  }
  const Sequence* left = as_sequence(a);
  if (left == nullptr || left->kind != as_sequence(b)->kind || !is_repeatable(a)) unsupported_operands(operation, a, b);
  const Sequence* right = as_sequence(b);
  for (std::size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
    if (!is_equal(left->items[i], right->items[i], context)) {
      return order(operation, left->items[i], right->items[i], context);
    }
  }
  return (left->items.size() > right->items.size()) - (left->items.size() < right->items.size());
}

Value loop_attribute(const Loop& loop, std::string_view name) {
  const auto size = static_cast<std::int64_t>(loop.sequence->items.size());
  const auto index = static_cast<std::int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == size;
  if (name == "length") return size;
  // They count recursion, which is not supported.
  if (name == "depth") return std::int64_t{1};
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem") {
    return index == 0 ? make_undefined("there is no previous item") : loop.sequence->items[loop.index - 1];
  }
  if (name == "nextitem") {
    return index + 1 == size ? make_undefined("there is no next item") : loop.sequence->items[loop.index + 1];
  }
  if (name == "cycle" || name == "changed") fail("'loop." + std::string(name) + "' can only be called");
  return make_undefined("'loop' has no attribute '" + std::string(name) + "'");
}

Value no_attribute(const Value& object, std::string_view name) {
  const std::string type(type_name(object));
  return make_undefined("'" + type + "' object has no attribute '" + std::string(name) + "'");
}

struct SliceBounds {
  std::int64_t begin;
  std::int64_t step;
  std::size_t count;
};

std::int64_t slice_index(const Value& value) { return integer_argument(value, "a slice"); }

SliceBounds slice_bounds(std::int64_t size, const Value& begin, const Value& end, const Value& step) {
  const std::int64_t by = is_none(step) ? 1 : slice_index(step);
  if (by == 0) fail("the step of a slice is zero");
  // Where an index ends up that lies beyond either side.
  const std::int64_t low = by > 0 ? 0 : -1;
  const std::int64_t high = by > 0 ? size : size - 1;
  const auto clamp = [&](const Value& value, std::int64_t otherwise) {
    if (is_none(value)) return otherwise;
    std::int64_t index = slice_index(value);
    if (index < 0) index = index < -size ? -1 - size : index + size;
    return index < 0 ? low : std::min(index, high);
  };
  const std::int64_t from = clamp(begin, by > 0 ? low : high);
  const std::int64_t to = clamp(end, by > 0 ? high : low);
  const std::int64_t distance = by > 0 ? to - from : from - to;
  // Steps beyond the size are as good as the size, and cannot overflow.
  const std::int64_t stride = std::clamp<std::int64_t>(by, -size - 1, size + 1);
  const std::int64_t count = distance <= 0 ? 0 : (distance - 1) / std::abs(stride) + 1;
  return {from, stride, static_cast<std::size_t>(count)};
}

}  // namespace

Value calculate(std::string_view operation, const Value& a, const Value& b, Context& context) {
  check_defined(a);
  check_defined(b);
  std::int64_t storage_a = 0;
  std::int64_t storage_b = 0;
  const std::int64_t* integer_a = as_integer(a, storage_a);
  const std::int64_t* integer_b = as_integer(b, storage_b);
  if (integer_a != nullptr && integer_b != nullptr) return calculate_integers(operation, *integer_a, *integer_b);
  double number_a = 0;
  double number_b = 0;
  if (as_number(a, number_a) && as_number(b, number_b)) return calculate_floats(operation, number_a, number_b);
  if (operation == "*" && integer_b != nullptr && is_repeatable(a)) return repeat(a, *integer_b, context);
  if (operation == "*" && integer_a != nullptr && is_repeatable(b)) return repeat(b, *integer_a, context);
  if (operation == "%" && as_text(a) != nullptr) fail("formatting a string with '%' is not supported");
  if (operation != "+" || a.index() != b.index()) unsupported_operands(operation, a, b);
  if (const Text* text = as_text(a)) {
    context.budget.write(text->size() + as_text(b)->size());
    Text out = *text;
    out.append(*as_text(b));
    return make_text(std::move(out));
  }
  if (!is_repeatable(a) || as_sequence(a)->kind != as_sequence(b)->kind) unsupported_operands(operation, a, b);
  std::vector<Value> items = as_sequence(a)->items;
  items.insert(items.end(), as_sequence(b)->items.begin(), as_sequence(b)->items.end());
  return make_sequence(std::move(items), as_sequence(a)->kind, context);
}

Value negate(const Value& value) {
  check_defined(value);
  std::int64_t storage = 0;
  if (const std::int64_t* integer = as_integer(value, storage)) {
    if (*integer == std::numeric_limits<std::int64_t>::min()) overflow();
    return -*integer;
  }
  if (const double* number = std::get_if<double>(&value)) return -*number;
  fail("'-' of " + std::string(type_name(value)) + " is not supported");
}

bool compare(std::string_view operation, const Value& a, const Value& b, Context& context) {
  if (operation == "==") return is_equal(a, b, context);
  if (operation == "!=") return !is_equal(a, b, context);
  check_defined(a);
  check_defined(b);
  const std::optional<int> result = order(operation, a, b, context);
  if (!result) return false;
  if (operation == "<") return *result < 0;
  if (operation == "<=") return *result <= 0;
  if (operation == ">") return *result > 0;
  return *result >= 0;
}

bool contains(const Value& container, const Value& item, Context& context) {
  if (const Text* text = as_text(container)) {
    check_defined(item);
    const Text& needle = text_argument(item, "'in' a string");
    if (needle.empty()) return true;
    context.budget.read(text->size() + needle.size());
    return find_text(text->bytes, needle.bytes, 0) != std::string_view::npos;
  }
  if (const Mapping* mapping = as_mapping(container)) {
    check_key(item);
    return find_key(*mapping, item, context) != nullptr;
  }
  const auto sequence = iterate(container, context);
  return std::any_of(sequence->items.begin(), sequence->items.end(),
                     [&](const Value& candidate) { return is_equal(candidate, item, context); });
}

Value get_attribute(const Value& object, std::string_view name, Context& context) {
  check_defined(object);
  if (Namespace* const* space = std::get_if<Namespace*>(&object)) {
    const auto found = (*space)->attributes.find(std::string(name));
    return found == (*space)->attributes.end() ? no_attribute(object, name) : found->second;
  }
  if (const auto* loop = std::get_if<std::shared_ptr<const Loop>>(&object)) return loop_attribute(**loop, name);
  if (const std::string_view method = find_method(object, name); !method.empty()) return Callable{method};
  if (const Mapping* mapping = as_mapping(object)) {
    if (const Value* found = find_key(*mapping, make_trusted(name), context)) return *found;
  }
  return no_attribute(object, name);
}

Value get_item(const Value& object, const Value& key, Context& context) {
  check_defined(object);
  check_defined(key);
  if (const Mapping* mapping = as_mapping(object)) {
    if (const Value* found = find_key(*mapping, key, context)) return *found;
  }
  if (const Text* name = as_text(key)) {
    if (as_mapping(object) == nullptr) return get_attribute(object, name->bytes, context);
    const std::string_view method = find_method(object, name->bytes);
    return method.empty() ? no_attribute(object, name->bytes) : Value(Callable{method});
  }
  std::int64_t storage = 0;
  const std::int64_t* integer = as_integer(key, storage);
  const bool is_indexed = is_repeatable(object);
  if (integer == nullptr || !is_indexed) return make_undefined(std::string(type_name(object)) + " has no such element");
  std::vector<std::size_t> offsets;
  if (const Text* text = as_text(object)) {
    context.budget.read(text->size());
    offsets = character_offsets(text->bytes);
  }
  const auto size = static_cast<std::int64_t>(offsets.empty() ? as_sequence(object)->items.size() : offsets.size() - 1);
  const std::int64_t index = *integer < 0 ? *integer + size : *integer;
  if (index < 0 || index >= size) {
    return make_undefined(std::string(type_name(object)) + " object has no element " + std::to_string(*integer));
  }
  const auto i = static_cast<std::size_t>(index);
  if (offsets.empty()) return as_sequence(object)->items[i];
  return make_text(as_text(object)->slice(offsets[i], offsets[i + 1] - offsets[i]));
}

Value slice(const Value& object, const Value& begin, const Value& end, const Value& step, Context& context) {
  check_defined(object);
  if (!is_repeatable(object)) return make_undefined(std::string(type_name(object)) + " has no such element");
  if (const Text* text = as_text(object)) {
    context.budget.write(text->size());
    const std::vector<std::size_t> offsets = character_offsets(text->bytes);
    const SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(offsets.size() - 1), begin, end, step);
    Text out;
    for (std::size_t i = 0; i < bounds.count; ++i) {
      const auto at = static_cast<std::size_t>(bounds.begin + static_cast<std::int64_t>(i) * bounds.step);
      out.append(*text, offsets[at], offsets[at + 1] - offsets[at]);
    }
    return make_text(std::move(out));
  }
  const Sequence& sequence = *as_sequence(object);
  const SliceBounds bounds = slice_bounds(static_cast<std::int64_t>(sequence.items.size()), begin, end, step);
  std::vector<Value> items;
  for (std::size_t i = 0; i < bounds.count; ++i) {
    items.push_back(
        sequence.items[static_cast<std::size_t>(bounds.begin + static_cast<std::int64_t>(i) * bounds.step)]);
  }
  return make_sequence(std::move(items), sequence.kind, context);
}

}  // namespace tiercel::jinja
