#include "tier/disk_format.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tiercel::disk {
namespace {

constexpr std::array<char, 8> kSegmentMagic = {'T', 'I', 'E', 'R', 'C', 'E', 'L', 'S'};
constexpr std::array<char, 4> kRecordMagic = {'T', 'K', 'V', 'R'};
constexpr std::array<char, 8> kFooterMagic = {'T', 'I', 'E', 'R', 'C', 'E', 'L', 'F'};
constexpr std::array<char, 8> kTrailerMagic = {'T', 'I', 'E', 'R', 'C', 'E', 'L', 'T'};
constexpr std::string_view kPrefix = "segment-";
constexpr std::string_view kSuffix = ".kv";
constexpr std::size_t kDigits = 16;

// All of a struct but its last field, which is its hash.
template <class Struct>
std::uint64_t hash_before_last(const Struct& value) {
  return XXH3_64bits(&value, sizeof value - sizeof value.hash);
}

bool makes_sense(RecordKind kind, std::uint32_t payload_bytes) {
  switch (kind) {
    case RecordKind::Block: return payload_bytes > 0;
    case RecordKind::ErasedKeys: return payload_bytes % sizeof(BlockKey) == 0;
    case RecordKind::ErasedTenant:
    case RecordKind::ErasedFingerprint: return payload_bytes == 0;
  }
  return false;
}

}  // namespace

std::uint64_t hash_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

SegmentHeader make_segment_header(std::uint64_t number) {
  SegmentHeader header{.magic = kSegmentMagic, .version = kVersion, .zero = 0, .number = number, .hash = 0};
  header.hash = hash_before_last(header);
  return header;
}

bool is_good(const SegmentHeader& header, std::uint64_t number) {
  return header.magic == kSegmentMagic && header.version == kVersion && header.number == number &&
         header.hash == hash_before_last(header);
}

bool is_whole(const SegmentHeader& header) {
  return header.magic == kSegmentMagic && header.hash == hash_before_last(header);
}

void seal(RecordHeader& header) {
  header.magic = kRecordMagic;
  header.version = kVersion;
  header.hash = hash_before_last(header);
}

bool is_good(const RecordHeader& header) {
  return header.magic == kRecordMagic && header.version == kVersion && header.hash == hash_before_last(header) &&
         makes_sense(header.kind, header.payload_bytes);
}

FooterEntry entry_of(const RecordHeader& header, std::uint64_t offset) {
  return {.fingerprint = header.fingerprint,
          .key = header.key,
          .parent = header.parent,
          .tenant = header.tenant,
          .adapter_id = header.adapter_id,
          .sequence = header.sequence,
          .page = static_cast<std::uint32_t>(offset / kPage),
          .tokens = header.tokens,
          .payload_bytes = header.payload_bytes,
          .encryption_key = header.encryption_key,
          .kind = header.kind,
          .flags = header.flags,
          .codec = header.codec,
          .zero = 0,
          .position = header.position};
}

std::string make_footer(std::span<const FooterEntry> entries, std::uint64_t offset) {
  std::string bytes(padded(sizeof(FooterHeader) + entries.size_bytes() + sizeof(FooterTrailer)), '\0');
  const FooterHeader header{.magic = kFooterMagic, .zero = 0};
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!entries.empty()) std::memcpy(bytes.data() + sizeof header, entries.data(), entries.size_bytes());
  FooterTrailer trailer{.magic = kTrailerMagic,
                        .page = static_cast<std::uint32_t>(offset / kPage),
                        .entries = static_cast<std::uint32_t>(entries.size()),
                        .entries_hash = hash_of(std::as_bytes(entries)),
                        .hash = 0};
  trailer.hash = hash_before_last(trailer);
  std::memcpy(bytes.data() + bytes.size() - sizeof trailer, &trailer, sizeof trailer);
  return bytes;
}

std::optional<FooterPlace> find_footer(const FooterTrailer& trailer, std::uint64_t file_bytes) {
  if (trailer.magic != kTrailerMagic || trailer.hash != hash_before_last(trailer)) return std::nullopt;
  const std::uint64_t offset = std::uint64_t{trailer.page} * kPage;
  const std::size_t bytes =
      padded(sizeof(FooterHeader) + trailer.entries * sizeof(FooterEntry) + sizeof(FooterTrailer));
  if (offset < kPage || offset + bytes != file_bytes) return std::nullopt;
  return FooterPlace{.offset = offset, .bytes = bytes, .trailer = trailer};
}

std::optional<std::span<const FooterEntry>> read_footer(const FooterPlace& place, std::span<const std::byte> bytes) {
  const std::size_t count = place.trailer.entries;
  if (bytes.size() != place.bytes || std::memcmp(bytes.data(), kFooterMagic.data(), kFooterMagic.size()) != 0) {
    return std::nullopt;
  }
  const auto raw = bytes.subspan(sizeof(FooterHeader), count * sizeof(FooterEntry));
  if (hash_of(raw) != place.trailer.entries_hash) return std::nullopt;
  const std::span entries(reinterpret_cast<const FooterEntry*>(raw.data()), count);
  std::uint64_t end = kPage;
  for (const FooterEntry& entry : entries) {
    const bool good = makes_sense(entry.kind, entry.payload_bytes) && entry.offset() >= end &&
                      entry.offset() + entry.record_bytes() <= place.offset;
    if (!good) return std::nullopt;
    end = entry.offset() + entry.record_bytes();
  }
  return entries;
}

std::string segment_name(std::uint64_t number) { return fmt::format("{}{:016x}{}", kPrefix, number, kSuffix); }

std::optional<std::uint64_t> segment_number(std::string_view name) {
  if (name.size() != kPrefix.size() + kDigits + kSuffix.size() || !name.starts_with(kPrefix) ||
      !name.ends_with(kSuffix)) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(kPrefix.size(), kDigits);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
  if (error != std::errc() || end != digits.data() + digits.size() || segment_name(number) != name) return std::nullopt;
  return number;
}

}  // namespace tiercel::disk
