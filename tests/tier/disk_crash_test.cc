// A process that writes under load is killed at random moments. Everything that it had flushed is there, everything
// else is right or a miss.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <thread>

#include "tests/tier/disk_fixture.h"

namespace tiercel {
namespace {

class DiskCrash : public DiskFixture {
 protected:
  // What the child says through the pipe, after it was done.
  struct Done {
    std::uint64_t path;
    std::uint64_t flushed_blocks;  // of that path
    std::uint64_t erased;          // 1: all of the path was erased
  };

  // Never returns.
  [[noreturn]] void write_until_killed(std::uint64_t seed, int pipe) {
    std::mt19937_64 random(seed);
    auto opened = try_open();
    if (!opened.ok()) ::_exit(3);
    DiskStore& store = **opened;
    const char begun = 1;
    if (::write(pipe, &begun, 1) != 1) ::_exit(4);
    for (std::uint64_t path = seed * 1000;; ++path) {
      Done done{.path = path, .flushed_blocks = 0, .erased = 0};
      const auto tell = [&] {
        if (::write(pipe, &done, sizeof done) != sizeof done) ::_exit(4);
      };
      const std::uint64_t blocks = 1 + random() % 12;
      for (std::uint64_t i = 1; i <= blocks; ++i) {
        if (!write(store, DiskBlock(path, i), path).ok()) ::_exit(5);
        if (random() % 4 != 0) continue;
        if (!store.flush().ok()) ::_exit(6);
        done.flushed_blocks = i;
        tell();
      }
      if (random() % 8 != 0) continue;
      if (!store.erase_tenant(path).ok()) ::_exit(7);
      done.erased = 1;
      tell();
    }
  }
};

TEST_F(DiskCrash, AThousandKills) {
  std::size_t kills = 1000;
  if (const char* text = std::getenv("TIERCEL_KILLS")) kills = std::strtoull(text, nullptr, 10);
  options.capacity_bytes = 4096 * kRecordBytes;
  options.segment_bytes = 64 * kRecordBytes;
  options.encryption_key = std::string(32, 'k');
  std::mt19937_64 random(1);
  std::uint64_t right = 0, missed = 0, flushed = 0;
  for (std::size_t kill = 1; kill <= kills; ++kill) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      write_until_killed(kill, ends[1]);
    }
    ::close(ends[1]);
    // Some are killed while they open the directory; every other one not before it flushed something, however slow the
    // machine.
    const bool flushes_first = kill % 2 == 0;
    char begun = 0;
    if (flushes_first || random() % 4 != 0) {
      ASSERT_EQ(::read(ends[0], &begun, 1), 1);
    }
    std::map<std::uint64_t, Done> told;
    Done first;
    if (flushes_first && ::read(ends[0], &first, sizeof first) == sizeof first) told[first.path] = first;
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    ::kill(child, SIGKILL);
    if (begun == 0) static_cast<void>(!::read(ends[0], &begun, 1));
    for (Done done; ::read(ends[0], &done, sizeof done) == sizeof done;) told[done.path] = done;
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);

    const auto store = open();
    for (std::uint64_t path = kill * 1000; path == kill * 1000 || told.contains(path - 1); ++path) {
      const Done done = told.contains(path) ? told[path] : Done{path, 0, 0};
      flushed += done.flushed_blocks;
      for (std::uint64_t i = 1; i <= 12; ++i) {
        const StatusCode code = read(*store, DiskBlock(path, i), path);
        if (code != StatusCode::Ok) {
          ASSERT_EQ(code, StatusCode::NotFound) << "kill " << kill << ", block " << i << " of path " << path;
        }
        ++(code == StatusCode::Ok ? right : missed);
        if (done.erased == 1) {
          ASSERT_EQ(code, StatusCode::NotFound) << "erased before kill " << kill;
        } else if (i <= done.flushed_blocks && code != StatusCode::Ok) {
          // It may have been erased just before the kill, and not told.
          ASSERT_EQ(leading(*store, path, 12), 0u) << "flushed before kill " << kill;
        }
      }
    }
    ASSERT_EQ(store->stats().corrupt_blocks, 0u);
    if (kill % 100 == 0) std::filesystem::remove_all(options.directory);
  }
  EXPECT_GE(right, kills / 2);
  EXPECT_GE(flushed, kills / 2);
}

}  // namespace
}  // namespace tiercel
