#!/usr/bin/env python3
"""Writes unicode_case_tables.h from Python's own copy of the Unicode character database.

python3 src/text/generate_unicode_case.py > src/text/unicode_case_tables.h
"""
import unicodedata

CHARACTERS = [chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c <= 0xDFFF]


def rows(convert, differs_from):
    """Characters that change alike, as (first, last, step, delta); and those that become several characters."""
    single, several = [], []
    for character in CHARACTERS:
        mapped, code = convert(character), ord(character)
        if mapped == differs_from(character):
            continue
        if len(mapped) > 1:
            several.append((code, mapped))
            continue
        delta = ord(mapped) - code
        if single:
            first, last, step, last_delta = single[-1]
            if delta == last_delta and (code - last == step or (first == last and code - last <= 2)):
                single[-1] = (first, code, code - last, delta)
                continue
        single.append((code, code, 1, delta))
    return single, several


def is_cased(character):
    # A letter between two others is lower-cased by str.title exactly where the one before it is cased.
    return (character + "a").title()[-1] == "a"


def cased_ranges():
    ranges = []
    for character in CHARACTERS:
        if not is_cased(character):
            continue
        if ranges and ord(character) == ranges[-1][1] + 1:
            ranges[-1][1] += 1
        else:
            ranges.append([ord(character), ord(character)])
    return ranges


def write(type_name, table, entries):
    print(f"inline constexpr {type_name} {table}[] = {{")
    for entry in entries:
        print("    {" + ", ".join(entry) + "},")
    print("};\n")


def write_mapping(name, convert, differs_from):
    single, several = rows(convert, differs_from)
    write("CaseRange", f"k{name}Ranges", [(f"{a:#x}", f"{b:#x}", str(step), str(d)) for a, b, step, d in single])
    escaped = [(f"{c:#x}", '"' + "".join(f"\\x{b:02x}" for b in m.encode()) + '"') for c, m in several]
    write("CaseExpansion", f"k{name}Expansions", escaped)


print(f"""// Written by generate_unicode_case.py from version {unicodedata.unidata_version} of the Unicode character database.
// clang-format off
#pragma once

namespace tiercel {{

// first, first + step, ..., last become what is `delta` further on.
struct CaseRange {{
  char32_t first;
  char32_t last;
  int step;
  int delta;
}};
struct CaseExpansion {{
  char32_t code_point;
  const char* text;
}};
struct CasedRange {{
  char32_t first;
  char32_t last;
}};
""")
write_mapping("Upper", str.upper, lambda c: c)
write_mapping("Lower", str.lower, lambda c: c)
print("// Where it is not the upper case.")
write_mapping("Title", str.title, str.upper)
write("CasedRange", "kCasedRanges", [(f"{a:#x}", f"{b:#x}") for a, b in cased_ranges()])
print("}  // namespace tiercel")
