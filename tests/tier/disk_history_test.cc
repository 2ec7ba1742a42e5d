// Random histories of the disk tier on a file system that fails, fills up, loses power and whose process is killed,
// against what must then be there. TIERCEL_DISK_HISTORIES=5000 runs so many of each kind.
#include <map>
#include <set>

#include "tests/tier/disk_fixture.h"
#include "tests/tier/faulty_file_system.h"

namespace tiercel {
namespace {

struct History {
  bool faults = false;  // EIO, short writes, a disk that fills up
  bool small = false;   // a capacity that makes it give segments back
  bool encrypted = false;
};

class DiskHistory : public testing::TestWithParam<History> {
 protected:
  using Name = std::pair<std::uint64_t, std::uint64_t>;  // path, number
  enum class State { Written, Flushed };

  // What must be there: written with Ok and not erased since. `uncertain` may be there or not.
  std::map<Name, State> there;
  std::set<Name> uncertain;
  std::set<Name> erased;  // must not be there
  std::uint64_t checked = 0, found = 0, lost = 0;

  void forget(const Name& name) {
    there.erase(name);
    uncertain.erase(name);
  }
};

TEST_P(DiskHistory, WhatWasFlushedIsThereAndWhatWasErasedIsNot) {
  const History shape = GetParam();
  log().set_level(spdlog::level::off);
  std::uint64_t crashes = 0;
  std::uint64_t histories = 150;
  if (const char* text = std::getenv("TIERCEL_DISK_HISTORIES")) histories = std::strtoull(text, nullptr, 10);
  for (std::uint64_t seed = 1; seed <= histories; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    there.clear(), uncertain.clear(), erased.clear();
    auto files = std::make_shared<FaultyFileSystem>();
    DiskTierOptions options{.directory = "/kv"};
    options.capacity_bytes = (shape.small ? 40 : 2000) * kRecordBytes;
    options.segment_bytes = 8 * kRecordBytes;
    if (shape.encrypted) options.encryption_key = std::string(32, 'k');
    auto store = std::make_unique<DiskStore>(options, files);
    ASSERT_TRUE(store->open(kDiskLayout, kModel).ok());
    const auto set_faults = [&] {
      if (!shape.faults) return;
      FileFaults faults{.seed = random()};
      if (random() % 2 == 0) faults.error_one_in = 30;
      if (random() % 3 == 0) faults.short_write_one_in = 10;
      if (random() % 4 == 0) faults.capacity_bytes = (10 + random() % 40) * kRecordBytes;
      files->set_faults(faults);
    };
    set_faults();
    std::uint64_t length[6] = {};  // of each path
    for (int step = 0; step < 120; ++step) {
      const std::uint64_t path = 1 + random() % 5;
      const auto dice = random() % 20;
      if (dice < 11) {
        const Name name{path, 1 + (random() % 3 == 0 ? random() % (length[path] + 1) : length[path])};
        const bool ok = write(*store, DiskBlock(name.first, name.second), path).ok();
        length[path] = std::max(length[path], name.second);
        erased.erase(name);
        if (ok && !there.contains(name)) there[name] = State::Written;
        if (!ok && !there.contains(name)) uncertain.insert(name);
      } else if (dice < 13) {
        if (!store->flush().ok()) continue;
        for (auto& [name, state] : there) state = State::Flushed;
      } else if (dice == 13 && length[path] > 0) {
        const std::uint64_t top = 1 + random() % length[path];
        const bool ok = store->erase(DiskBlock::key_of(path, top - 1), DiskBlock(path, top).tokens).ok();
        for (std::uint64_t i = top; i <= length[path]; ++i) {
          const Name name{path, i};
          forget(name);
          ok ? static_cast<void>(erased.insert(name)) : static_cast<void>(uncertain.insert(name));
        }
        if (ok) length[path] = top - 1;
      } else if (dice == 14 && random() % 4 == 0) {
        const bool ok = store->erase_tenant(path).ok();
        for (std::uint64_t i = 1; i <= length[path]; ++i) {
          forget({path, i});
          ok ? static_cast<void>(erased.insert({path, i})) : static_cast<void>(uncertain.insert({path, i}));
        }
        if (ok) length[path] = 0;
      } else if (dice == 15) {
        std::vector<BlockKey> keys;
        for (std::uint64_t i = 1; i <= length[path]; ++i) keys.push_back(DiskBlock::key_of(path, i));
        store->leading(keys);
      } else if (dice == 16 && random() % 3 == 0) {
        // Power, process or only the store goes.
        ++crashes;
        const auto how = random() % 3;
        const auto after = how == 0 ? files->crash(random()) : how == 1 ? files->kill(random()) : nullptr;
        store.reset();
        if (after) files = after;
        if (how < 2) {
          for (auto block = there.begin(); block != there.end();) {
            const bool lost_now = how == 0 && block->second != State::Flushed;
            // After kill -9 the last write may have been under way; all before is there.
            if (lost_now || (how == 1 && block->second != State::Flushed)) {
              uncertain.insert(block->first);
              block = there.erase(block);
            } else {
              ++block;
            }
          }
        }
        // A path goes on where it is known to be whole.
        for (std::uint64_t other = 1; other <= 5 && how < 2; ++other) {
          std::uint64_t whole = 0;
          while (there.contains({other, whole + 1})) ++whole;
          for (; length[other] > whole; --length[other]) uncertain.insert({other, length[other]});
        }
        files->set_faults({});
        store = std::make_unique<DiskStore>(options, files);
        ASSERT_TRUE(store->open(kDiskLayout, kModel).ok());
        for (const auto& [name, state] : there) {
          if (shape.small || shape.faults) break;
          ASSERT_EQ(read(*store, DiskBlock(name.first, name.second), name.first), StatusCode::Ok)
              << "block " << name.second << " of path " << name.first << " after " << how;
        }
        set_faults();
      } else {
        const Name name{path, 1 + random() % (length[path] + 2)};
        const StatusCode code = read(*store, DiskBlock(name.first, name.second), name.first);
        ++checked;
        found += code == StatusCode::Ok;
        ASSERT_NE(code, StatusCode::Internal) << "wrong bytes";
        const bool must_not_be = erased.contains(name) || (name.second > length[path] && !uncertain.contains(name));
        const bool must_be = there.contains(name) && !shape.small && !shape.faults;
        ASSERT_TRUE(!must_not_be || code != StatusCode::Ok);
        ASSERT_TRUE(!must_be || code == StatusCode::Ok);
        lost += there.contains(name) && code != StatusCode::Ok;
      }
    }
    ASSERT_EQ(store->stats().corrupt_blocks == 0 || shape.faults || crashes > 0, true);
  }
  EXPECT_GT(checked, 1000u);
  EXPECT_GT(found, 300u);
  EXPECT_GT(crashes, 100u);
}

std::string name_of_shape(const testing::TestParamInfo<History>& shape) {
  return std::string(shape.param.faults ? "Faults" : "") + (shape.param.small ? "Small" : "") +
         (shape.param.encrypted ? "Encrypted" : "") + "Disk";
}

INSTANTIATE_TEST_SUITE_P(Shapes, DiskHistory,
                         testing::Values(History{}, History{.small = true}, History{.encrypted = true},
                                         History{.faults = true}, History{.faults = true, .small = true}),
                         name_of_shape);

}  // namespace
}  // namespace tiercel
