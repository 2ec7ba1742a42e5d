// Upper, lower and title case of single characters by the Unicode Standard's full mappings, those that depend on
// neither language nor context. (UnicodeData.txt and SpecialCasing.txt of version 14.0; the tables are in
// unicode_case_tables.h.)
//
// Thread-safety: pure functions.
#pragma once

#include <string>

namespace tiercel {

void append_upper(char32_t code_point, std::string& out);
void append_lower(char32_t code_point, std::string& out);
void append_title(char32_t code_point, std::string& out);
// Has an upper, lower or title case form, or is one.
bool is_cased(char32_t code_point);

}  // namespace tiercel
