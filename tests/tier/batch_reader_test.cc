#include "tier/batch_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/tier/known_file.h"
#include "tier/read_piece.h"

namespace tiercel {
namespace {

class BatchReaderTest : public testing::TestWithParam<BatchReader::Method> {
 protected:
  void SetUp() override {
    if (GetParam() == BatchReader::Method::Fastest && !reader_.uses_uring()) GTEST_SKIP() << "no io_uring here";
  }
  BatchReader reader_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Methods, BatchReaderTest,
                         testing::Values(BatchReader::Method::Fastest, BatchReader::Method::Threads),
                         [](const auto& method) {
                           return method.param == BatchReader::Method::Threads ? "Threads" : "Uring";
                         });

TEST_P(BatchReaderTest, ReadsAnyPlacesFromTheDiskAndFromThePageCache) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    if (seed % 3 != 0) known_file().leave_page_cache();
    RandomBatch batch(known_file(), seed);
    reader_.read(batch.reads);
    for (const BatchRead& read : batch.reads) {
      ASSERT_TRUE(read.status.ok()) << read.status.to_string();
      ASSERT_TRUE(known_file().holds(read)) << "seed " << seed << ", offset " << read.offset;
    }
  }
}

TEST_P(BatchReaderTest, SaysWhichReadsTheFileEndsBefore) {
  for (const bool cached : {false, true}) {
    for (const std::size_t begin : {kFileBytes / kPageBytes * kPageBytes, kFileBytes - 800}) {
      if (!cached) known_file().leave_page_cache();
      const Memory memory = allocate(10 * kPageBytes);
      const std::span<std::byte> target(memory.get(), 10 * kPageBytes);
      std::vector<BatchRead> reads = {
          known_file().read(begin - kPageBytes, target.subspan(0, kPageBytes)),
          known_file().read(begin, target.subspan(kPageBytes, kPageBytes)),  // the end is in it
          known_file().read(begin + kPageBytes, target.subspan(2 * kPageBytes, kPageBytes)),
          known_file().read(kFileBytes - 7, target.subspan(4 * kPageBytes, 7)),
          known_file().read(kFileBytes - 7, target.subspan(5 * kPageBytes, 8)),
          known_file().read(std::uint64_t{1} << 40, target.subspan(6 * kPageBytes, kPageBytes)),
          known_file().read(0, {}),
      };
      reader_.read(reads);
      using enum StatusCode;
      const std::vector<StatusCode> expected = {Ok, NotFound, NotFound, Ok, NotFound, NotFound, Ok};
      for (std::size_t i = 0; i < reads.size(); ++i) EXPECT_EQ(reads[i].status.code(), expected[i]) << i;
      EXPECT_TRUE(known_file().holds(reads[0]));
      EXPECT_TRUE(known_file().holds(reads[3]));
    }
  }
}

TEST_P(BatchReaderTest, AnErrorIsOfTheReadsItHitsAlone) {
  const int directory = ::open(testing::TempDir().c_str(), O_RDONLY);
  const Memory memory = allocate(4 * kPageBytes);
  const std::span<std::byte> target(memory.get(), 4 * kPageBytes);
  std::vector<BatchRead> reads = {
      known_file().read(0, target.subspan(0, kPageBytes)),
      {.buffered_descriptor = directory, .offset = kPageBytes, .bytes = target.subspan(kPageBytes, kPageBytes)},
      {.buffered_descriptor = -1, .offset = 2 * kPageBytes, .bytes = target.subspan(2 * kPageBytes, kPageBytes)},
      known_file().read(3 * kPageBytes, target.subspan(3 * kPageBytes, kPageBytes)),
  };
  reader_.read(reads);
  ::close(directory);
  EXPECT_TRUE(reads[0].status.ok());
  EXPECT_EQ(reads[1].status.to_string(), "Unavailable: cannot read: Is a directory");
  EXPECT_EQ(reads[2].status.to_string(), "Unavailable: cannot read: Bad file descriptor");
  EXPECT_TRUE(reads[3].status.ok());
  EXPECT_TRUE(known_file().holds(reads[3]));
}

