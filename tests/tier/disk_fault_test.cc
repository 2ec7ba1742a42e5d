// The disk tier on a disk that fills up, fails, is damaged or may not be written; and in a process with few open files.
#include <sys/resource.h>

#include <thread>

#include "tests/tier/disk_fixture.h"
#include "tests/tier/faulty_file_system.h"

namespace tiercel {
namespace {

class DiskFault : public DiskFixture {
 protected:
  DiskFault() { options.directory = "/kv"; }

  Result<std::unique_ptr<DiskStore>> try_open_on(const std::shared_ptr<FaultyFileSystem>& system) {
    auto store = std::make_unique<DiskStore>(options, system);
    TIERCEL_RETURN_IF_ERROR(store->open(kDiskLayout, kModel));
    return store;
  }
  std::unique_ptr<DiskStore> open_on(const std::shared_ptr<FaultyFileSystem>& system) {
    return try_open_on(system).value();
  }

  std::shared_ptr<FaultyFileSystem> files = std::make_shared<FaultyFileSystem>();
};

// Kills the process at every operation while segments are given back.
TEST_F(DiskFault, WhatIsUsedIsThereWheneverTheProcessIsKilled) {
  auto store = open_on(files);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  ASSERT_TRUE(store->flush().ok());
  std::vector<std::shared_ptr<FaultyFileSystem>> remains;
  files->set_faults({.before = [&](FileOperation, const std::string&) {
    remains.push_back(files->kill(remains.size()));
    remains.push_back(files->crash(remains.size()));
  }});
  for (std::uint64_t path = 2; path <= 110; ++path) {
    ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
    ASSERT_EQ(leading(*store, 1, 4), 4u);
  }
  EXPECT_GT(store->stats().evicted_blocks, 40u);
  files->set_faults({});
  EXPECT_GT(remains.size(), 200u);
  for (std::size_t i = 0; i < remains.size(); ++i) {
    const auto after = open_on(remains[i]);
    for (std::uint64_t number = 1; number <= 4; ++number) {
      ASSERT_EQ(read(*after, DiskBlock(1, number)), StatusCode::Ok) << "operation " << i / 2 << ", block " << number;
    }
  }
}

// Also after a process that died while it moved blocks into the segment kept free for that.
TEST_F(DiskFault, TheCapacityHoldsWheneverTheProcessIsKilled) {
  options.segment_bytes = 8 * kRecordBytes;
  options.capacity_bytes = 40 * kRecordBytes;
  auto store = open_on(files);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  std::vector<std::shared_ptr<FaultyFileSystem>> remains;
  files->set_faults(
      {.before = [&](FileOperation, const std::string&) { remains.push_back(files->kill(remains.size())); }});
  for (std::uint64_t path = 2; path <= 80; ++path) {
    ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
    ASSERT_EQ(leading(*store, 1, 4), 4u);
  }
  files->set_faults({});
  for (std::size_t i = 0; i < remains.size(); ++i) {
    const auto after = open_on(remains[i]);
    for (std::uint64_t path = 201; path <= 210; ++path) {
      ASSERT_TRUE(write(*after, DiskBlock(path, 1)).ok());
      ASSERT_LE(after->stats().stored_bytes, options.capacity_bytes) << "operation " << i << ", block " << path - 200;
    }
  }
}

TEST_F(DiskFault, AFullDiskCostsTheOldestBlocksAndNothingElse) {
  options.segment_bytes = 8 * kRecordBytes;
  auto store = open_on(files);
  for (std::uint64_t path = 1; path <= 24; ++path) ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
  files->set_faults({.capacity_bytes = 28 * kRecordBytes});
  for (std::uint64_t path = 25; path <= 60; ++path) {
    ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok()) << path;
    ASSERT_EQ(read(*store, DiskBlock(path, 1)), StatusCode::Ok);
  }
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::NotFound);
  EXPECT_GT(store->stats().evicted_blocks, 0u);

