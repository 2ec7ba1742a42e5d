#include "tier/disk_store.h"

#include <sys/stat.h>

#include <thread>

#include "tests/tier/disk_fixture.h"

namespace tiercel {
namespace {

using DiskStoreTest = DiskFixture;

// Of two tenants, or two adapters of one, whose keys collide neither gets the other's KV.
TEST_F(DiskStoreTest, AnotherTenantsOrAdaptersBlockIsNotFound) {
  for (const int restarted : {0, 1}) {
    if (restarted == 0) {
      ASSERT_TRUE(write(*open(), DiskBlock(1, 1), 5, 7).ok());
    }
    const auto store = open();
    EXPECT_EQ(read(*store, DiskBlock(1, 1), 6, 7), StatusCode::NotFound);
    EXPECT_EQ(read(*store, DiskBlock(1, 1), 5, 8), StatusCode::NotFound);
    EXPECT_EQ(read(*store, DiskBlock(1, 1), 5, 0), StatusCode::NotFound);
    EXPECT_EQ(read(*store, DiskBlock(1, 1), 5, 7), StatusCode::Ok);
  }
  const auto store = open();
  ASSERT_TRUE(write(*store, DiskBlock(1, 1), 5, 8).ok()) << "the newer one";
  EXPECT_EQ(read(*store, DiskBlock(1, 1), 5, 7), StatusCode::NotFound);
  EXPECT_EQ(read(*store, DiskBlock(1, 1), 5, 8), StatusCode::Ok);
}

TEST_F(DiskStoreTest, GivesBackWhatWasWritten) {
  const auto store = open();
  for (std::uint64_t i = 1; i <= 10; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  for (std::uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(read(*store, DiskBlock(1, i)), StatusCode::Ok) << i;
  EXPECT_EQ(read(*store, DiskBlock(2, 1)), StatusCode::NotFound);
  EXPECT_EQ(leading(*store, 1, 20), 10u);
  EXPECT_EQ(leading(*store, 2, 20), 0u);
  ASSERT_TRUE(write(*store, DiskBlock(1, 3)).ok()) << "known already";
  const TierStats stats = store->stats();
  EXPECT_EQ(stats.stored_blocks, 10u);
  EXPECT_EQ(stats.written_blocks, 10u);
  EXPECT_EQ(stats.written_bytes, 10 * kRecordBytes);
  EXPECT_EQ(stats.read_blocks, 10u);
  EXPECT_EQ(stats.missed_blocks, 1u);
}

TEST_F(DiskStoreTest, ContentIsComparedNotBelieved) {
  const auto store = open();
  ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
  DiskBlock other(1, 1);
  ++other.tokens.back();
  EXPECT_EQ(read(*store, other), StatusCode::NotFound);
  other = DiskBlock(1, 1);
  ++other.parent.low;
  EXPECT_EQ(read(*store, other), StatusCode::NotFound);
  other = DiskBlock(1, 1);
  other.bytes.resize(100);
  EXPECT_EQ(read(*store, other), StatusCode::NotFound);
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Ok);
  EXPECT_EQ(store->stats().corrupt_blocks, 0u);
}

TEST_F(DiskStoreTest, SurvivesARestart) {
  for (int restart = 0; restart < 4; ++restart) {
    const auto store = open();
    for (int earlier = 0; earlier < restart; ++earlier) {
      for (std::uint64_t i = 1; i <= 8; ++i) {
        EXPECT_EQ(read(*store, DiskBlock(static_cast<std::uint64_t>(earlier), i)), StatusCode::Ok);
      }
    }
    for (std::uint64_t i = 1; i <= 8; ++i) {
      ASSERT_TRUE(write(*store, DiskBlock(static_cast<std::uint64_t>(restart), i)).ok());
    }
  }
}

TEST_F(DiskStoreTest, OtherModelsNeverMatch) {
  ASSERT_TRUE(write(*open(), DiskBlock(1, 1)).ok());
  EXPECT_EQ(read(*try_open(kDiskLayout, Fingerprint{{11, 23}}).value(), DiskBlock(1, 1)), StatusCode::NotFound);
  KvLayout wider = kDiskLayout;
  wider.head_dim = 16;
  EXPECT_EQ(read(*try_open(wider).value(), DiskBlock(1, 1)), StatusCode::NotFound);
  EXPECT_EQ(read(*open(), DiskBlock(1, 1)), StatusCode::Ok) << "and it is still there for its own";
}

TEST_F(DiskStoreTest, IsForItsOwnerOnly) {
  const mode_t mask = ::umask(0);
  ASSERT_TRUE(write(*open(), DiskBlock(1, 1)).ok());
  ::umask(mask);
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(options.directory).permissions(), perms::owner_all);
  for (const auto& path : segments()) {
    EXPECT_EQ(std::filesystem::status(path).permissions(), perms::owner_read | perms::owner_write);
  }
}

TEST_F(DiskStoreTest, OneWriterManyReaders) {
  auto writer = open();
  ASSERT_TRUE(write(*writer, DiskBlock(1, 1)).ok());
  const auto second = try_open();
  EXPECT_EQ(second.status().code(), StatusCode::Rejected);
  EXPECT_NE(second.status().message().find(options.directory), std::string::npos) << second.status().message();

  options.read_only = true;
  const auto reader = open();
  EXPECT_EQ(read(*reader, DiskBlock(1, 1)), StatusCode::Ok);
  ASSERT_TRUE(write(*writer, DiskBlock(1, 2)).ok());
  while (leading(*reader, 1, 2) < 2) std::this_thread::yield();
  EXPECT_EQ(read(*reader, DiskBlock(1, 2)), StatusCode::Ok);
  // What the writer gives back, a reader may still read or miss, and nothing else.
  for (std::uint64_t i = 1; i <= 200; ++i) ASSERT_TRUE(write(*writer, DiskBlock(2, i)).ok());
  const StatusCode late = read(*reader, DiskBlock(1, 1));
  EXPECT_TRUE(late == StatusCode::Ok || late == StatusCode::NotFound);
  EXPECT_TRUE(write(*reader, DiskBlock(7, 1)).ok()) << "passed over";
  EXPECT_EQ(read(*reader, DiskBlock(7, 1)), StatusCode::NotFound);
  writer.reset();
  options.read_only = false;
  EXPECT_TRUE(try_open().ok());
}

TEST_F(DiskStoreTest, KeepsToItsCapacityAndToWhatIsUsed) {
  const auto store = open();
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  for (std::uint64_t i = 0; i < 500; ++i) {
    ASSERT_TRUE(write(*store, DiskBlock(2 + i / 5, 1 + i % 5)).ok());
    EXPECT_LE(file_bytes(), options.capacity_bytes);
    if (i % 8 != 0) continue;
    EXPECT_EQ(leading(*store, 1, 4), 4u);
  }
  for (std::uint64_t i = 1; i <= 4; ++i) EXPECT_EQ(read(*store, DiskBlock(1, i)), StatusCode::Ok);
  EXPECT_EQ(read(*store, DiskBlock(2, 1)), StatusCode::NotFound);
  EXPECT_EQ(read(*store, DiskBlock(101, 5)), StatusCode::Ok);
  EXPECT_GT(store->stats().evicted_blocks, 400u);
  EXPECT_GT(store->stats().stored_blocks, 30u);
  EXPECT_EQ(store->stats().stored_bytes, file_bytes());
}

TEST_F(DiskStoreTest, ErasuresOutliveTheProcess) {
  const std::uint64_t ours = 5, theirs = 6;
  {
    const auto store = open();
    for (std::uint64_t i = 1; i <= 6; ++i) {
      ASSERT_TRUE(write(*store, DiskBlock(1, i), ours).ok());
      ASSERT_TRUE(write(*store, DiskBlock(2, i), theirs).ok());
      ASSERT_TRUE(write(*store, DiskBlock(3, i), ours).ok());
    }
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 3), DiskBlock(1, 4).tokens).ok());
    EXPECT_EQ(leading(*store, 1, 6), 3u);
    EXPECT_EQ(read(*store, DiskBlock(1, 6)), StatusCode::NotFound) << "what is behind goes too";
    const auto other_tokens = DiskBlock(9, 9).tokens;
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 0), other_tokens).ok());
    EXPECT_EQ(leading(*store, 1, 6), 3u);
    EXPECT_EQ(store->stats().erased_blocks, 3u);
  }
  {
    const auto store = open();
    EXPECT_EQ(leading(*store, 1, 6), 3u);
    EXPECT_EQ(read(*store, DiskBlock(1, 6)), StatusCode::NotFound);
    ASSERT_TRUE(write(*store, DiskBlock(1, 4), ours).ok()) << "and may come again";
    ASSERT_TRUE(store->erase_tenant(theirs).ok());
  }
  {
    const auto store = open();
    EXPECT_EQ(leading(*store, 1, 6), 4u);
    EXPECT_EQ(leading(*store, 2, 6), 0u);
    EXPECT_EQ(leading(*store, 3, 6), 6u);
    ASSERT_TRUE(store->erase_all().ok());
    EXPECT_EQ(store->stats().stored_blocks, 0u);
    ASSERT_TRUE(write(*store, DiskBlock(4, 1)).ok());
  }
  const auto store = open();
  EXPECT_EQ(store->stats().stored_blocks, 1u);
  EXPECT_EQ(read(*store, DiskBlock(4, 1)), StatusCode::Ok);
}

