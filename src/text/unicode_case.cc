#include "text/unicode_case.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "text/unicode_case_tables.h"
#include "text/utf8.h"

namespace tiercel {
namespace {

// The tables are sorted; those for the title case name only what differs from the upper case.
template <class Ranges, class Expansions>
bool append_mapped(const Ranges& ranges, const Expansions& expansions, char32_t c, std::string& out) {
  const auto* expansion = std::lower_bound(std::begin(expansions), std::end(expansions), c,
                                           [](const CaseExpansion& e, char32_t value) { return e.code_point < value; });
  if (expansion != std::end(expansions) && expansion->code_point == c) {
    out += expansion->text;
    return true;
  }
  const auto* range = std::lower_bound(std::begin(ranges), std::end(ranges), c,
                                       [](const CaseRange& r, char32_t value) { return r.last < value; });
  if (range == std::end(ranges) || c < range->first || (c - range->first) % static_cast<char32_t>(range->step) != 0) {
    return false;
  }
  append_utf8(static_cast<char32_t>(static_cast<int>(c) + range->delta), out);
  return true;
}

bool is_between(char32_t c, char first, char last) {
  return c >= static_cast<char32_t>(first) && c <= static_cast<char32_t>(last);
}

}  // namespace

void append_upper(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(is_between(c, 'a', 'z') ? c - 32 : c);
  } else if (!append_mapped(kUpperRanges, kUpperExpansions, c, out)) {
    append_utf8(c, out);
  }
}

void append_lower(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(is_between(c, 'A', 'Z') ? c + 32 : c);
  } else if (!append_mapped(kLowerRanges, kLowerExpansions, c, out)) {
    append_utf8(c, out);
  }
}

void append_title(char32_t c, std::string& out) {
  if (c < 0x80 || !append_mapped(kTitleRanges, kTitleExpansions, c, out)) append_upper(c, out);
}

bool is_cased(char32_t c) {
  if (c < 0x80) return is_between(c, 'a', 'z') || is_between(c, 'A', 'Z');
  const auto* range = std::lower_bound(std::begin(kCasedRanges), std::end(kCasedRanges), c,
                                       [](const CasedRange& r, char32_t value) { return r.last < value; });
  return range != std::end(kCasedRanges) && c >= range->first;
}

}  // namespace tiercel
