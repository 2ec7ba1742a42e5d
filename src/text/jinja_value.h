// Values of a chat template while it runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tiercel::jinja {

// Text whose bytes know where they came from: trusted[i] is '\1' for the template's own, '\0' for a message's.
struct Text {
  std::string bytes;
  std::string trusted;

  static Text of(std::string_view text, bool is_trusted) {
    return {std::string(text), std::string(text.size(), is_trusted ? '\1' : '\0')};
  }
  Text substr(std::size_t first, std::size_t count = std::string::npos) const {
    return {bytes.substr(first, count), trusted.substr(first, count)};
  }
  Text& operator+=(const Text& other) {
    bytes += other.bytes;
    trusted += other.trusted;
    return *this;
  }
};

struct Macro;  // a node of the template
class Value;
using List = std::vector<Value>;
using Entries = std::vector<std::pair<std::string, Value>>;  // in order of insertion

class Value {
 public:
  struct Undefined {
    std::string name;
  };
  struct None {};
  struct Function {
    std::string name;
    const Macro* macro = nullptr;
  };

  Value() : held_(Undefined{}) {}
  template <class Held>
  requires(!std::is_same_v<std::decay_t<Held>, Value>) Value(Held held)
      : held_(std::move(held)) {}  // NOLINT: implicit by design
  static Value text(Text text) { return Value(std::make_shared<const Text>(std::move(text))); }
  static Value text(std::string_view text) { return Value::text(Text::of(text, true)); }
  static Value list(List list) { return Value(std::make_shared<List>(std::move(list))); }
  static Value dict(Entries entries) { return Value(std::make_shared<Entries>(std::move(entries))); }

  template <class Held>
  const Held* as() const {
    return std::get_if<Held>(&held_);
  }
  bool is_undefined() const { return as<Undefined>(); }
  bool is_none() const { return as<None>(); }
  const Text* as_text() const {
    const auto* held = as<std::shared_ptr<const Text>>();
    return held ? held->get() : nullptr;
  }
  List* as_list() const {
    const auto* held = as<std::shared_ptr<List>>();
    return held ? held->get() : nullptr;
  }
  Entries* as_dict() const {
    const auto* held = as<std::shared_ptr<Entries>>();
    return held ? held->get() : nullptr;
  }
  // Bools count as 0 and 1, as in Python.
  bool as_integer(std::int64_t& number) const;
  bool as_number(double& number) const;

  bool truthy() const;
  std::string_view kind() const;  // "string", "list", ..., for messages
  // As Python's str() shows it; undefined is empty.
  Text str() const;
  std::string repr() const;
  // As json.dumps(ensure_ascii=False) shows it.
  std::string json(int indent, int depth = 0) const;

 private:
  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<List>,
               std::shared_ptr<Entries>, Function>
      held_;
};

bool equal(const Value& a, const Value& b);
const Value* find(const Entries& entries, std::string_view key);
void assign(Entries& entries, std::string_view key, Value value);

}  // namespace tiercel::jinja