TEST_F(DiskStoreTest, FirstBlocksAreErasedByTheirBeginning) {
  const auto store = open();
  for (std::uint64_t path = 1; path <= 3; ++path) {
    for (std::uint64_t i = 1; i <= 3; ++i) {
      DiskBlock block(path, i);
      if (i == 1) block.parent = {1, 1};
      ASSERT_TRUE(write(*store, block).ok());
    }
  }
  const auto tokens = DiskBlock(2, 1).tokens;
  ASSERT_TRUE(store->erase({1, 1}, std::span(tokens).first(3)).ok());
  EXPECT_EQ(leading(*store, 1, 3), 3u);
  EXPECT_EQ(leading(*store, 2, 3), 0u);
  EXPECT_EQ(store->stats().stored_blocks, 6u);
}

TEST_F(DiskStoreTest, EncryptedBlocksOpenWithTheirKeyOnly) {
  const DiskBlock block(1, 1);
  options.encryption_key = std::string(32, 'k');
  {
    const auto store = open();
    ASSERT_TRUE(write(*store, block).ok());
    ASSERT_TRUE(write(*store, DiskBlock(1, 2)).ok());
    EXPECT_EQ(read(*store, block), StatusCode::Ok);
    ASSERT_TRUE(store->erase(block.key, DiskBlock(1, 2).tokens).ok());
    EXPECT_EQ(read(*store, DiskBlock(1, 2)), StatusCode::NotFound);
  }
  const std::string file = content(segments()[0]);
  const std::string bytes(reinterpret_cast<const char*>(block.bytes.data()), 16);
  const std::string tokens(reinterpret_cast<const char*>(block.tokens.data()), 16);
  EXPECT_EQ(file.find(bytes), std::string::npos);
  EXPECT_EQ(file.find(tokens), std::string::npos);
  EXPECT_EQ(read(*open(), block), StatusCode::Ok);
  EXPECT_EQ(read(*open(), DiskBlock(1, 2)), StatusCode::NotFound);
  options.encryption_key = std::string(32, 'x');
  EXPECT_EQ(read(*open(), block), StatusCode::NotFound);
  options.encryption_key = {};
  EXPECT_EQ(read(*open(), block), StatusCode::NotFound);
  ASSERT_TRUE(write(*open(), block).ok());
  options.encryption_key = std::string(32, 'k');
  EXPECT_EQ(read(*open(), block), StatusCode::Ok);
}

