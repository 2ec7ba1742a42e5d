#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_filters.h"
#include "text/jinja_functions.h"
#include "text/jinja_methods.h"
#include "text/jinja_operators.h"

namespace tiercel::jinja {
namespace {

using Kind = Expression::Kind;

enum class Flow { Next, Break, Continue };

class Interpreter {
 public:
  Interpreter(Variables variables, const std::function<std::tm()>& local_time, Context& context)
      : context_(context), local_time_(local_time), given_(std::move(variables)), scopes_(1) {}

  Text run(const Body& body) {
    try {
      execute(body);
    } catch (Error& error) {
      if (error.line == 0) error.line = line_;
      throw;
    }
    return std::move(out_);
  }

 private:
  // Counts a step and one level of recursion, and remembers the line for errors.
  class Level {
   public:
    Level(Interpreter& interpreter, int line) : interpreter_(interpreter) {
      interpreter_.line_ = line;
      interpreter_.context_.budget.take_steps();
      if (interpreter_.depth_ >= kMaxDepth) fail("it nests more than 200 deep");
      ++interpreter_.depth_;
    }
    ~Level() { --interpreter_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Interpreter& interpreter_;
  };

  // Variables of a block, which end with it.
  class Scope {
   public:
    explicit Scope(Interpreter& interpreter) : interpreter_(interpreter) { interpreter_.scopes_.emplace_back(); }
    ~Scope() { interpreter_.scopes_.pop_back(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interpreter& interpreter_;
  };

  // ---- statements

  Flow execute(const Body& body) {
    for (const StatementPtr& statement : body) {
      const Flow flow = execute(*statement);
      if (flow != Flow::Next) return flow;
    }
    return Flow::Next;
  }

  Flow execute(const Statement& node) {
    const Level level(*this, node.line);
    switch (node.kind) {
      case Statement::Kind::Data: write(*as_text(node.constant)); return Flow::Next;
      case Statement::Kind::Output: output(node); return Flow::Next;
      case Statement::Kind::If: return execute_if(node);
      case Statement::Kind::For: return execute_for(node);
      case Statement::Kind::Set: assign(node, evaluate(*node.expression)); return Flow::Next;
      case Statement::Kind::SetBlock: set_block(node); return Flow::Next;
      case Statement::Kind::Macro: scopes_.back()[node.name] = Callable{node.name, &node}; return Flow::Next;
      case Statement::Kind::FilterBlock: write(*as_text(filtered(node))); return Flow::Next;
      case Statement::Kind::With: return execute_with(node);
      case Statement::Kind::Generation: {
        const Scope scope(*this);
        return execute(node.body);
      }
      case Statement::Kind::Break: return Flow::Break;
      case Statement::Kind::Continue: return Flow::Continue;
    }
    return Flow::Next;
  }

  void write(const Text& text) {
    if (text.size() > kMaxTextBytes - out_.size()) fail("it makes a text of more than 16 MiB");
    context_.budget.write(text.size());
    out_.append(text);
  }

  void output(const Statement& node) {
    const Value value = evaluate(*node.expression);
    line_ = node.line;
    if (const Text* text = as_text(value)) return write(*text);
    write(to_text(value, context_));
  }

  Flow execute_if(const Statement& node) {
    for (const Branch& branch : node.branches) {
      if (is_true(evaluate(*branch.condition))) return execute(branch.body);
    }
    return execute(node.otherwise);
  }

  Flow execute_for(const Statement& node) {
    const Value iterable = evaluate(*node.expression);
    line_ = node.line;
    std::shared_ptr<const Sequence> sequence = iterate(iterable, context_);
    if (node.condition) sequence = filter_items(node, *sequence);
    if (sequence->items.empty()) {
      const Scope scope(*this);
      return execute(node.otherwise);
    }
    if (sequence->depth >= kMaxDepth) fail("it nests values more than 200 deep");  // 'loop' holds it
    for (std::size_t i = 0; i < sequence->items.size(); ++i) {
      const Scope scope(*this);
      scopes_.back()["loop"] = std::make_shared<const Loop>(Loop{sequence, i});
      assign(node, sequence->items[i]);
      if (execute(node.body) == Flow::Break) break;
    }
    return Flow::Next;
  }

  std::shared_ptr<const Sequence> filter_items(const Statement& node, const Sequence& sequence) {
    std::vector<Value> kept;
    for (const Value& item : sequence.items) {
      const Scope scope(*this);
      assign(node, item);
      if (is_true(evaluate(*node.condition))) kept.push_back(item);
    }
    return std::get<std::shared_ptr<const Sequence>>(make_sequence(std::move(kept), Sequence::Kind::List, context_));
  }

  void assign(const Statement& node, const Value& value) {
    line_ = node.line;
    if (!node.unpacks) return assign(node.targets[0], value);
    const auto sequence = iterate(value, context_);
    if (sequence->items.size() != node.targets.size()) {
      fail("cannot unpack " + std::to_string(sequence->items.size()) + " values into " +
           std::to_string(node.targets.size()) + " variables");
    }
    for (std::size_t i = 0; i < node.targets.size(); ++i) assign(node.targets[i], sequence->items[i]);
  }

  void assign(const Target& target, const Value& value) {
    if (target.attribute.empty()) {
      scopes_.back()[target.name] = value;
      return;
    }
    const Value object = look_up(target.name);
    Namespace* const* space = std::get_if<Namespace*>(&object);
    if (space == nullptr) fail("'" + target.name + "' is not a namespace, so its attributes cannot be set");
    (*space)->attributes[target.attribute] = value;
  }

  // What the body writes.
  Value capture(const Body& body) {
    Text outer = std::exchange(out_, Text());
    {
      const Scope scope(*this);
      execute(body);
    }
    return make_text(std::exchange(out_, std::move(outer)));
  }

  Value filtered(const Statement& node) {
    const Value text = capture(node.body);
    return node.expression ? evaluate_filters(*node.expression, text) : text;
  }

  void set_block(const Statement& node) { assign(node.targets[0], filtered(node)); }

  Flow execute_with(const Statement& node) {
    std::vector<Value> values;
    for (const Parameter& variable : node.parameters) values.push_back(evaluate(*variable.otherwise));
    const Scope scope(*this);
    for (std::size_t i = 0; i < values.size(); ++i) scopes_.back()[node.parameters[i].name] = values[i];
    return execute(node.body);
  }

  // ---- variables

  const Value* find_variable(std::string_view name) const {
    for (std::size_t i = scopes_.size(); i-- > first_scope_;) {
      const auto found = scopes_[i].find(name);
      if (found != scopes_[i].end()) return &found->second;
    }
    if (const auto found = scopes_[0].find(name); found != scopes_[0].end()) return &found->second;
    const auto found = given_.find(name);
    return found == given_.end() ? nullptr : &found->second;
  }

  Value look_up(const std::string& name) const {
    if (const Value* value = find_variable(name)) return *value;
    if (const std::string_view function = find_function(name); !function.empty()) return Callable{function};
    return make_undefined("'" + name + "' is undefined");
  }

  // ---- expressions

  Value evaluate(const Expression& node) {
    const Level level(*this, node.line);
    switch (node.kind) {
      case Kind::Constant: return node.constant;
      case Kind::Name: return look_up(node.name);
      case Kind::List: return make_sequence(evaluate_all(node.children), Sequence::Kind::List, context_);
      case Kind::Tuple: return make_sequence(evaluate_all(node.children), Sequence::Kind::Tuple, context_);
      case Kind::Dict: return evaluate_dict(node);
      case Kind::Attribute: return evaluate_attribute(node);
      case Kind::Item: return evaluate_item(node);
      case Kind::Slice: return evaluate_slice(node);
      case Kind::Call: return evaluate_call(node);
      case Kind::Filter: return evaluate_filter(node, evaluate(*node.children[0]));
      case Kind::Test: return evaluate_test(node);
      case Kind::Not: return !is_true(evaluate(*node.children[0]));
      case Kind::Negate: return negate(evaluate(*node.children[0]));
      case Kind::Plus: return evaluate_plus(node);
      case Kind::Arithmetic: return evaluate_arithmetic(node);
      case Kind::Concatenate: return evaluate_concatenation(node);
      case Kind::And:
      case Kind::Or: return evaluate_logic(node);
      case Kind::Compare: return evaluate_comparison(node);
      case Kind::Condition: return evaluate_condition(node);
    }
    return None{};
  }

  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& nodes) {
    std::vector<Value> values;
    for (const ExpressionPtr& node : nodes) values.push_back(evaluate(*node));
    return values;
  }