  // Now others take all of it.
  files->set_faults({.capacity_bytes = 1});
  Status full;
  for (std::uint64_t path = 61; full.ok() && path <= 100; ++path) full = write(*store, DiskBlock(path, 1));
  EXPECT_EQ(full.code(), StatusCode::ResourceExhausted) << full.to_string();
  EXPECT_GT(store->stats().errors, 0u);
  EXPECT_EQ(read(*store, DiskBlock(60, 1)), StatusCode::Ok) << "it is still read from";
  files->set_faults({});
  EXPECT_TRUE(write(*store, DiskBlock(101, 1)).ok());
  EXPECT_EQ(read(*store, DiskBlock(101, 1)), StatusCode::Ok);
}

// A system gives up what it could not write, and says that all is well the next time.
TEST_F(DiskFault, WhatASyncLostIsNotCalledSafeByTheNextOne) {
  auto store = open_on(files);
  ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
  ASSERT_TRUE(store->flush().ok());
  ASSERT_TRUE(write(*store, DiskBlock(2, 1)).ok());
  files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Sync}});
  EXPECT_EQ(store->flush().code(), StatusCode::Unavailable);
  files->set_faults({});
  EXPECT_EQ(read(*store, DiskBlock(2, 1)), StatusCode::NotFound);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(read(*open_on(files->kill(seed)), DiskBlock(2, 1)), StatusCode::NotFound) << "nor by a later process";
  }
  ASSERT_TRUE(write(*store, DiskBlock(3, 1)).ok());
  ASSERT_TRUE(store->flush().ok()) << "what is there now";
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Ok);
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto after = open_on(files->crash(seed));
    EXPECT_EQ(read(*after, DiskBlock(1, 1)), StatusCode::Ok) << seed;
    EXPECT_EQ(read(*after, DiskBlock(3, 1)), StatusCode::Ok) << seed;
  }
}

// Or the index, which believes it, counts on what is not there.
TEST_F(DiskFault, AFooterVouchesForWhatIsSafe) {
  auto store = open_on(files);
  for (std::uint64_t path = 1; path <= 40; ++path) ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto after = open_on(files->crash(seed));
    for (std::uint64_t path = 1; path <= 40; ++path) {
      const StatusCode code = read(*after, DiskBlock(path, 1));
      ASSERT_TRUE(code == StatusCode::Ok || code == StatusCode::NotFound) << path << ", seed " << seed;
    }
  }
}

// What was flushed by one process survives whatever the next one cannot sync, and writes again because of that.
TEST_F(DiskFault, ABlockThatIsWrittenAgainKeepsWhatFollowsIt) {
  {
    const auto store = open_on(files);
    for (std::uint64_t i = 1; i <= 2; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
    ASSERT_TRUE(store->flush().ok());
  }
  auto store = open_on(files);
  files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Sync}});
  EXPECT_EQ(store->flush().code(), StatusCode::Unavailable);
  files->set_faults({});
  EXPECT_EQ(leading(*store, 1, 2), 0u);
  ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto after = open_on(files->crash(seed));
    EXPECT_EQ(read(*after, DiskBlock(1, 1)), StatusCode::Ok) << seed;
    EXPECT_EQ(read(*after, DiskBlock(1, 2)), StatusCode::Ok) << seed;
  }
}

// A file that cannot be removed has its blocks still: an erasure must name them.
TEST_F(DiskFault, WhatCouldNotBeGivenBackIsErased) {
  for (const FileOperation failing : {FileOperation::Remove, FileOperation::SyncDirectory}) {
    files = std::make_shared<FaultyFileSystem>();
    auto store = open_on(files);
    ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
    ASSERT_TRUE(store->flush().ok());
    files->set_faults({.error_one_in = 1, .error_operations = {failing}});
    Status refused;
    for (std::uint64_t path = 2; refused.ok() && path <= 200; ++path) refused = write(*store, DiskBlock(path, 1));
    EXPECT_EQ(refused.code(), StatusCode::Unavailable);
    EXPECT_EQ(leading(*store, 1, 1), failing == FileOperation::Remove ? 1u : 0u);
    files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Remove, FileOperation::SyncDirectory}});
    static_cast<void>(store->erase(DiskBlock::key_of(1, 0), DiskBlock(1, 1).tokens));
    files->set_faults({});
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 0), DiskBlock(1, 1).tokens).ok());
    for (std::uint64_t seed = 1; seed <= 50; ++seed) {
      EXPECT_EQ(read(*open_on(files->crash(seed)), DiskBlock(1, 1)), StatusCode::NotFound) << seed;
    }
  }
}

