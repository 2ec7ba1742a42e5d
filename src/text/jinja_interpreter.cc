#include "text/jinja_interpreter.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>

#include <fmt/format.h>

#include "text/jinja_functions.h"

namespace tiercel::jinja {
namespace {

using Kind = Expression::Kind;

enum class Flow { Normal, Break, Continue };

class Interpreter {
 public:
  Interpreter(Entries variables, const Limits& limits) : limits_(limits) { scopes_.push_back(std::move(variables)); }

  Result<Text> run(const Block& block) {
    Text out;
    execute(block, out);
    if (!status_.ok()) return status_;
    return out;
  }

 private:
  bool failed() const { return !status_.ok(); }
  Value fail(const std::string& what, int line) {
    if (!failed()) status_ = Status::invalid_argument(fmt::format("line {}: {}", line, what));
    return {};
  }
  // False once a limit is passed.
  bool step(int line) {
    if (++steps_ > limits_.steps) fail("the template takes too many steps", line);
    return !failed();
  }
  void append(Text& out, const Text& text, int line) {
    if (out.bytes.size() + text.bytes.size() > limits_.output_bytes)
      return static_cast<void>(fail("the result is too long", line));
    out += text;
  }

  const Value* lookup(std::string_view name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const Value* value = find(*scope, name)) return value;
    }
    return nullptr;
  }

  Flow execute(const Block& block, Text& out) {
    if (++depth_ > limits_.depth) fail("nested too deeply", block.empty() ? 0 : block.front().line);
    Flow flow = Flow::Normal;
    for (const Statement& statement : block) {
      if (!step(statement.line)) break;
      flow = execute(statement, out);
      if (flow != Flow::Normal) break;
    }
    --depth_;
    return flow;
  }

  Flow execute(const Statement& s, Text& out) {
    switch (s.kind) {
      case Statement::Kind::Data: append(out, Text::of(s.text, true), s.line); break;
      case Statement::Kind::Print: append(out, evaluate(*s.expression).str(), s.line); break;
      case Statement::Kind::If:
        for (const auto& [condition, body] : s.branches) {
          if (!condition || evaluate(*condition).truthy()) return failed() ? Flow::Normal : execute(body, out);
        }
        break;
      case Statement::Kind::For: return execute_for(s, out);
      case Statement::Kind::Set: execute_set(s); break;
      case Statement::Kind::SetBlock: {
        Text text;
        execute(s.body, text);
        assign(scopes_.back(), s.names.front(), Value::text(std::move(text)));
        break;
      }
      case Statement::Kind::Macro: assign(scopes_.back(), s.text, Value::Function{s.text, s.macro.get()}); break;
      case Statement::Kind::Filter: {
        Text text;
        execute(s.body, text);
        scopes_.push_back({{"<body>", Value::text(std::move(text))}});
        append(out, evaluate(*s.expression).str(), s.line);
        scopes_.pop_back();
        break;
      }
      case Statement::Kind::Break: return Flow::Break;
      case Statement::Kind::Continue: return Flow::Continue;
    }
    return Flow::Normal;
  }

  void execute_set(const Statement& s) {
    Value value = evaluate(*s.expression);
    if (failed()) return;
    if (!s.text.empty()) {
      const Value* holder = lookup(s.names.front());
      if (!holder || !holder->as_dict())
        return static_cast<void>(fail(fmt::format("'{}' is not a namespace", s.names.front()), s.line));
      return assign(*holder->as_dict(), s.text, std::move(value));
    }
    if (s.names.size() == 1) return assign(scopes_.back(), s.names.front(), std::move(value));
    unpack(s.names, value, s.line);
  }
  void unpack(const std::vector<std::string>& names, const Value& value, int line) {
    const List* items = value.as_list();
    if (!items || items->size() != names.size())
      return static_cast<void>(fail(fmt::format("cannot unpack a {} into {} names", value.kind(), names.size()), line));
    for (std::size_t i = 0; i < names.size(); ++i) assign(scopes_.back(), names[i], (*items)[i]);
  }