  Value evaluate_dict(const Expression& node) {
    std::vector<std::pair<Value, Value>> items;
    for (std::size_t i = 0; i < node.children.size(); i += 2) {
      const Value key = evaluate(*node.children[i]);
      Value value = evaluate(*node.children[i + 1]);
      line_ = node.line;
      check_key(key);
      const auto same = std::find_if(items.begin(), items.end(),
                                     [&](const auto& item) { return is_equal(item.first, key, context_); });
      if (same != items.end()) {
        same->second = std::move(value);
      } else {
        items.emplace_back(key, std::move(value));
      }
    }
    return make_mapping(std::move(items), context_);
  }

  Value evaluate_attribute(const Expression& node) {
    const Value object = evaluate(*node.children[0]);
    line_ = node.line;
    return get_attribute(object, node.name, context_);
  }

  Value evaluate_item(const Expression& node) {
    const Value object = evaluate(*node.children[0]);
    const Value key = evaluate(*node.children[1]);
    line_ = node.line;
    return get_item(object, key, context_);
  }

  Value evaluate_slice(const Expression& node) {
    const Value object = evaluate(*node.children[0]);
    Value parts[3] = {None{}, None{}, None{}};
    for (std::size_t i = 0; i < 3; ++i) {
      if (node.children[i + 1]) parts[i] = evaluate(*node.children[i + 1]);
    }
    line_ = node.line;
    return slice(object, parts[0], parts[1], parts[2], context_);
  }