// But not where an erasure that failed may be in a file: it would take the new one too, and must take what followed.
TEST_F(DiskFault, WhatIsWrittenAgainAfterAFailedErasureIsNew) {
  auto store = open_on(files);
  for (std::uint64_t i = 1; i <= 2; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  ASSERT_TRUE(store->flush().ok());
  files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Sync}});
  EXPECT_FALSE(store->erase(DiskBlock::key_of(1, 0), DiskBlock(1, 1).tokens).ok());
  files->set_faults({});
  ASSERT_TRUE(write(*store, DiskBlock(1, 1, 7)).ok());
  EXPECT_EQ(leading(*store, 1, 2), 1u);
  ASSERT_TRUE(store->flush().ok());
  store = open_on(files->kill(1));
  EXPECT_EQ(read(*store, DiskBlock(1, 1, 7)), StatusCode::Ok);
  EXPECT_EQ(read(*store, DiskBlock(1, 2)), StatusCode::NotFound);
}

// A writer goes on behind a damaged record that nobody has read. Without a footer, what it wrote must still be found:
// that others are to be forgotten, too.
TEST_F(DiskFault, WhatIsBehindADamagedRecordCounts) {
  const std::string path = disk::segment_path(options.directory, 1);
  for (const std::size_t at : {std::size_t{8}, sizeof(disk::RecordHeader) + 3, disk::kPage + 5}) {
    files = std::make_shared<FaultyFileSystem>();
    {
      const auto store = open_on(files);
      for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(write(*store, DiskBlock(i, 1)).ok());
    }
    std::vector<std::byte> damaged = files->contents(path);
    damaged[disk::kPage + kRecordBytes + at] ^= std::byte{4};  // the second record
    files->set_contents(path, damaged);
    const auto store = open_on(files);
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 0), DiskBlock(1, 1).tokens).ok());
    ASSERT_TRUE(write(*store, DiskBlock(4, 1)).ok());
    ASSERT_TRUE(store->flush().ok());
    const auto after = open_on(files->crash(1));
    EXPECT_EQ(read(*after, DiskBlock(1, 1)), StatusCode::NotFound) << at;
    EXPECT_EQ(read(*after, DiskBlock(2, 1)), StatusCode::NotFound) << at;
    EXPECT_EQ(read(*after, DiskBlock(3, 1)), StatusCode::Ok) << at;
    EXPECT_EQ(read(*after, DiskBlock(4, 1)), StatusCode::Ok) << at;
  }
}

// Blocks that could not be moved out of the oldest segment are in it still.
TEST_F(DiskFault, WhatCouldNotBeMovedIsWhereItWas) {
  auto store = open_on(files);
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  ASSERT_TRUE(store->flush().ok());
  files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Sync}});
  Status refused;
  for (std::uint64_t path = 2; refused.ok() && path <= 200; ++path) {
    ASSERT_EQ(leading(*store, 1, 4), 4u) << path;
    refused = write(*store, DiskBlock(path, 1));
  }
  EXPECT_EQ(refused.code(), StatusCode::Unavailable);
  EXPECT_EQ(leading(*store, 1, 4), 4u);
  for (std::uint64_t i = 1; i <= 4; ++i) EXPECT_EQ(read(*store, DiskBlock(1, i)), StatusCode::Ok);
}