TEST_P(BatchReaderTest, AllowsSeveralCallersAtOnce) {
  std::vector<std::thread> callers;
  for (std::uint64_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (std::uint64_t seed = 0; seed < 15; ++seed) {
        if (seed % 2 == 0) known_file().leave_page_cache();
        RandomBatch batch(known_file(), 1000 * (1 + caller) + seed);
        reader_.read(batch.reads);
        for (const BatchRead& read : batch.reads) EXPECT_TRUE(read.status.ok() && known_file().holds(read));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST_P(BatchReaderTest, LeavesThePageCacheAsItIs) {
  if (!known_file().can_be_direct()) GTEST_SKIP() << "no O_DIRECT here";
  known_file().leave_page_cache();
  if (known_file().cached_pages() != 0) GTEST_SKIP() << "the page cache keeps what it has here";
  const Memory memory = allocate(3 * kPieceBytes);
  BatchRead read = known_file().read(kPageBytes, {memory.get(), 3 * kPieceBytes});
  reader_.read({&read, 1});
  EXPECT_TRUE(read.status.ok() && known_file().holds(read));
  EXPECT_EQ(known_file().cached_pages(), 0u);
  BatchRead unaligned = known_file().read(kPageBytes, {memory.get() + 1, 2 * kPageBytes});
  reader_.read({&unaligned, 1});
  EXPECT_TRUE(unaligned.status.ok() && known_file().holds(unaligned));
  EXPECT_NE(known_file().cached_pages(), 0u);
}

TEST(ReadPieces, NeighboursAreOneOperation) {
  constexpr std::size_t kEnvelopeBytes = kPageBytes, kBlockBytes = 180 * kPageBytes, kRecords = 61;
  const Memory envelopes = allocate(kRecords * kEnvelopeBytes), blocks = allocate(kRecords * kBlockBytes);
  std::vector<BatchRead> reads;
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < kRecords; ++i) {
    reads.push_back({.buffered_descriptor = 3,
                     .direct_descriptor = 4,
                     .offset = offset,
                     .bytes = {envelopes.get() + i * kEnvelopeBytes, kEnvelopeBytes}});
    reads.push_back({.buffered_descriptor = 3,
                     .direct_descriptor = 4,
                     .offset = offset + kEnvelopeBytes,
                     .bytes = {blocks.get() + i * kBlockBytes, kBlockBytes}});
    offset += kEnvelopeBytes + kBlockBytes;
  }
  ReadPieces pieces(reads);
  EXPECT_EQ(pieces.all().size(), (offset + kPieceBytes - 1) / kPieceBytes);
  EXPECT_EQ(pieces.all()[0].buffers().size(), 4u);
  for (const ReadPiece& piece : pieces.all()) EXPECT_EQ(piece.descriptor(), 4);

  reads[2].offset += kPageBytes;    // no neighbour any more
  reads[5].direct_descriptor = -1;  // another way to read
  reads[8].bytes = reads[8].bytes.subspan(1);
  EXPECT_EQ(ReadPieces(std::span(reads).first(9)).all().size(), 6u);
}

TEST(ReadPieces, AnOperationHasNoMoreBuffersThanTheSystemTakes) {
  constexpr std::size_t kReads = 2500;
  const Memory memory = allocate(2 * kReads);
  std::vector<BatchRead> reads;
  for (std::size_t i = 0; i < kReads; ++i) reads.push_back(known_file().read(i, {memory.get() + 2 * i, 1}));
  EXPECT_EQ(ReadPieces(reads).all().size(), 3u);
  BatchReader().read(reads);
  for (const BatchRead& read : reads) EXPECT_TRUE(read.status.ok() && known_file().holds(read));
}

TEST(ReadPieces, FallsBackToThePageCacheWhereDirectReadsAreRefused) {
  const Memory memory = allocate(2 * kPageBytes);
  BatchRead read{.buffered_descriptor = 3, .direct_descriptor = 4, .bytes = {memory.get(), 2 * kPageBytes}};
  ReadPieces pieces({&read, 1});
  ReadPiece& piece = pieces.all()[0];
  ReadPiece ends_within = piece;
  piece.take(-EINTR);
  EXPECT_EQ(piece.descriptor(), 4);
  piece.take(-EINVAL);
  EXPECT_EQ(piece.descriptor(), 3);
  EXPECT_FALSE(piece.is_complete());
  piece.take(-EINVAL);
  EXPECT_TRUE(piece.is_complete());
  piece.report({&read, 1});
  EXPECT_EQ(read.status.code(), StatusCode::Unavailable);

  ends_within.take(100);  // what follows is not aligned
  EXPECT_EQ(ends_within.descriptor(), 3);
  EXPECT_EQ(ends_within.offset(), 100u);
  EXPECT_EQ(ends_within.buffers()[0].iov_base, memory.get() + 100);
}

}  // namespace
}  // namespace tiercel
