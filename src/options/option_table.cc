#include "options/option_table.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tiercel {
namespace {

// A lambda without captures, as the pointer that its row keeps.
#define TIERCEL_MEMBER(Value, path)                               \
  OptionMember<Value> {                                           \
    [](EngineOptions& options) -> Value& { return options.path; } \
  }

template <std::uint64_t least, std::uint64_t most>
constexpr bool within(double value) {
  return value >= static_cast<double>(least) && value <= static_cast<double>(most);
}
constexpr bool at_least_one(double value) { return value >= 1; }
bool is_block_size(double value) { return value == 8 || value == 16 || value == 32 || value == 64 || value == 128; }
bool is_duration(double value) { return value >= 0 && std::isfinite(value); }

constexpr std::string_view kSize = "a size such as 512M or 2GiB";
constexpr std::string_view kCodecs = "raw, lossless, int8 or int4";
constexpr std::string_view kYesOrNo = "true or false";

const OptionField kFields[] = {
    {"model", "--model", "FILE", "GGUF file of the model", "the path of a GGUF file",
     TIERCEL_MEMBER(std::string, model)},
    {"device", "--device", "NAME", "Where the model is computed: cpu, cuda (the first GPU) or cuda:N",
     "cpu, cuda or cuda:N", TIERCEL_MEMBER(std::string, device)},
    {"compute", "--compute", "MODE", "fast; precise: float32 throughout; turbo: int8 activations",
     "fast, precise or turbo", TIERCEL_MEMBER(Compute, compute)},
    {"deterministic", "--deterministic", "", "Answers depend on nothing but the request", kYesOrNo,
     TIERCEL_MEMBER(bool, deterministic)},
    {"replicas", "--replicas", "N", "Copies that share weights and tiers, each with a batch and threads of its own",
     "1 to 64", TIERCEL_MEMBER(std::uint32_t, replicas), within<1, 64>},
    {"threads", "--threads", "N", "Threads of a step; 0: one per core", "0 (one per core) to 256",
     TIERCEL_MEMBER(std::uint32_t, threads), within<0, 256>},
    {"cpus", "--cpus", "LIST", "Cores that the engine may run on, such as 0,1; none: those of its caller",
     "a list of cores from 0 to 4095", TIERCEL_MEMBER(std::vector<std::uint32_t>, cpus), within<0, 4095>},
    {"context_tokens", "--context", "N", "Longest sequence in tokens; 0: what the model was trained for",
     "a whole number of tokens", TIERCEL_MEMBER(std::uint32_t, context_tokens)},
    {"max_batch_sequences", "--max-batch-sequences", "N", "Most sequences in one step", "1 to 4096",
     TIERCEL_MEMBER(std::uint32_t, max_batch_sequences), within<1, 4096>},
    {"max_batch_tokens", "--max-batch-tokens", "N", "Most tokens in one step", "32 to 65536",
     TIERCEL_MEMBER(std::uint32_t, max_batch_tokens), within<32, 65536>},
    {"max_queued_requests", "--max-queued-requests", "N", "Requests that may wait; one more is refused", "at least 1",
     TIERCEL_MEMBER(std::uint32_t, max_queued_requests), at_least_one},
    {"target_step_ms", "--target-step-ms", "MS", "Longest step while streams run; 0: as even as the load allows",
     "0 (automatic) or a finite number above it", TIERCEL_MEMBER(double, target_step_ms), is_duration},
    {"speculation", "--no-speculation", "", "Tokens guessed ahead and verified, where that is faster", kYesOrNo,
     TIERCEL_MEMBER(bool, speculation)},
    {"max_draft_tokens", "--max-draft-tokens", "N", "Most tokens guessed ahead for one sequence", "1 to 64",
     TIERCEL_MEMBER(std::uint32_t, max_draft_tokens), within<1, 64>},
    {"aging_ms", "--aging-ms", "MS", "Waiting so long counts as one level of priority", "at least 1",
     TIERCEL_MEMBER(std::uint64_t, aging_ms), at_least_one},
    {"memory_limit_bytes", "--memory-limit", "SIZE", "Most memory of weights, KV and workspace together; 0: no limit",
     kSize, TIERCEL_MEMBER(std::size_t, memory_limit_bytes)},
    {"stats_window_ms", "--stats-window-ms", "MS", "Length of the window of statistics", "60 to 86400000",
     TIERCEL_MEMBER(std::uint64_t, stats_window_ms), within<60, 86400000>},
    {"profile_steps", "--profile-steps", "", "Statistics say where the time of steps goes", kYesOrNo,
     TIERCEL_MEMBER(bool, profile_steps)},

    {"ranks.size", "--ranks", "N", "Processes that share the model", "1 to 1024",
     TIERCEL_MEMBER(std::uint32_t, ranks.size), within<1, 1024>},
    {"ranks.pipeline", "--pipeline", "N", "Stages of layers that the ranks are, one behind the other",
     "1 to 1024, such that ranks.size is a multiple", TIERCEL_MEMBER(std::uint32_t, ranks.pipeline), within<1, 1024>},
    {"ranks.rank", "--rank", "N", "Which of them this is", "a whole number below ranks.size",
     TIERCEL_MEMBER(std::uint32_t, ranks.rank), within<0, 1023>},
    {"ranks.address", "--rank-address", "HOST:PORT", "Where rank 0 listens for the others", "host:port of rank 0",
     TIERCEL_MEMBER(std::string, ranks.address)},
    {"ranks.transport", "--rank-transport", "NAME", "How they speak to each other: tcp or gloo", "tcp or gloo",
     TIERCEL_MEMBER(RankTransport, ranks.transport)},
    {"ranks.timeout_ms", "--rank-timeout-ms", "MS", "Longest that they wait for each other", "at least 1",
     TIERCEL_MEMBER(std::uint64_t, ranks.timeout_ms), at_least_one},
    {"ranks.open_timeout_ms", "--rank-open-timeout-ms", "MS", "The same until all are there and loaded", "at least 1",
     TIERCEL_MEMBER(std::uint64_t, ranks.open_timeout_ms), at_least_one},

    {"cache.capacity_bytes", "--cache-bytes", "SIZE", "Memory for KV; on a GPU, 0: what is free there",
     "a size such as 2GiB, at least one block", TIERCEL_MEMBER(std::size_t, cache.capacity_bytes)},
    {"cache.prefault_bytes", "--prefault", "SIZE", "Memory for KV made ready ahead of its use, while idle", kSize,
     TIERCEL_MEMBER(std::size_t, cache.prefault_bytes)},
    {"cache.block_tokens", "--block-tokens", "N", "Tokens per block of KV", "8, 16, 32, 64 or 128",
     TIERCEL_MEMBER(std::uint32_t, cache.block_tokens), is_block_size},
    {"cache.kv_dtype", "--kv-dtype", "TYPE",
     "KV as bf16 (auto; f32 where compute is precise), or as int8: half the bytes", "auto or int8",
     TIERCEL_MEMBER(KvDType, cache.kv_dtype)},
    {"cache.prefix_reuse", "--no-prefix-cache", "", "Reuse of computed prefixes", kYesOrNo,
     TIERCEL_MEMBER(bool, cache.prefix_reuse)},
    {"cache.eviction", "--eviction", "POLICY", "Which cached block goes first: adaptive, lru or lfu",
     "adaptive, lru or lfu", TIERCEL_MEMBER(EvictionPolicyFactory, cache.eviction)},
    {"cache.tenant_quota_bytes", "--tenant-quota", "SIZE", "Most KV of one tenant; 0: no quotas", kSize,
     TIERCEL_MEMBER(std::size_t, cache.tenant_quota_bytes)},
    {"cache.record_trace", "--record-trace", "FILE",
     "Append lengths and block ids of every request, never text, for tiercel replay", "the path of a file",
     TIERCEL_MEMBER(std::string, cache.record_trace)},
    {"cache.memory_tier_bytes", "--memory-tier", "SIZE", "Also keep compressed KV in so much memory; 0: none", kSize,
     TIERCEL_MEMBER(std::size_t, cache.memory_tier_bytes)},
    {"cache.memory_tier_codec", "--memory-codec", "CODEC", "Of that tier: raw, lossless, int8 or int4", kCodecs,
     TIERCEL_MEMBER(Codec, cache.memory_tier_codec)},
    {"cache.disk_dir", "--cache-dir", "DIR", "Keep KV in this directory, for the next process too",
     "the path of a directory", TIERCEL_MEMBER(std::string, cache.disk_dir)},
    {"cache.disk_capacity_bytes", "--disk-bytes", "SIZE", "Most bytes of its files", kSize,
     TIERCEL_MEMBER(std::size_t, cache.disk_capacity_bytes)},
    {"cache.disk_codec", "--disk-codec", "CODEC", "Of that directory: raw, lossless, int8 or int4", kCodecs,
     TIERCEL_MEMBER(Codec, cache.disk_codec)},
    {"cache.tier_writes", "--tier-writes", "WHICH",
     "Blocks that are written to the tiers: every, twice (seen), evicted (these, before they are)",
     "every, twice or evicted", TIERCEL_MEMBER(WritePolicy, cache.tier_writes)},
    {"cache.tier_deadline_ms", "--tier-deadline-ms", "MS", "Longest that one operation of a tier may take",
     "at least 1", TIERCEL_MEMBER(std::uint64_t, cache.tier_deadline_ms), at_least_one},
};

// Names of the values that have names.
template <class Value>
struct Named {
  std::string_view name;
  Value value;
};
constexpr Named<Compute> kComputeNames[] = {
    {"fast", Compute::Fast}, {"precise", Compute::Precise}, {"turbo", Compute::Turbo}};
constexpr Named<KvDType> kKvDTypeNames[] = {{"auto", KvDType::Auto}, {"int8", KvDType::Int8}};
constexpr Named<Codec> kCodecNames[] = {
    {"raw", Codec::Raw}, {"lossless", Codec::Lossless}, {"int8", Codec::Int8}, {"int4", Codec::Int4}};
constexpr Named<WritePolicy> kWritePolicyNames[] = {
    {"every", WritePolicy::EveryBlock}, {"twice", WritePolicy::SeenTwice}, {"evicted", WritePolicy::WhenEvicted}};
constexpr Named<RankTransport> kTransportNames[] = {{"tcp", RankTransport::Tcp}, {"gloo", RankTransport::Gloo}};
constexpr Named<bool> kBoolNames[] = {{"true", true}, {"false", false}, {"1", true}, {"0", false}};
constexpr Named<EvictionPolicyFactory (*)()> kPolicyNames[] = {{"adaptive", adaptive}, {"lru", lru}, {"lfu", lfu}};

template <class Names>
auto value_of(const Names& names, std::string_view name) -> std::optional<decltype(names[0].value)> {
  for (const auto& named : names) {
    if (named.name == name) return named.value;
  }
  return std::nullopt;
}

template <class Names, class Value>
std::optional<std::string> name_of(const Names& names, Value value) {
  for (const auto& named : names) {
    if (named.value == value) return std::string(named.name);
  }
  return std::nullopt;
}

template <class Number>
bool parse_number(std::string_view text, Number& value) {
  Number parsed{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  value = parsed;
  return true;
}

// parse(): false and the value as it was where the text is none.
bool parse(std::string_view text, bool, std::string& value) { return value = text, true; }
bool parse(std::string_view text, bool, std::uint32_t& value) { return parse_number(text, value); }
bool parse(std::string_view text, bool, double& value) { return parse_number(text, value); }

bool parse(std::string_view text, bool is_bytes, std::uint64_t& value) {
  if (!is_bytes) return parse_number(text, value);
  const auto bytes = parse_size(text);
  return bytes ? value = *bytes, true : false;
}

bool parse(std::string_view text, bool, bool& value) {
  const auto parsed = value_of(kBoolNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, Compute& value) {
  const auto parsed = value_of(kComputeNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, KvDType& value) {
  const auto parsed = value_of(kKvDTypeNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, Codec& value) {
  const auto parsed = value_of(kCodecNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, WritePolicy& value) {
  const auto parsed = value_of(kWritePolicyNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, RankTransport& value) {
  const auto parsed = value_of(kTransportNames, text);
  return parsed ? value = *parsed, true : false;
}

bool parse(std::string_view text, bool, EvictionPolicyFactory& value) {
  const auto parsed = value_of(kPolicyNames, text);
  return parsed ? value = (*parsed)(), true : false;
}

bool parse(std::string_view text, bool, std::vector<std::uint32_t>& values) {
  std::vector<std::uint32_t> parsed;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    if (!parse_number(text.substr(0, comma), parsed.emplace_back())) return false;
    if (comma + 1 == text.size()) return false;
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  values = std::move(parsed);
  return true;
}

std::string format_size(std::uint64_t bytes) {
  constexpr std::string_view kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) bytes /= 1024, ++unit;
  return fmt::format("{}{}", bytes, kUnits[unit]);
}

std::optional<std::string> format(bool, const std::string& value) { return value; }
std::optional<std::string> format(bool, std::uint32_t value) { return fmt::format("{}", value); }
std::optional<std::string> format(bool, double value) { return fmt::format("{}", value); }
std::optional<std::string> format(bool is_bytes, std::uint64_t value) {
  return is_bytes ? format_size(value) : fmt::format("{}", value);
}
std::optional<std::string> format(bool, bool value) { return value ? "true" : "false"; }
std::optional<std::string> format(bool, Compute value) { return name_of(kComputeNames, value); }
std::optional<std::string> format(bool, KvDType value) { return name_of(kKvDTypeNames, value); }
std::optional<std::string> format(bool, Codec value) { return name_of(kCodecNames, value); }
std::optional<std::string> format(bool, WritePolicy value) { return name_of(kWritePolicyNames, value); }
std::optional<std::string> format(bool, RankTransport value) { return name_of(kTransportNames, value); }
std::optional<std::string> format(bool, const std::vector<std::uint32_t>& values) {
  return fmt::format("{}", fmt::join(values, ","));
}
std::optional<std::string> format(bool, const EvictionPolicyFactory& value) {
  if (!value) return "adaptive";
  for (const auto& [name, policy] : kPolicyNames) {
    if (policy().target_type() == value.target_type()) return std::string(name);
  }
  return std::nullopt;
}

bool is_bytes(const OptionField& field) { return field.key.ends_with("_bytes"); }

Status refused(std::string_view name, std::string_view value, std::string_view range) {
  return Status::invalid_argument(
      fmt::format("{} is {}; give {}", name, value.empty() ? "empty" : printable(value), range));
}

// visit() with the value itself. It is not changed where `options` are const: the table keeps one kind of pointer.
template <class Visitor>
auto visit_value(const OptionField& field, const EngineOptions& options, Visitor&& visitor) {
  return std::visit([&](auto member) { return visitor(std::as_const(member(const_cast<EngineOptions&>(options)))); },
                    field.member);
}

// What is wrong with a value of this field, as text; empty: nothing.
template <class Value>
std::optional<std::string> bad_value(const OptionField& field, const Value& value) {
  if constexpr (std::is_enum_v<Value>) {
    if (!format(false, value)) return fmt::format("{}", static_cast<unsigned>(value));
  } else if constexpr (std::is_arithmetic_v<Value>) {
    if (field.holds && !field.holds(static_cast<double>(value))) return fmt::format("{}", value);
  } else if constexpr (std::is_same_v<Value, std::vector<std::uint32_t>>) {
    for (const std::uint32_t item : value) {
      if (field.holds && !field.holds(item)) return fmt::format("{}", fmt::join(value, ","));
    }
  }
  return std::nullopt;
}

}  // namespace

bool OptionField::is_text() const {
  return std::visit(
      []<class Value>(OptionMember<Value>) {
        return std::is_same_v<Value, std::string> || std::is_enum_v<Value> ||
               std::is_same_v<Value, EvictionPolicyFactory>;
      },
      member);
}

Status OptionField::set(EngineOptions& options, std::string_view name, std::string_view text) const {
  return std::visit(
      [&]<class Value>(OptionMember<Value> value_in) -> Status {
        Value value{};
        if (!parse(text, is_bytes(*this), value)) return refused(name, text, range);
        if (bad_value(*this, value)) return refused(name, text, range);
        value_in(options) = std::move(value);
        return {};
      },
      member);
}

Status OptionField::check(const EngineOptions& options, std::string_view name) const {
  const auto bad = visit_value(*this, options, [&](const auto& value) { return bad_value(*this, value); });
  return bad ? refused(name, *bad, range) : Status();
}

std::optional<std::string> OptionField::text(const EngineOptions& options) const {
  return visit_value(*this, options, [&](const auto& value) { return format(is_bytes(*this), value); });
}

bool OptionField::is_default(const EngineOptions& options) const { return text(options) == text(EngineOptions()); }

std::span<const OptionField> option_fields() { return kFields; }

const OptionField* find_option(std::string_view key) {
  const auto* field = std::ranges::find(kFields, key, &OptionField::key);
  return field == std::end(kFields) ? nullptr : field;
}

std::optional<std::size_t> parse_size(std::string_view text) {
  std::size_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc()) return std::nullopt;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit.empty()) return count;
  const std::size_t exponent = std::string_view("KMGT").find(static_cast<char>(std::toupper(unit[0])));
  const bool known = exponent != std::string_view::npos && (unit.size() == 1 || unit.substr(1) == "iB");
  const std::size_t shift = 10 * (exponent + 1);
  if (!known || count > (SIZE_MAX >> shift)) return std::nullopt;
  return count << shift;
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMost = 200;
  std::string line(text.substr(0, kMost));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '\x7f') c = '?';
  }
  return text.size() > kMost ? line + "..." : line;
}

}  // namespace tiercel