  Value evaluate_plus(const Expression& node) {
    const Value value = evaluate(*node.children[0]);
    return calculate("+", std::int64_t{0}, value, context_);
  }

  Value evaluate_arithmetic(const Expression& node) {
    const Value left = evaluate(*node.children[0]);
    const Value right = evaluate(*node.children[1]);
    line_ = node.line;
    return calculate(node.name, left, right, context_);
  }

  Value evaluate_concatenation(const Expression& node) {
    Text out;
    for (const ExpressionPtr& child : node.children) {
      out.append(to_text(evaluate(*child), context_));
      if (out.size() > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
    }
    return make_text(std::move(out));
  }

  Value evaluate_logic(const Expression& node) {
    Value left = evaluate(*node.children[0]);
    const bool is_decided = is_true(left) == (node.kind == Kind::Or);
    return is_decided ? left : evaluate(*node.children[1]);
  }

  Value evaluate_comparison(const Expression& node) {
    Value left = evaluate(*node.children[0]);
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      Value right = evaluate(*node.children[i + 1]);
      line_ = node.line;
      const std::string& operation = node.names[i];
      const bool holds = operation == "in"       ? contains(right, left, context_)
                         : operation == "not in" ? !contains(right, left, context_)
                                                 : compare(operation, left, right, context_);
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  Value evaluate_condition(const Expression& node) {
    if (is_true(evaluate(*node.children[1]))) return evaluate(*node.children[0]);
    if (node.children[2]) return evaluate(*node.children[2]);
    return make_undefined("the inline 'if' was false and has no 'else'");
  }

  // ---- calls

  Arguments evaluate_arguments(const Expression& node) {
    Arguments arguments;
    const std::size_t first_named = node.children.size() - node.names.size();
    for (std::size_t i = 1; i < node.children.size(); ++i) {
      Value value = evaluate(*node.children[i]);
      if (i < first_named) {
        arguments.positional.push_back(std::move(value));
      } else {
        arguments.named.emplace_back(node.names[i - first_named], std::move(value));
      }
    }
    return arguments;
  }

  Value evaluate_filter(const Expression& node, const Value& value) {
    const Arguments arguments = evaluate_arguments(node);
    line_ = node.line;
    return apply_filter(node.name, value, arguments, context_);
  }

  // A chain of filters that begins with `text`.
  Value evaluate_filters(const Expression& node, const Value& text) {
    if (node.kind != Kind::Filter) fail("only filters are supported here", node.line);
    return evaluate_filter(node, node.children[0] ? evaluate_filters(*node.children[0], text) : text);
  }

  Value evaluate_test(const Expression& node) {
    const Value value = evaluate(*node.children[0]);
    const Arguments arguments = evaluate_arguments(node);
    line_ = node.line;
    return apply_test(node.name, value, arguments, context_);
  }

  Value evaluate_call(const Expression& node) {
    const Expression& callee = *node.children[0];
    if (callee.kind == Kind::Attribute) {
      const Value object = evaluate(*callee.children[0]);
      line_ = node.line;
      if (const auto* loop = std::get_if<std::shared_ptr<const Loop>>(&object)) {
        return call_loop(**loop, callee.name, evaluate_arguments(node));
      }
      if (const std::string_view method = find_method(object, callee.name); !method.empty()) {
        const Arguments arguments = evaluate_arguments(node);
        line_ = node.line;
        return call_method(object, method, arguments, context_);
      }
      return call(get_attribute(object, callee.name, context_), node);
    }
    return call(evaluate(callee), node);
  }

  Value call(const Value& callee, const Expression& node) {
    const Arguments arguments = evaluate_arguments(node);
    line_ = node.line;
    if (const Undefined* undefined = std::get_if<Undefined>(&callee)) fail(*undefined->why);
    const Callable* callable = std::get_if<Callable>(&callee);
    if (callable == nullptr) fail("a " + std::string(type_name(callee)) + " cannot be called");
    if (callable->macro != nullptr) return call_macro(*callable->macro, arguments);
    if (find_function(callable->name).empty()) fail("calling a method that was stored first is not supported");
    return call_function(callable->name, arguments, local_time_, context_);
  }

  static Value call_loop(const Loop& loop, std::string_view name, const Arguments& arguments) {
    if (name != "cycle") fail("'loop." + std::string(name) + "' cannot be called");
    if (arguments.positional.empty() || !arguments.named.empty()) fail("'loop.cycle' needs values to choose from");
    return arguments.positional[loop.index % arguments.positional.size()];
  }

  // A macro sees its parameters and the variables of the template, not those of the block that calls it.
  Value call_macro(const Statement& macro, const Arguments& arguments) {
    if (arguments.positional.size() > macro.parameters.size()) {
      fail("the macro '" + macro.name + "' is given too many arguments");
    }
    const std::size_t outer_scope = std::exchange(first_scope_, scopes_.size());
    Value result;
    {
      const Scope scope(*this);
      bind_parameters(macro, arguments);
      result = capture(macro.body);
    }
    first_scope_ = outer_scope;
    return result;
  }

  void bind_parameters(const Statement& macro, const Arguments& arguments) {
    for (const auto& [name, value] : arguments.named) {
      const auto found = std::find_if(macro.parameters.begin(), macro.parameters.end(),
                                      [&name = name](const Parameter& parameter) { return parameter.name == name; });
      const auto position = static_cast<std::size_t>(found - macro.parameters.begin());
      if (found == macro.parameters.end()) fail("the macro '" + macro.name + "' has no argument '" + name + "'");
      if (position < arguments.positional.size()) fail("the macro '" + macro.name + "' is given '" + name + "' twice");
      scopes_.back()[found->name] = value;
    }
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const Parameter& parameter = macro.parameters[i];
      if (i < arguments.positional.size()) {
        scopes_.back()[parameter.name] = arguments.positional[i];
      } else if (!scopes_.back().contains(parameter.name)) {
        // Evaluated before it is stored: the expression must not see a half-made variable.
        Value value = parameter.otherwise ? evaluate(*parameter.otherwise)
                                          : make_undefined("parameter '" + parameter.name + "' was not provided");
        scopes_.back()[parameter.name] = std::move(value);
      }
    }
  }

  Context& context_;
  const std::function<std::tm()>& local_time_;
  const Variables given_;
  std::vector<Variables> scopes_;  // [0] is the template's own; then one for each block around
  std::size_t first_scope_ = 1;    // the first one, but [0], that is seen: that of the running macro
  int depth_ = 0;
  int line_ = 1;
  Text out_;
};

}  // namespace

Text interpret(const Body& body, Variables variables, const std::function<std::tm()>& local_time, Context& context) {
  return Interpreter(std::move(variables), local_time, context).run(body);
}

}  // namespace tiercel::jinja
