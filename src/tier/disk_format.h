// The bytes of the disk tier, as docs/disk_format.md has them. Encoding and decoding of plain structs; no I/O.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tiercel/tier_store.h"
#include "tiercel/types.h"

namespace tiercel::disk {

static_assert(std::endian::native == std::endian::little, "the structs below are written as they are in memory");

inline constexpr std::size_t kPage = 4096;
inline constexpr std::uint16_t kVersion = 2;

constexpr std::size_t pages_of(std::size_t bytes) { return (bytes + kPage - 1) / kPage; }
constexpr std::size_t padded(std::size_t bytes) { return pages_of(bytes) * kPage; }

enum class RecordKind : std::uint8_t { Block = 1, ErasedKeys = 2, ErasedTenant = 3, ErasedFingerprint = 4 };
inline constexpr std::uint8_t kCopyable = 1;
inline constexpr std::uint8_t kEncrypted = 2;

struct SegmentHeader {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t zero;
  std::uint64_t number;
  std::uint64_t hash;
};
static_assert(sizeof(SegmentHeader) == 32);

struct RecordHeader {
  std::array<char, 4> magic;
  std::uint16_t version;
  RecordKind kind;
  std::uint8_t flags;
  Fingerprint fingerprint;
  BlockKey key;
  BlockKey parent;
  std::uint64_t tenant;
  std::uint64_t adapter_id;
  std::uint64_t sequence;
  std::uint32_t tokens;
  std::uint32_t payload_bytes;
  Codec codec;
  std::array<std::uint8_t, 3> zero_codec;
  std::uint32_t encryption_key;
  std::array<std::byte, 12> nonce;
  std::uint32_t zero_nonce;
  std::array<std::byte, 16> tag;
  std::uint64_t token_hash;
  std::uint64_t payload_hash;
  std::uint32_t position;
  std::uint32_t zero_position;
  std::array<std::uint64_t, 2> zero;
  std::uint64_t hash;

  // Of the record: header and tokens; payload; both, padded to pages.
  std::size_t head_bytes() const { return padded(sizeof(RecordHeader) + std::size_t{tokens} * sizeof(TokenId)); }
  std::size_t record_bytes() const { return head_bytes() + padded(payload_bytes); }
};
static_assert(sizeof(RecordHeader) == 176 && offsetof(RecordHeader, tenant) == 56 &&
              offsetof(RecordHeader, adapter_id) == 64 && offsetof(RecordHeader, codec) == 88 &&
              offsetof(RecordHeader, nonce) == 96 && offsetof(RecordHeader, tag) == 112 &&
              offsetof(RecordHeader, hash) == 168);
// What AES-GCM authenticates besides tokens and payload.
inline constexpr std::size_t kAssociatedBytes = offsetof(RecordHeader, nonce);

struct FooterEntry {
  Fingerprint fingerprint;
  BlockKey key;
  BlockKey parent;
  std::uint64_t tenant;
  std::uint64_t adapter_id;
  std::uint64_t sequence;
  std::uint32_t page;
  std::uint32_t tokens;
  std::uint32_t payload_bytes;
  std::uint32_t encryption_key;
  RecordKind kind;
  std::uint8_t flags;
  Codec codec;
  std::uint8_t zero;
  std::uint32_t position;

  std::size_t head_bytes() const { return padded(sizeof(RecordHeader) + std::size_t{tokens} * sizeof(TokenId)); }
  std::size_t record_bytes() const { return head_bytes() + padded(payload_bytes); }
  std::uint64_t offset() const { return std::uint64_t{page} * kPage; }
};
static_assert(sizeof(FooterEntry) == 96);

struct FooterHeader {
  std::array<char, 8> magic;
  std::uint64_t zero;
};

struct FooterTrailer {
  std::array<char, 8> magic;
  std::uint32_t page;  // of the footer's beginning
  std::uint32_t entries;
  std::uint64_t entries_hash;
  std::uint64_t hash;
};
static_assert(sizeof(FooterTrailer) == 32);

std::uint64_t hash_of(std::span<const std::byte> bytes);

SegmentHeader make_segment_header(std::uint64_t number);
bool is_good(const SegmentHeader& header, std::uint64_t number);
// Whether it is the header of some segment, of whatever number and version.
bool is_whole(const SegmentHeader& header);

// Sets magic, version and hash.
void seal(RecordHeader& header);
// Whether it is a record header of this version, whole, and makes sense.
bool is_good(const RecordHeader& header);
FooterEntry entry_of(const RecordHeader& header, std::uint64_t offset);

// The whole footer, in whole pages, for a file whose records end at `offset`.
std::string make_footer(std::span<const FooterEntry> entries, std::uint64_t offset);
// From the last bytes of a file of `file_bytes`: where the footer is, or nothing where there is none.
struct FooterPlace {
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  FooterTrailer trailer = {};
};
std::optional<FooterPlace> find_footer(const FooterTrailer& trailer, std::uint64_t file_bytes);
// The entries of a footer's bytes; nothing where they are damaged or do not make sense.
std::optional<std::span<const FooterEntry>> read_footer(const FooterPlace& place, std::span<const std::byte> bytes);

std::string segment_name(std::uint64_t number);
std::optional<std::uint64_t> segment_number(std::string_view name);

}  // namespace tiercel::disk
