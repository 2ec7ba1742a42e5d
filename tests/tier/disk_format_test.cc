// docs/disk_format.md, byte for byte.
#include "tier/disk_format.h"

#include <cstring>

#include <gtest/gtest.h>

#include "tests/tier/disk_fixture.h"

namespace tiercel::disk {
namespace {

static_assert(offsetof(RecordHeader, fingerprint) == 8 && offsetof(RecordHeader, key) == 24 &&
              offsetof(RecordHeader, parent) == 40 && offsetof(RecordHeader, sequence) == 72 &&
              offsetof(RecordHeader, tokens) == 80 && offsetof(RecordHeader, payload_bytes) == 84 &&
              offsetof(RecordHeader, encryption_key) == 92 && offsetof(RecordHeader, token_hash) == 128 &&
              offsetof(RecordHeader, payload_hash) == 136);
static_assert(offsetof(FooterEntry, tenant) == 48 && offsetof(FooterEntry, page) == 72 &&
              offsetof(FooterEntry, encryption_key) == 84 && offsetof(FooterEntry, kind) == 88);

class DiskFormat : public DiskFixture {};

// One segment of two blocks and an erasure, as this version writes it.
TEST_F(DiskFormat, ASegmentHasTheseBytes) {
  {
    const auto store = open();
    for (std::uint64_t i = 1; i <= 2; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
    ASSERT_TRUE(store->erase_tenant(99).ok());
  }
  const std::string golden = TIERCEL_TEST_DATA "/disk_segment.kv";
  if (std::getenv("TIERCEL_WRITE_GOLDEN") != nullptr) set_content(golden, content(segments().at(0)));
  EXPECT_TRUE(content(segments().at(0)) == content(golden)) << "the bytes changed: raise the version";

  std::filesystem::copy_file(golden, segments().at(0), std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(read(*open(), DiskBlock(1, 2)), StatusCode::Ok);
}

TEST_F(DiskFormat, FootersAreReadAsTheyWereMadeOrNotAtAll) {
  std::vector<FooterEntry> entries;
  std::uint64_t offset = kPage;
  for (std::uint32_t i = 0; i < 100; ++i) {
    RecordHeader header{};
    header.kind = RecordKind::Block;
    header.key = {i, i};
    header.tokens = i;
    header.payload_bytes = 1 + 1000 * i;
    entries.push_back(entry_of(header, offset));
    offset += header.record_bytes();
  }
  std::string footer = make_footer(entries, offset);
  ASSERT_EQ(footer.size() % kPage, 0u);
  const auto read_back = [&]() -> std::optional<std::vector<FooterEntry>> {
    FooterTrailer trailer;
    std::memcpy(&trailer, footer.data() + footer.size() - sizeof trailer, sizeof trailer);
    const auto place = find_footer(trailer, offset + footer.size());
    if (!place || place->bytes != footer.size()) return std::nullopt;
    const auto found = read_footer(*place, std::as_bytes(std::span(footer)));
    if (!found) return std::nullopt;
    return std::vector<FooterEntry>(found->begin(), found->end());
  };
  const auto whole = read_back();
  ASSERT_TRUE(whole);
  ASSERT_EQ(whole->size(), entries.size());
  EXPECT_EQ(std::memcmp(whole->data(), entries.data(), entries.size() * sizeof(FooterEntry)), 0);
  for (std::size_t at = 0; at < footer.size(); ++at) {
    const std::size_t end = sizeof(FooterHeader) + entries.size() * sizeof(FooterEntry);
    if (at >= 8 && at < sizeof(FooterHeader)) continue;                     // zeros
    if (at >= end && at < footer.size() - sizeof(FooterTrailer)) continue;  // padding
    footer[at] ^= 4;
    EXPECT_FALSE(read_back()) << at;
    footer[at] ^= 4;
  }
}

TEST(DiskFormatNames, SegmentsAreNamedByTheirNumber) {
  EXPECT_EQ(segment_name(0x1f), "segment-000000000000001f.kv");
  for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX}) {
    EXPECT_EQ(segment_number(segment_name(number)), number);
  }
  for (const char* name : {"", "LOCK", "segment-1.kv", "segment-000000000000001F.kv", "segment-000000000000001g.kv",
                           "segment-+00000000000001f.kv", "segment-000000000000001f.kv~"}) {
    EXPECT_FALSE(segment_number(name)) << name;
  }
}

}  // namespace
}  // namespace tiercel::disk