  Flow execute_for(const Statement& s, Text& out) {
    const Value iterable = evaluate(*s.expression);
    if (failed()) return Flow::Normal;
    std::optional<List> items = items_of(iterable);
    if (!items) return fail(fmt::format("cannot loop over a {}", iterable.kind()), s.line), Flow::Normal;
    const auto bind = [&](const Value& item) {
      if (s.names.size() == 1) {
        assign(scopes_.back(), s.names.front(), item);
      } else {
        unpack(s.names, item, s.line);
      }
    };
    if (s.condition) {
      List kept;
      for (const Value& item : *items) {
        if (!step(s.line)) break;
        scopes_.emplace_back();
        bind(item);
        if (!failed() && evaluate(*s.condition).truthy()) kept.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(kept);
    }
    const auto count = static_cast<std::int64_t>(items->size());
    for (std::int64_t i = 0; i < count && step(s.line); ++i) {
      const auto at = static_cast<std::size_t>(i);
      scopes_.emplace_back();
      assign(scopes_.back(), "loop",
             Value::dict({{"index", i + 1},
                          {"index0", i},
                          {"revindex", count - i},
                          {"revindex0", count - i - 1},
                          {"first", i == 0},
                          {"last", i + 1 == count},
                          {"length", count},
                          {"previtem", i > 0 ? (*items)[at - 1] : Value()},
                          {"nextitem", i + 1 < count ? (*items)[at + 1] : Value()}}));
      bind((*items)[at]);
      const Flow flow = failed() ? Flow::Break : execute(s.body, out);
      scopes_.pop_back();
      if (flow == Flow::Break) break;
    }
    if (count == 0) return execute(s.otherwise, out);
    return Flow::Normal;
  }

  Value evaluate(const Expression& e) {
    if (!step(e.line)) return {};
    if (++depth_ > limits_.depth) fail("nested too deeply", e.line);
    Value value = failed() ? Value() : evaluate_node(e);
    --depth_;
    if (const Text* text = value.as_text(); text && text->bytes.size() > limits_.output_bytes)
      return fail("a string is too long", e.line);
    if (const List* list = value.as_list(); list && list->size() > limits_.steps)
      return fail("a list is too long", e.line);
    return value;
  }

  Value evaluate_node(const Expression& e) {
    switch (e.kind) {
      case Kind::Literal: return e.value;
      case Kind::Name: {
        const Value* value = lookup(e.text);
        return value ? *value : is_function(e.text) ? Value(Value::Function{e.text}) : Value(Value::Undefined{e.text});
      }
      case Kind::ListLiteral: {
        List list;
        for (const auto& child : e.children) list.push_back(evaluate(*child));
        return Value::list(std::move(list));
      }
      case Kind::DictLiteral: {
        Entries entries;
        for (std::size_t i = 0; i + 1 < e.children.size(); i += 2) {
          const Value key = evaluate(*e.children[i]);
          if (!key.as_text()) return fail("keys of a mapping must be strings", e.line);
          assign(entries, key.as_text()->bytes, evaluate(*e.children[i + 1]));
        }
        return Value::dict(std::move(entries));
      }
      case Kind::Unary: return unary(e);
      case Kind::Binary: return binary(e);
      case Kind::Compare: return compare(e);
      case Kind::Attribute: return attribute(evaluate(*e.children[0]), e.text, e);
      case Kind::Subscript: {
        const Value object = evaluate(*e.children[0]);
        return subscript(object, evaluate(*e.children[1]), e);
      }
      case Kind::Slice: return slice(e);
      case Kind::Call: return call(e);
      case Kind::Filter: {
        Arguments arguments = arguments_of(e, 1);
        return checked(apply_filter(e.text, evaluate(*e.children[0]), arguments, limits_), e.line);
      }
      case Kind::Test: {
        Arguments arguments = arguments_of(e, 1);
        return checked(apply_test(e.text, evaluate(*e.children[0]), arguments), e.line);
      }
      case Kind::Choice:
        if (evaluate(*e.children[0]).truthy()) return evaluate(*e.children[1]);
        return e.children[2] ? evaluate(*e.children[2]) : Value();
    }
    return {};
  }

  Value checked(Result<Value> result, int line) {
    return result.ok() ? *result : fail(result.status().message(), line);
  }

  Arguments arguments_of(const Expression& e, std::size_t first) {
    Arguments arguments;
    const std::size_t positional = e.children.size() - e.names.size();
    for (std::size_t i = first; i < positional; ++i) arguments.positional.push_back(evaluate(*e.children[i]));
    for (std::size_t i = 0; i < e.names.size(); ++i)
      assign(arguments.named, e.names[i], evaluate(*e.children[positional + i]));
    return arguments;
  }

  Value unary(const Expression& e) {
    const Value value = evaluate(*e.children[0]);
    if (e.text == "not") return !value.truthy();
    std::int64_t integer = 0;
    double number = 0;
    if (value.as_integer(integer)) return e.text == "-" ? -integer : integer;
    if (value.as_number(number)) return e.text == "-" ? -number : number;
    return fail(fmt::format("'{}' needs a number, not a {}", e.text, value.kind()), e.line);
  }

  Value binary(const Expression& e) {
    Value left = evaluate(*e.children[0]);
    if (e.text == "and") return left.truthy() ? evaluate(*e.children[1]) : left;
    if (e.text == "or") return left.truthy() ? left : evaluate(*e.children[1]);
    const Value right = evaluate(*e.children[1]);
    if (failed()) return {};
    return checked(arithmetic(e.text, left, right, limits_), e.line);
  }

  Value compare(const Expression& e) {
    Value left = evaluate(*e.children[0]);
    for (std::size_t i = 0; i < e.names.size(); ++i) {
      Value right = evaluate(*e.children[i + 1]);
      if (failed()) return {};
      const Value outcome = checked(comparison(e.names[i], left, right), e.line);
      if (!outcome.truthy()) return false;
      left = std::move(right);
    }
    return true;
  }

  Value attribute(const Value& object, std::string_view name, const Expression& e) {
    if (object.is_undefined())
      return fail(fmt::format("'{}' of an undefined value ('{}')", name, object.as<Value::Undefined>()->name), e.line);
    if (const Entries* entries = object.as_dict()) {
      if (const Value* value = find(*entries, name)) return *value;
    }
    return Value::Undefined{std::string(name)};
  }

  Value subscript(const Value& object, const Value& key, const Expression& e) {
    if (object.is_undefined())
      return fail(fmt::format("an element of an undefined value ('{}')", object.as<Value::Undefined>()->name), e.line);
    if (const Entries* entries = object.as_dict()) {
      const Value* value = key.as_text() ? find(*entries, key.as_text()->bytes) : nullptr;
      return value ? *value : Value(Value::Undefined{key.repr()});
    }
    std::int64_t index = 0;
    if (!key.as_integer(index)) return Value::Undefined{key.repr()};
    const std::optional<List> items = items_of(object);
    if (!items) return Value::Undefined{key.repr()};
    const auto count = static_cast<std::int64_t>(items->size());
    if (index < 0) index += count;
    return index >= 0 && index < count ? (*items)[static_cast<std::size_t>(index)]
                                       : Value(Value::Undefined{key.repr()});
  }

  Value slice(const Expression& e) {
    const Value object = evaluate(*e.children[0]);
    const std::optional<List> items = object.as_dict() ? std::nullopt : items_of(object);
    if (!items || object.is_undefined()) return fail(fmt::format("cannot slice a {}", object.kind()), e.line);
    const auto count = static_cast<std::int64_t>(items->size());
    const auto bound = [&](const ExpressionPtr& part, std::int64_t fallback) {
      if (!part) return fallback;
      const Value value = evaluate(*part);
      std::int64_t number = fallback;
      if (!value.is_none() && !value.as_integer(number)) fail("a slice needs integers", e.line);
      return number;
    };
    const std::int64_t stride = bound(e.children[3], 1);
    if (stride == 0) return fail("a slice of step 0", e.line);
    const auto clamp = [&](std::int64_t at) {
      return std::clamp<std::int64_t>(at < 0 ? at + count : at, stride < 0 ? -1 : 0, stride < 0 ? count - 1 : count);
    };
    const std::int64_t first = e.children[1] ? clamp(bound(e.children[1], 0)) : stride < 0 ? count - 1 : 0;
    const std::int64_t last = e.children[2] ? clamp(bound(e.children[2], 0)) : stride < 0 ? -1 : count;
    List taken;
    for (std::int64_t i = first; stride > 0 ? i < last : i > last; i += stride)
      taken.push_back((*items)[static_cast<std::size_t>(i)]);
    if (!object.as_text()) return Value::list(std::move(taken));
    Text text;
    for (const Value& character : taken) text += *character.as_text();
    return Value::text(std::move(text));
  }

  Value call(const Expression& e) {
    const Expression& callee = *e.children[0];
    Arguments arguments = arguments_of(e, 1);
    if (callee.kind == Kind::Attribute) {
      const Value object = evaluate(*callee.children[0]);
      if (failed()) return {};
      if (object.as_dict() && find(*object.as_dict(), callee.text))
        return call_value(*find(*object.as_dict(), callee.text), arguments, e);
      if (object.is_undefined()) return attribute(object, callee.text, callee);
      return checked(call_method(object, callee.text, arguments), e.line);
    }
    return call_value(evaluate(callee), arguments, e);
  }
  Value call_value(const Value& function, const Arguments& arguments, const Expression& e) {
    if (failed()) return {};
    const auto* held = function.as<Value::Function>();
    if (!held)
      return fail(function.is_undefined() ? fmt::format("'{}' is not defined", function.as<Value::Undefined>()->name)
                                          : fmt::format("a {} cannot be called", function.kind()),
                  e.line);
    if (held->macro) return call_macro(*held->macro, arguments, e);
    if (held->name == "raise_exception") {
      status_ = Status::invalid_argument(arguments.positional.empty() ? "the template refuses these messages"
                                                                      : arguments.positional[0].str().bytes);
      return {};
    }
    return checked(call_function(held->name, arguments, limits_), e.line);
  }
  Value call_macro(const Macro& macro, const Arguments& arguments, const Expression& e) {
    if (arguments.positional.size() > macro.parameters.size())
      return fail(fmt::format("too many arguments for {}", macro.name), e.line);
    Entries locals;
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, fallback] = macro.parameters[i];
      const Value* named = find(arguments.named, name);
      assign(locals, name,
             i < arguments.positional.size() ? arguments.positional[i]
             : named                         ? *named
             : fallback                      ? evaluate(*fallback)
                                             : Value(Value::Undefined{name}));
    }
    // A macro sees the template's own variables, not its caller's.
    std::vector<Entries> callers(std::make_move_iterator(scopes_.begin() + 1), std::make_move_iterator(scopes_.end()));
    scopes_.resize(1);
    scopes_.push_back(std::move(locals));
    Text out;
    execute(macro.body, out);
    scopes_.resize(1);
    for (Entries& scope : callers) scopes_.push_back(std::move(scope));
    return Value::text(std::move(out));
  }

  const Limits& limits_;
  std::vector<Entries> scopes_;
  std::size_t steps_ = 0;
  int depth_ = 0;
  Status status_;
};

}  // namespace

Result<Text> render(const Block& block, Entries variables, const Limits& limits) {
  return Interpreter(std::move(variables), limits).run(block);
}

}  // namespace tiercel::jinja