// All of a block may be in its file though its write failed. An erasure reaches that one, and no other.
TEST_F(DiskFault, AFailedWriteIsErasedWithItsPrefix) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    files = std::make_shared<FaultyFileSystem>();
    auto store = open_on(files);
    ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
    ASSERT_TRUE(write(*store, DiskBlock(2, 1)).ok());
    files->set_faults(
        {.seed = seed, .error_one_in = 1, .error_operations = {FileOperation::Write, FileOperation::Truncate}});
    ASSERT_FALSE(write(*store, DiskBlock(2, 2)).ok());
    files->set_faults({});
    ASSERT_TRUE(store->erase(DiskBlock::key_of(2, 1), DiskBlock(2, 2).tokens).ok());
    EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Ok);
    store.reset();
    const auto after = open_on(files);
    EXPECT_EQ(read(*after, DiskBlock(2, 2)), StatusCode::NotFound) << seed;
    EXPECT_EQ(read(*after, DiskBlock(2, 1)), StatusCode::Ok) << seed;
    EXPECT_EQ(read(*after, DiskBlock(1, 1)), StatusCode::Ok) << seed;
  }
}

TEST_F(DiskFault, ADiskThatMayNotBeWrittenSaysSoAndIsRead) {
  ASSERT_TRUE(write(*open_on(files), DiskBlock(1, 1)).ok());
  files->set_faults({.read_only = true});
  const Status refused = try_open_on(files).status();
  EXPECT_EQ(refused.code(), StatusCode::Unavailable);
  EXPECT_NE(refused.message().find("Read-only"), std::string::npos) << refused.message();
  options.read_only = true;
  EXPECT_EQ(read(*open_on(files), DiskBlock(1, 1)), StatusCode::Ok);
}

TEST_F(DiskFault, ErrorsOfReadingAreToldAndForgetNothing) {
  auto store = open_on(files);
  ASSERT_TRUE(write(*store, DiskBlock(1, 1)).ok());
  files->set_faults({.error_one_in = 1, .error_operations = {FileOperation::Read}});
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Unavailable);
  EXPECT_EQ(store->stats().errors, 1u);
  files->set_faults({});
  EXPECT_EQ(read(*store, DiskBlock(1, 1)), StatusCode::Ok);
  EXPECT_EQ(store->stats().corrupt_blocks, 0u);
}

// Every byte and every length; a sample of them where each takes longer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr std::size_t kStep = 37;
#else
constexpr std::size_t kStep = 1;
#endif

// Never a wrong token or byte, never a crash, whatever the file says.
TEST_F(DiskFault, EveryByteOfASegmentFlipped) {
  {
    const auto store = open_on(files);
    for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 2), DiskBlock(1, 3).tokens).ok());
  }
  const std::string path = disk::segment_path(options.directory, 1);
  const std::vector<std::byte> whole = files->contents(path);
  options.read_only = true;
  std::size_t lost = 0;
  for (std::size_t at = 0; at < whole.size(); at += kStep) {
    std::vector<std::byte> damaged = whole;
    damaged[at] ^= std::byte{1} << (at % 8);
    files->set_contents(path, damaged);
    const auto store = open_on(files);
    for (std::uint64_t i = 1; i <= 2; ++i) {
      const StatusCode code = read(*store, DiskBlock(1, i));
      ASSERT_TRUE(code == StatusCode::Ok || code == StatusCode::NotFound || code == StatusCode::Corruption)
          << "byte " << at;
      lost += code != StatusCode::Ok;
    }
  }
  EXPECT_GT(lost, 1000 / kStep);
}

TEST_F(DiskFault, EveryLengthOfASegment) {
  {
    const auto store = open_on(files);
    for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
  }
  const std::string path = disk::segment_path(options.directory, 1);
  const std::vector<std::byte> whole = files->contents(path);
  options.read_only = true;
  for (std::size_t length = 0; length <= whole.size(); length += kStep) {
    files->set_contents(path, std::span(whole).first(length));
    const auto store = open_on(files);
    for (std::uint64_t i = 1; i <= 3; ++i) {
      const bool is_whole = length >= disk::kPage + i * kRecordBytes;
      ASSERT_EQ(read(*store, DiskBlock(1, i)), is_whole ? StatusCode::Ok : StatusCode::NotFound) << length;
    }
  }
}

using DiskFiles = DiskFixture;

