#include "tests/tier/faulty_file_system.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

using OpenMode = FileSystem::OpenMode;
using Bytes = std::vector<std::byte>;

Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

Status write(File& file, std::uint64_t offset, const Bytes& bytes) {
  const std::span<const std::byte> buffer(bytes);
  return file.write(offset, {&buffer, 1});
}

std::unique_ptr<File> create(FileSystem& files, const std::string& path) {
  return std::move(files.open(path, OpenMode::CreateNew)).value();
}

// A file of 4 sectors of 1, synced, with its name.
std::unique_ptr<File> create_synced(FileSystem& files, const std::string& path) {
  auto file = create(files, path);
  EXPECT_TRUE(write(*file, 0, filled(2048, 1)).ok());
  EXPECT_TRUE(file->sync().ok());
  EXPECT_TRUE(files.sync_directory("").ok());
  return file;
}

TEST(FaultyFileSystem, IsAFileSystem) {
  FaultyFileSystem files;
  EXPECT_EQ(files.open("a/b", OpenMode::CreateNew).status().code(), StatusCode::NotFound);
  EXPECT_EQ(files.open("b", OpenMode::ReadWrite).status().code(), StatusCode::NotFound);
  ASSERT_TRUE(files.make_directory("a").ok());
  ASSERT_TRUE(files.make_directory("/a/").ok());
  const auto file = create(files, "a/b");
  EXPECT_EQ(files.open("a//b", OpenMode::CreateNew).status().code(), StatusCode::Unavailable);
  const Bytes one = filled(3, 1), two = filled(2, 2);
  const std::array<std::span<const std::byte>, 2> buffers{one, two};
  ASSERT_TRUE(file->write(1, buffers).ok());
  EXPECT_EQ(file->size().value(), 6u);
  Bytes found(6);
  FileRead reads[] = {{file.get(), 0, found}, {file.get(), 5, std::span(found).first(2)}};
  files.read({reads, 1});
  EXPECT_TRUE(reads[0].status.ok());
  EXPECT_EQ(found, (Bytes{std::byte{0}, std::byte{1}, std::byte{1}, std::byte{1}, std::byte{2}, std::byte{2}}));
  files.read({reads + 1, 1});
  EXPECT_EQ(reads[1].status.code(), StatusCode::NotFound);
  EXPECT_EQ(files.list("a").value(), std::vector<std::string>{"b"});
  EXPECT_EQ(files.list("").value(), std::vector<std::string>{"a"});
  ASSERT_TRUE(file->truncate(2).ok());
  EXPECT_EQ(files.contents("a/b").size(), 2u);
  ASSERT_TRUE(files.remove("a/b").ok());
  EXPECT_EQ(files.remove("a/b").code(), StatusCode::NotFound);
  EXPECT_EQ(file->size().value(), 2u);  // as long as it is open
  EXPECT_EQ(files.list("c").status().code(), StatusCode::NotFound);
}

TEST(FaultyFileSystem, LocksAreHeldUntilDestructionOrTheEndOfTheProcess) {
  FaultyFileSystem files;
  auto lock = files.lock("lock");
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(files.lock("/lock").status().code(), StatusCode::Rejected);
  EXPECT_TRUE(files.is_locked("lock"));
  const auto after = files.kill(1);
  EXPECT_FALSE(after->is_locked("lock"));
  EXPECT_TRUE(after->lock("lock").ok());
  EXPECT_FALSE(files.crash(1)->is_locked("lock"));
  lock = Status::not_found("released");
  EXPECT_FALSE(files.is_locked("lock"));
  EXPECT_TRUE(files.lock("lock").ok());
}

TEST(FaultyFileSystem, ACrashLosesAnySectorsThatWereNotSynced) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  ASSERT_TRUE(write(*file, 700, filled(1000, 2)).ok());  // of sectors 1 to 3
  ASSERT_TRUE(write(*file, 1024, filled(512, 3)).ok());  // sector 2
  std::set<std::vector<int>> outcomes;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    const Bytes found = files.crash(seed)->contents("a");
    ASSERT_EQ(found.size(), 2048u);
    const auto value = [&](std::size_t at) { return static_cast<int>(found[at]); };
    EXPECT_EQ(std::count(found.begin(), found.begin() + 700, std::byte{1}), 700);
    EXPECT_EQ(std::count(found.begin() + 1700, found.end(), std::byte{1}), 348);
    EXPECT_EQ(std::count(found.begin() + 1024, found.begin() + 1536, found[1024]), 512);
    outcomes.insert({value(700), value(1024), value(1536)});
    EXPECT_EQ(found, files.crash(seed)->contents("a"));
  }
  EXPECT_EQ(outcomes.size(), 2u * 3u * 2u);  // each sector on its own, as any write left it
  ASSERT_TRUE(file->sync().ok());
  for (std::uint64_t seed = 0; seed < 20; ++seed) EXPECT_EQ(files.crash(seed)->contents("a"), files.contents("a"));
}

