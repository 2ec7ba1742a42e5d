// Every option that can be written down: one row each. Validation, files, the environment, the command line and what is
// printed all go by this table, so a new option is a member of its struct and a row here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tiercel/options.h"

namespace tiercel {

// Where the value of an option is. Bytes are those whose key ends in "_bytes".
template <class Value>
using OptionMember = Value& (*)(EngineOptions&);
using AnyOptionMember =
    std::variant<OptionMember<bool>, OptionMember<std::uint32_t>, OptionMember<std::uint64_t>, OptionMember<double>,
                 OptionMember<std::string>, OptionMember<Compute>, OptionMember<KvDType>, OptionMember<Codec>,
                 OptionMember<WritePolicy>, OptionMember<RankTransport>, OptionMember<EvictionPolicyFactory>,
                 OptionMember<std::vector<std::uint32_t>>>;

struct OptionField {
  std::string_view key;      // as in a file: the member's name, behind "cache." for one of KvCacheOptions
  std::string_view flag;     // of the program. Of a yes or no: the flag that makes it what it is not by default
  std::string_view metavar;  // what the flag takes, for its help
  std::string_view help;
  std::string_view range;  // what to give
  AnyOptionMember member;
  bool (*holds)(double value) = nullptr;  // of a number, or of each of a list; empty: any

  bool is_flag() const { return std::holds_alternative<OptionMember<bool>>(member); }
  // Whether a file has it in quotes: text and names, not numbers, lists, true and false.
  bool is_text() const;

  // `name`: what the caller knows this option by. InvalidArgument: "NAME is VALUE; give RANGE".
  Status set(EngineOptions& options, std::string_view name, std::string_view text) const;
  Status check(const EngineOptions& options, std::string_view name) const;

  // The value as text that set() takes; sizes in the largest unit that divides them ("2GiB"). Empty: a value that only
  // code can give, such as an eviction policy of the caller's own.
  std::optional<std::string> text(const EngineOptions& options) const;
  bool is_default(const EngineOptions& options) const;
};

// In the order in which they are printed.
std::span<const OptionField> option_fields();
// Null: there is none.
const OptionField* find_option(std::string_view key);

// "512M", "512MiB" and their like in bytes, by powers of 1024. Empty: not a size.
std::optional<std::size_t> parse_size(std::string_view text);

// What somebody wrote, for a message of one line: control characters as '?', cut where it is long.
std::string printable(std::string_view text);

}  // namespace tiercel