TEST_F(DiskFiles, ASegmentOutlivesItsFirstPage) {
  {
    const auto store = open();
    for (std::uint64_t i = 1; i <= 3; ++i) ASSERT_TRUE(write(*store, DiskBlock(1, i)).ok());
    ASSERT_TRUE(store->erase(DiskBlock::key_of(1, 2), DiskBlock(1, 3).tokens).ok());
  }
  std::string damaged = content(segments().at(0));
  damaged.replace(0, 64, 64, '\0');
  set_content(segments().at(0), damaged);
  for (int restart = 0; restart < 2; ++restart) {
    const auto store = open();
    EXPECT_EQ(leading(*store, 1, 3), 2u) << "what was erased stays erased";
    EXPECT_EQ(read(*store, DiskBlock(1, 2)), StatusCode::Ok);
    ASSERT_TRUE(write(*store, DiskBlock(2, 1)).ok());
  }
  EXPECT_EQ(read(*open(), DiskBlock(2, 1)), StatusCode::Ok);
}

TEST_F(DiskFiles, RestartsGoOnInTheLastSegment) {
  for (std::uint64_t restart = 1; restart <= 30; ++restart) {
    ASSERT_TRUE(write(*open(), DiskBlock(restart, 1)).ok());
    ASSERT_LE(segments().size(), 1 + restart / 6);
  }
  const auto store = open();
  for (std::uint64_t path = 1; path <= 30; ++path) EXPECT_EQ(read(*store, DiskBlock(path, 1)), StatusCode::Ok) << path;
}

TEST_F(DiskFiles, ASmallerCapacityIsKeptFromTheStart) {
  {
    const auto store = open();
    for (std::uint64_t path = 1; path <= 50; ++path) ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
  }
  options.capacity_bytes /= 2;
  const auto store = open();
  EXPECT_LE(file_bytes(), options.capacity_bytes);
  EXPECT_EQ(store->stats().stored_bytes, file_bytes());
  EXPECT_EQ(read(*store, DiskBlock(50, 1)), StatusCode::Ok);
}

TEST_F(DiskFiles, MoreSegmentsThanAProcessMayOpen) {
  options.capacity_bytes = 4000 * kRecordBytes;
  const std::uint64_t blocks = 1500;  // in over a hundred segments
  {
    const auto store = open();
    for (std::uint64_t path = 1; path <= blocks; ++path) ASSERT_TRUE(write(*store, DiskBlock(path, 1)).ok());
  }
  ASSERT_GT(segments().size(), 80u);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{.rlim_cur = 85, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  std::size_t found = 0;
  {
    const auto store = try_open();
    if (store.ok()) {
      for (std::uint64_t path = 1; path <= blocks; ++path) found += read(**store, DiskBlock(path, 1)) == StatusCode::Ok;
    }
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(found, blocks);
}

// For ThreadSanitizer too: everything at once, at a capacity that gives segments back all the time.
TEST_F(DiskFiles, AllMethodsByManyThreadsAtOnce) {
  const auto store = open();
  std::atomic<std::uint64_t> wrong = 0, right = 0;
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 1; thread <= 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (int i = 0; i < 400; ++i) {
        const std::uint64_t path = 1 + random() % 40, number = 1 + random() % 3;
        switch (random() % 8) {
          case 0:
          case 1:
          case 2:
            for (std::uint64_t n = 1; n <= number; ++n) wrong += !write(*store, DiskBlock(path, n), path).ok();
            break;
          case 3: wrong += !store->erase(DiskBlock::key_of(path, 0), DiskBlock(path, 1).tokens).ok(); break;
          case 4: static_cast<void>(leading(*store, path, 3)); break;
          case 5: static_cast<void>(store->stats()); break;
          default: {
            const StatusCode code = read(*store, DiskBlock(path, number), path);
            wrong += code != StatusCode::Ok && code != StatusCode::NotFound;
            right += code == StatusCode::Ok;
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(right, 20u);
  EXPECT_LE(file_bytes(), options.capacity_bytes);
}

}  // namespace
}  // namespace tiercel