TEST(FaultyFileSystem, ACrashMayLoseASizeButNotTheBytesSyncedBelowIt) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  ASSERT_TRUE(write(*file, 2048, filled(512, 2)).ok());
  ASSERT_TRUE(write(*file, 2560, filled(512, 3)).ok());
  std::set<std::size_t> sizes;
  bool has_hole = false;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Bytes found = files.crash(seed)->contents("a");
    sizes.insert(found.size());
    EXPECT_EQ(std::count(found.begin(), found.begin() + 2048, std::byte{1}), 2048);
    has_hole = has_hole || (found.size() == 3072 && found[2048] == std::byte{0} && found[2560] == std::byte{3});
  }
  EXPECT_EQ(sizes, (std::set<std::size_t>{2048, 2560, 3072}));
  EXPECT_TRUE(has_hole);  // the later write alone
}

TEST(FaultyFileSystem, NamesMayVanishOrComeBackUntilTheDirectoryIsSynced) {
  FaultyFileSystem files;
  create_synced(files, "old");
  ASSERT_TRUE(create(files, "new")->sync().ok());
  ASSERT_TRUE(files.remove("old").ok());
  std::set<std::vector<std::string>> outcomes;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const auto after = files.crash(seed);
    auto names = after->list("").value();
    std::sort(names.begin(), names.end());
    outcomes.insert(names);
    if (std::find(names.begin(), names.end(), "old") != names.end()) {
      EXPECT_EQ(after->contents("old"), filled(2048, 1));
    }
  }
  EXPECT_EQ(outcomes.size(), 4u);
  ASSERT_TRUE(files.sync_directory("").ok());
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(files.crash(seed)->list("").value(), std::vector<std::string>{"new"});
  }
}

TEST(FaultyFileSystem, ADirectoryThatVanishesTakesItsFilesAlong) {
  FaultyFileSystem files;
  ASSERT_TRUE(files.make_directory("d").ok());
  create(files, "d/a");
  ASSERT_TRUE(files.sync_directory("d").ok());
  std::set<bool> there;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const auto names = files.crash(seed)->list("d");
    there.insert(names.ok());
    EXPECT_EQ(names.ok() ? *names : std::vector<std::string>{"a"}, std::vector<std::string>{"a"});
  }
  EXPECT_EQ(there.size(), 2u);
}

TEST(FaultyFileSystem, AKillCutsTheLastWriteAtAnyByte) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  ASSERT_TRUE(write(*file, 0, filled(10, 2)).ok());
  ASSERT_TRUE(write(*file, 2046, filled(5, 3)).ok());
  std::set<std::size_t> sizes, counts;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const Bytes found = files.kill(seed)->contents("a");
    EXPECT_EQ(std::count(found.begin(), found.end(), std::byte{2}), 10);
    counts.insert(static_cast<std::size_t>(std::count(found.begin(), found.end(), std::byte{3})));
    sizes.insert(found.size());
  }
  EXPECT_EQ(counts.size(), 6u);
  EXPECT_EQ(sizes, (std::set<std::size_t>{2048, 2049, 2050, 2051}));
  ASSERT_TRUE(file->sync().ok());
  for (std::uint64_t seed = 0; seed < 20; ++seed) EXPECT_EQ(files.kill(seed)->contents("a"), files.contents("a"));
  ASSERT_TRUE(write(*file, 0, filled(10, 4)).ok());
  ASSERT_TRUE(file->truncate(5).ok());
  for (std::uint64_t seed = 0; seed < 20; ++seed) EXPECT_EQ(files.kill(seed)->contents("a"), filled(5, 4));
}

TEST(FaultyFileSystem, WhatAKillLeftIsNotSynced) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  ASSERT_TRUE(write(*file, 0, filled(512, 2)).ok());
  ASSERT_TRUE(write(*file, 1024, filled(512, 2)).ok());
  const auto killed = files.kill(1);
  std::set<std::byte> firsts;
  for (std::uint64_t seed = 0; seed < 50; ++seed) firsts.insert(killed->crash(seed)->contents("a")[0]);
  EXPECT_EQ(firsts.size(), 2u);
}