TEST_F(DiskStoreTest, SaysWhatItCannotUse) {
  EXPECT_EQ(disk_tier({}).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(disk_tier({.directory = "x", .segment_bytes = 1}).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(disk_tier({.directory = "x", .encryption_key = "short"}).status().code(), StatusCode::InvalidArgument);
  options.capacity_bytes = 3 * kRecordBytes;
  EXPECT_EQ(try_open().status().code(), StatusCode::InvalidArgument);
  options.capacity_bytes = 64 * kRecordBytes;
  options.directory = directory / "file/kv";
  set_content(directory / "file", "");
  EXPECT_EQ(try_open().status().code(), StatusCode::Unavailable);
  options.directory = directory / "missing/kv";
  EXPECT_EQ(try_open().status().code(), StatusCode::NotFound);
}

// Of a directory that says of blocks of codes what cannot be: with the same fingerprint, rounded.
TEST_F(DiskStoreTest, BlocksOfCodesAreKeptAsTheyAre) {
  constexpr KvLayout kCodes{.layers = 1, .kv_heads = 1, .head_dim = 14, .block_tokens = 8, .dtype = DType::Int8};
  static_assert(kCodes.block_bytes() == kDiskLayout.block_bytes());
  const DiskBlock block(1, 1);
  for (const Codec codec : {Codec::Int8, Codec::Int4}) {
    options.codec = codec;
    options.directory = directory / std::string(to_string(codec));
    EXPECT_EQ(try_open(kCodes).status().code(), StatusCode::InvalidArgument);
    ASSERT_TRUE(write(*open(), block).ok());
    options.codec = Codec::Lossless;
    const auto store = try_open(kCodes).value();
    EXPECT_EQ(read(*store, block), StatusCode::Corruption);
    EXPECT_TRUE(write(*store, block).ok());
    EXPECT_EQ(read(*store, block), StatusCode::Ok);
  }
}

TEST_F(DiskStoreTest, AWriterGoesOnAfterADeadOne) {
  {
    const auto store = open();
    for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  }
  const auto path = segments().at(0);
  // As kill -9 in the middle of the third record leaves it.
  set_content(path, content(path).substr(0, disk::kPage + 2 * kRecordBytes + 5000));
  for (int restart = 0; restart < 3; ++restart) {
    const auto store = open();
    EXPECT_EQ(leading(*store, 1, 3), 2u);
    EXPECT_EQ(read(*store, DiskBlock(1, 2)), StatusCode::Ok);
    EXPECT_TRUE(inspect_disk_directory(options.directory)->locked);
  }
  const auto info = inspect_disk_directory(options.directory).value();
  ASSERT_EQ(info.segments.size(), 1u) << "the writer went on in it";
  EXPECT_TRUE(info.segments[0].sealed) << "it has its footer now";
}

TEST_F(DiskStoreTest, StrangeFilesAreLeftAlone) {
  ASSERT_TRUE(write(*open(), DiskBlock(1, 1)).ok());
  set_content(options.directory + "/notes.txt", "mine");
  set_content(options.directory + "/segment-00000000000000ff.kv", "no segment");
  const auto store = open();
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Ok);
  EXPECT_EQ(content(options.directory + "/notes.txt"), "mine");
  EXPECT_EQ(content(options.directory + "/segment-00000000000000ff.kv"), "no segment");
}

TEST_F(DiskStoreTest, DirectoriesCanBeLookedInto) {
  {
    const auto store = open();
    for (std::uint64_t i = 1; i <= 40; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 38), DiskBlock(1, 39).tokens).ok());
    EXPECT_EQ(prune_disk_directory(options.directory, 0).status().code(), StatusCode::Rejected);
  }
  auto info = inspect_disk_directory(options.directory).value();
  EXPECT_EQ(info.blocks, 38u);
  EXPECT_EQ(info.file_bytes, file_bytes());
  EXPECT_EQ(info.segments.size(), segments().size());
  ASSERT_EQ(info.models.size(), 1u);
  EXPECT_EQ(info.models[0].tokens, 38u * 8);
  EXPECT_FALSE(info.locked);

  std::string damaged = content(segments()[0]);
  damaged[3 * disk::kPage - disk::kPage + 100] ^= 1;  // the first payload
  set_content(segments()[0], damaged);
  std::size_t last = 0, total = 0;
  const auto found = verify_disk_directory(options.directory, [&](std::size_t done, std::size_t of) {
                       EXPECT_GE(done, last);
                       last = done, total = of;
                     }).value();
  EXPECT_EQ(found.whole_blocks, 39u);
  EXPECT_EQ(found.corrupt_blocks, 1u);
  EXPECT_EQ(last, total);

  const std::size_t half = file_bytes() / 2;
  EXPECT_GT(prune_disk_directory(options.directory, half).value(), 0u);
  EXPECT_LE(file_bytes(), half);
  EXPECT_LT(inspect_disk_directory(options.directory)->blocks, 38u);
  EXPECT_EQ(inspect_disk_directory(directory / "none").status().code(), StatusCode::NotFound);
}

}  // namespace
}  // namespace tiercel
