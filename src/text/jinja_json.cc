#include <algorithm>
#include <cmath>

#include "text/jinja_filters.h"
#include "text/utf8.h"

namespace tiercel::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(const Arguments& arguments, Context& context) : context_(context) {
    const auto bound =
        bind_arguments(arguments, "filter 'tojson'", {"ensure_ascii", "indent", "separators", "sort_keys"});
    is_ascii_ = bound[0] && is_true(*bound[0]);
    if (bound[1] && !is_none(*bound[1])) {
      const std::int64_t width = integer_argument(*bound[1], "the indent of 'tojson'");
      if (width < 0 || width > 64) fail("an indent of 'tojson' outside of 0 to 64 is not supported");
      is_indented_ = true;
      indent_ = static_cast<std::size_t>(width);
      item_separator_ = trusted_text(",");
    }
    if (bound[2] && !is_none(*bound[2])) {
      const Sequence* pair = as_sequence(*bound[2]);
      if (pair == nullptr || pair->items.size() != 2) fail("the separators of 'tojson' must be two strings");
      item_separator_ = text_argument(pair->items[0], "'tojson'");
      key_separator_ = text_argument(pair->items[1], "'tojson'");
    }
    is_sorted_ = bound[3] && is_true(*bound[3]);
  }

  Text run(const Value& value) {
    write(value, 0);
    return std::move(out_);
  }

 private:
  void write(const Value& value, std::size_t level) {
    context_.budget.take_steps();
    if (const Text* text = as_text(value)) {
      write_text(*text);
    } else if (const Sequence* sequence = as_sequence(value)) {
      if (sequence->kind == Sequence::Kind::Iterator || sequence->kind == Sequence::Kind::View) {
        fail("an iterator or a view cannot be written as JSON; pass it through the filter 'list'");
      }
      write_sequence(*sequence, level);
    } else if (const Mapping* mapping = as_mapping(value)) {
      write_mapping(*mapping, level);
    } else {
      put(scalar(value));
    }
  }

  void put(std::string_view text) {
    context_.budget.write(text.size());
    out_.append_trusted(text);
    check_size();
  }

  void check_size() const {
    if (out_.size() > kMaxTextBytes) fail("it makes a text of more than 16 MiB");
  }

  static std::string scalar(const Value& value) {
    if (is_none(value)) return "null";
    if (const bool* boolean = std::get_if<bool>(&value)) return *boolean ? "true" : "false";
    if (const std::int64_t* integer = std::get_if<std::int64_t>(&value)) return std::to_string(*integer);
    if (const double* number = std::get_if<double>(&value)) {
      if (std::isnan(*number)) return "NaN";
      if (std::isinf(*number)) return *number < 0 ? "-Infinity" : "Infinity";
      return format_float(*number);
    }
    fail("a value of type " + std::string(type_name(value)) + " cannot be written as JSON");
  }

  void write_text(const Text& text) {
    context_.budget.write(text.size() * 6 + 2);
    out_.append_trusted("\"");
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t length = character_length(text.bytes, i);
      const Utf8Start start = read_utf8(std::string_view(text.bytes).substr(i));
      const char32_t c = start.kind == Utf8Start::Kind::Character ? start.code_point : kNotACharacter;
      static constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
      static constexpr std::string_view kLetters = "\"\\nrtbf";
      const std::size_t escape = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
      if (escape != std::string_view::npos) {
        out_.append_as(std::string{'\\', kLetters[escape]}, text.trusted[i]);
      } else if (c < 0x20 || (is_ascii_ && c > 0x7E && c != kNotACharacter)) {
        write_escape(c, text.trusted[i]);
      } else {
        out_.append(text, i, length);
      }
      i += length;
    }
    out_.append_trusted("\"");
    check_size();
  }

  void write_escape(char32_t c, char mark) {
    if (c > 0xFFFF) {
      write_unit(0xD800 + ((c - 0x10000) >> 10), mark);
      c = 0xDC00 + ((c - 0x10000) & 0x3FF);
    }
    write_unit(c, mark);
  }

  void write_unit(char32_t unit, char mark) {
    std::string escape = "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) escape += "0123456789abcdef"[unit >> shift & 0xF];
    out_.append_as(escape, mark);
  }

  void write_break(std::size_t level) {
    if (!is_indented_) return;
    std::string text(1, '\n');
    text.append(indent_ * level, ' ');
    put(text);
  }

  void write_separator(const Text& separator) {
    context_.budget.write(separator.size());
    out_.append(separator);
    check_size();
  }

  void write_sequence(const Sequence& sequence, std::size_t level) {
    if (sequence.items.empty()) return put("[]");
    put("[");
    for (std::size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) write_separator(item_separator_);
      write_break(level + 1);
      write(sequence.items[i], level + 1);
    }
    write_break(level);
    put("]");
  }

  Text key_text(const Value& key) const {
    if (const Text* text = as_text(key)) return *text;
    return trusted_text(scalar(key));
  }

  void write_mapping(const Mapping& mapping, std::size_t level) {
    if (mapping.items.empty()) return put("{}");
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : mapping.items) items.push_back(&item);
    if (is_sorted_) {
      for (const auto& item : mapping.items) text_argument(item.first, "a sorted key of 'tojson'");
      std::stable_sort(items.begin(), items.end(), [](const auto* a, const auto* b) {
        return as_text(a->first)->bytes < as_text(b->first)->bytes;
      });
    }
    put("{");
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) write_separator(item_separator_);
      write_break(level + 1);
      write_text(key_text(items[i]->first));
      write_separator(key_separator_);
      write(items[i]->second, level + 1);
    }
    write_break(level);
    put("}");
  }

  static constexpr char32_t kNotACharacter = 0xFFFFFFFF;

  Context& context_;
  bool is_ascii_ = false;
  bool is_indented_ = false;
  bool is_sorted_ = false;
  std::size_t indent_ = 0;
  Text item_separator_ = trusted_text(", ");
  Text key_separator_ = trusted_text(": ");
  Text out_;
};

}  // namespace

Value write_json(const Value& value, const Arguments& arguments, Context& context) {
  return make_text(JsonWriter(arguments, context).run(value));
}

}  // namespace tiercel::jinja