TEST(FaultyFileSystem, FailsAsOftenAsAskedAndTheSameWayBySeed) {
  const auto run = [](std::uint64_t seed) {
    FaultyFileSystem files;
    const auto file = create_synced(files, "a");
    files.set_faults({.seed = seed, .error_one_in = 4, .error_operations = {FileOperation::Write}});
    std::vector<bool> outcomes;
    for (int i = 0; i < 400; ++i) outcomes.push_back(write(*file, 0, filled(2048, i)).ok());
    EXPECT_TRUE(file->sync().ok());
    return std::pair(outcomes, files.contents("a"));
  };
  const auto [outcomes, contents] = run(1);
  EXPECT_EQ(run(1), std::pair(outcomes, contents));
  EXPECT_NE(run(2).first, outcomes);
  EXPECT_NEAR(static_cast<double>(std::count(outcomes.begin(), outcomes.end(), false)), 100, 40);
}

TEST(FaultyFileSystem, AShortWriteLeavesItsFirstBytes) {
  FaultyFileSystem files;
  const auto file = create(files, "a");
  files.set_faults({.short_write_one_in = 1});
  std::set<std::size_t> sizes;
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(file->truncate(0).ok());
    EXPECT_EQ(write(*file, 0, filled(4, 1)).code(), StatusCode::Unavailable);
    sizes.insert(files.contents("a").size());
  }
  EXPECT_EQ(sizes.size(), 5u);
}

TEST(FaultyFileSystem, ASyncThatFailedIsNotMadeGoodByTheNextOne) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  ASSERT_TRUE(write(*file, 0, filled(512, 2)).ok());
  files.set_faults({.error_one_in = 1});
  EXPECT_EQ(file->sync().code(), StatusCode::Unavailable);
  files.set_faults({});
  ASSERT_TRUE(write(*file, 512, filled(512, 2)).ok());
  ASSERT_TRUE(file->sync().ok());
  std::set<std::byte> firsts;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Bytes found = files.crash(seed)->contents("a");
    firsts.insert(found[0]);
    EXPECT_EQ(found[512], std::byte{2});
  }
  EXPECT_EQ(firsts.size(), 2u);
  ASSERT_TRUE(write(*file, 0, filled(512, 3)).ok());
  ASSERT_TRUE(file->sync().ok());
  for (std::uint64_t seed = 0; seed < 50; ++seed) EXPECT_EQ(files.crash(seed)->contents("a")[0], std::byte{3});
}

TEST(FaultyFileSystem, IsFullAtItsCapacity) {
  FaultyFileSystem files;
  files.set_faults({.capacity_bytes = 1000});
  const auto one = create(files, "a"), two = create(files, "b");
  ASSERT_TRUE(write(*one, 0, filled(600, 1)).ok());
  EXPECT_EQ(write(*two, 0, filled(600, 1)).code(), StatusCode::ResourceExhausted);
  EXPECT_EQ(two->size().value(), 400u);
  EXPECT_TRUE(write(*one, 100, filled(500, 2)).ok());  // what is there already
  EXPECT_EQ(one->truncate(601).code(), StatusCode::ResourceExhausted);
  ASSERT_TRUE(files.remove("a").ok());
  EXPECT_TRUE(write(*two, 400, filled(600, 1)).ok());
}

TEST(FaultyFileSystem, MayBeReadOnly) {
  FaultyFileSystem files;
  const auto file = create_synced(files, "a");
  files.set_faults({.read_only = true});
  EXPECT_EQ(write(*file, 0, filled(1, 2)).code(), StatusCode::Unavailable);
  EXPECT_EQ(files.open("a", OpenMode::ReadWrite).status().code(), StatusCode::Unavailable);
  EXPECT_EQ(files.open("b", OpenMode::CreateNew).status().code(), StatusCode::Unavailable);
  EXPECT_EQ(files.remove("a").code(), StatusCode::Unavailable);
  EXPECT_EQ(files.make_directory("d").code(), StatusCode::Unavailable);
  EXPECT_EQ(files.lock("l").status().code(), StatusCode::Unavailable);
  const auto reader = files.open("a", OpenMode::Read);
  ASSERT_TRUE(reader.ok());
  files.set_faults({});
  EXPECT_EQ(write(**reader, 0, filled(1, 2)).code(), StatusCode::Unavailable);
  EXPECT_EQ(files.contents("a"), filled(2048, 1));
}

TEST(FaultyFileSystem, ACrashCanComeBeforeAnyOperation) {
  FaultyFileSystem files;
  std::vector<std::shared_ptr<FaultyFileSystem>> found;
  files.set_faults({.before = [&](FileOperation, const std::string&) { found.push_back(files.crash(found.size())); }});
  create_synced(files, "a");
  ASSERT_EQ(found.size(), 4u);  // open, write, sync, sync directory
  EXPECT_EQ(files.operations(), 4u);
  EXPECT_TRUE(found[0]->list("").value().empty());
}

}  // namespace
}  // namespace tiercel
