// What BatchReader does where the system, or a container's rules, refuse some of what it would like to use.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/tier/known_file.h"

namespace tiercel {
namespace {

constexpr unsigned kCachestat = 451;

// From now on, for this thread and those it starts.
bool refuse(unsigned system_call, unsigned error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = 4, .filter = filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool reads_right(BatchReader& reader) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    if (seed % 2 == 0) known_file().leave_page_cache();
    RandomBatch batch(known_file(), seed);
    reader.read(batch.reads);
    for (const BatchRead& read : batch.reads) {
      if (!read.status.ok() || !known_file().holds(read)) return false;
    }
  }
  return true;
}

// Each in a process of its own, which ends with it.
class BatchReaderRefusalDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

[[noreturn]] void end(bool right) { std::_Exit(right ? 0 : 1); }

TEST_F(BatchReaderRefusalDeathTest, WithoutIoUringThreadsRead) {
  const auto run = [] {
    const bool refused = refuse(SYS_io_uring_setup, EPERM);
    BatchReader reader;
    end(refused && !reader.uses_uring() && reads_right(reader));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

TEST_F(BatchReaderRefusalDeathTest, ARingThatCannotBeUsedIsGivenUp) {
  const auto run = [] {
    const bool refused = refuse(SYS_io_uring_enter, EPERM);
    BatchReader reader;
    end(refused && reads_right(reader));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

TEST_F(BatchReaderRefusalDeathTest, ARingMayFailLater) {
  const auto run = [] {
    BatchReader reader;
    const bool right = reads_right(reader);
    end(right && refuse(SYS_io_uring_enter, EPERM) && reads_right(reader));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

TEST_F(BatchReaderRefusalDeathTest, ThePageCacheNeedNotTellWhatItHas) {
  const auto run = [] {
    const bool refused = refuse(kCachestat, ENOSYS);
    BatchReader reader;
    end(refused && reads_right(reader));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

TEST_F(BatchReaderRefusalDeathTest, ReadsThatDoNotWaitMayBeRefused) {
  const auto run = [] {
    const bool refused = refuse(SYS_preadv2, EOPNOTSUPP);
    BatchReader reader;
    end(refused && reads_right(reader));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tiercel
