// What the stand-in promises to those who are tested on it: data, order, and that it tells what is wrong.
#include "tests/nccl_stand_in/nccl_stand_in.h"

#include <barrier>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "tests/cuemu/device.h"
#include "tests/cuemu/device_memory.h"
#include "tests/cuemu/halt_on_race.h"

namespace tiercel {
namespace {

using nccl_stand_in::Fault;

constexpr std::size_t kCount = 16, kBytes = kCount * sizeof(int);

// One rank on its own thread, with a communicator and a stream.
struct Rank {
  Rank(int rank_, int size_, ncclUniqueId id, bool blocking = false) : rank(rank_), size(size_) {
    EXPECT_EQ(cudaSetDevice(rank), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking ? 1 : 0;
    EXPECT_EQ(settled(ncclCommInitRankConfig(&comm, size, id, rank, &config)), ncclSuccess);
  }
  ~Rank() {
    if (comm != nullptr) {
      EXPECT_EQ(settled(ncclCommFinalize(comm)), ncclSuccess);
      EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
    }
    cudaStreamDestroy(stream);
  }

  ncclResult_t settled(ncclResult_t result) const {
    while (result == ncclInProgress) EXPECT_EQ(ncclCommGetAsyncError(comm, &result), ncclSuccess);
    return result;
  }
  ncclResult_t all_reduce(const DeviceMemory<int>& values, std::size_t count = kCount) const {
    return settled(ncclAllReduce(values.data(), values.data(), count, ncclInt32, ncclSum, comm, stream));
  }
  // Whether the stream comes to its end within so many looks.
  bool comes_to_its_end(int looks = 1000) const {
    for (; looks > 0; --looks) {
      ncclResult_t error;
      ncclCommGetAsyncError(comm, &error);
      if (cudaStreamQuery(stream) == cudaSuccess) return true;
      std::this_thread::yield();
    }
    return false;
  }
  // When all ranks are here: one that goes earlier may be an error for others, who are to find nothing but a hang.
  void abort() {
    all_are_here->arrive_and_wait();
    EXPECT_EQ(ncclCommAbort(comm), ncclSuccess);
    comm = nullptr;
  }

  int rank, size;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::barrier<>* all_are_here = nullptr;
};

void on_ranks(int size, bool blocking, const std::function<void(Rank&)>& body) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::barrier all_are_here(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Rank self(rank, size, id, blocking);
      self.all_are_here = &all_are_here;
      body(self);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void start_over(int seed) {
  nccl_stand_in::reset(static_cast<std::uint64_t>(seed));
  cuemu::reset_device({.seed = static_cast<std::uint64_t>(seed), .devices = 8});
}

class NcclStandIn : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { start_over(GetParam()); }
  void TearDown() override { start_over(0); }
};
INSTANTIATE_TEST_SUITE_P(Seeds, NcclStandIn, testing::Range(0, 12));

std::vector<int> filled(int value) { return std::vector<int>(kCount, value); }

TEST_P(NcclStandIn, OperationsMoveWhatTheyShould) {
  on_ranks(4, GetParam() % 2 == 0, [](Rank& self) {
    const DeviceMemory<int> values(filled(self.rank + 1)), all(kCount * 4), other(kCount);
    EXPECT_EQ(self.all_reduce(values), ncclSuccess);
    EXPECT_EQ(self.settled(ncclAllGather(values.data(), all.data(), kCount, ncclInt32, self.comm, self.stream)),
              ncclSuccess);
    EXPECT_EQ(self.settled(ncclBroadcast(values.data(), other.data(), kCount, ncclInt32, 2, self.comm, self.stream)),
              ncclSuccess);
    EXPECT_EQ(values.read(), filled(10));
    EXPECT_EQ(all.read(), std::vector<int>(kCount * 4, 10));
    EXPECT_EQ(other.read(), filled(10));
  });
}

TEST_P(NcclStandIn, ARingInAGroup) {
  on_ranks(3, GetParam() % 2 == 0, [](Rank& self) {
    const DeviceMemory<int> from(filled(self.rank)), to(kCount);
    EXPECT_EQ(ncclGroupStart(), ncclSuccess);
    EXPECT_EQ(ncclSend(from.data(), kCount, ncclInt32, (self.rank + 1) % 3, self.comm, self.stream), ncclSuccess);
    EXPECT_EQ(ncclRecv(to.data(), kCount, ncclInt32, (self.rank + 2) % 3, self.comm, self.stream), ncclSuccess);
    EXPECT_EQ(self.settled(ncclGroupEnd()), ncclSuccess);
    EXPECT_EQ(to.read(), filled((self.rank + 2) % 3));
  });
}

TEST_P(NcclStandIn, OperationsKeepTheOrderOfTheirStream) {
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(0)), copy(kCount);
    for (int round = 1; round <= 5; ++round) {
      EXPECT_EQ(cudaMemsetAsync(values.data(), round, kBytes, self.stream), cudaSuccess);
      EXPECT_EQ(self.all_reduce(values), ncclSuccess);
      EXPECT_EQ(cudaMemcpyAsync(copy.data(), values.data(), kBytes, cudaMemcpyDeviceToDevice, self.stream),
                cudaSuccess);
    }
    EXPECT_EQ(copy.read(), filled(2 * 0x05050505));
  });
}

// An unfused ring: everybody sends first.
TEST_P(NcclStandIn, SendsThatWaitForEachOtherHang) {
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> from(filled(self.rank)), to(kCount);
    EXPECT_EQ(self.settled(ncclSend(from.data(), kCount, ncclInt32, 1 - self.rank, self.comm, self.stream)),
              ncclSuccess);
    EXPECT_EQ(self.settled(ncclRecv(to.data(), kCount, ncclInt32, 1 - self.rank, self.comm, self.stream)), ncclSuccess);
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
    EXPECT_EQ(cudaStreamSynchronize(self.stream), cudaSuccess);
  });
}

TEST_P(NcclStandIn, RanksThatDisagreeHangAndAreNamed) {
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    self.all_reduce(values);
    self.all_reduce(values, self.rank == 0 ? kCount : kCount - 1);
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  const auto complaints = nccl_stand_in::complaints();
  ASSERT_EQ(complaints.size(), 1u);
  EXPECT_NE(complaints[0].find("all-reduce of 15 int32"), std::string::npos) << complaints[0];
  EXPECT_NE(complaints[0].find("all-reduce of 16 int32"), std::string::npos) << complaints[0];
  EXPECT_NE(complaints[0].find("number 2"), std::string::npos) << complaints[0];
}

TEST_P(NcclStandIn, OtherOrderOtherTypeOtherRoot) {
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1)), all(kCount * 2);
    if (self.rank == 0) self.all_reduce(values);
    self.settled(ncclAllGather(values.data(), all.data(), kCount, ncclInt32, self.comm, self.stream));
    if (self.rank == 1) self.all_reduce(values);
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  EXPECT_EQ(nccl_stand_in::complaints().size(), 2u);
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    self.settled(ncclBroadcast(values.data(), values.data(), kCount, ncclInt32, self.rank, self.comm, self.stream));
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  EXPECT_EQ(nccl_stand_in::complaints().size(), 1u);
  on_ranks(2, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    const auto type = self.rank == 0 ? ncclInt32 : ncclFloat32;
    self.settled(self.rank == 0 ? ncclSend(values.data(), kCount, type, 1, self.comm, self.stream)
                                : ncclRecv(values.data(), kCount, type, 0, self.comm, self.stream));
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  EXPECT_EQ(nccl_stand_in::complaints().size(), 1u);
}

TEST_P(NcclStandIn, Faults) {
  nccl_stand_in::plan_fault(1, 2, Fault::Slow);
  nccl_stand_in::plan_fault(0, 3, Fault::Hung);
  on_ranks(3, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    EXPECT_EQ(self.all_reduce(values), ncclSuccess);
    EXPECT_EQ(self.all_reduce(values), ncclSuccess);
    EXPECT_TRUE(self.comes_to_its_end(100'000));
    EXPECT_EQ(self.all_reduce(values), ncclSuccess);
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  nccl_stand_in::plan_fault(2, 1, Fault::Dead);
  on_ranks(3, false, [](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    ncclResult_t result = self.all_reduce(values);
    if (self.rank == 2) {
      EXPECT_EQ(result, ncclUnhandledCudaError);
      EXPECT_NE(std::string(ncclGetLastError(self.comm)), "");
    } else {
      while (result != ncclRemoteError) ncclCommGetAsyncError(self.comm, &result);
    }
    self.abort();
  });
  EXPECT_EQ(nccl_stand_in::counts().aborts, 6);
}

// A GPU has several communicators, and counts what is done by all of them.
TEST_P(NcclStandIn, FaultsAreOfAGpu) {
  ncclUniqueId second;
  ASSERT_EQ(ncclGetUniqueId(&second), ncclSuccess);
  nccl_stand_in::plan_fault(1, 3, Fault::Hung);
  on_ranks(2, false, [&](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    {
      Rank also(self.rank, self.size, second);
      std::swap(also.stream, self.stream);  // one order for both
      EXPECT_EQ(also.all_reduce(values), ncclSuccess);
      std::swap(also.stream, self.stream);
      EXPECT_EQ(self.all_reduce(values), ncclSuccess);
      EXPECT_TRUE(self.comes_to_its_end(100'000));
    }
    EXPECT_EQ(self.all_reduce(values), ncclSuccess);
    EXPECT_FALSE(self.comes_to_its_end());
    self.abort();
  });
  nccl_stand_in::plan_failed_opening(0, ncclSystemError, 2);
  on_ranks(1, false, [](Rank& self) {
    ncclUniqueId id;
    EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr;
    ncclResult_t result = ncclCommInitRankConfig(&comm, 1, id, 0, &config);
    while (result == ncclInProgress) EXPECT_EQ(ncclCommGetAsyncError(comm, &result), ncclSuccess);
    EXPECT_EQ(result, ncclSystemError);
    if (comm != nullptr) ncclCommAbort(comm);
    EXPECT_EQ(self.all_reduce(DeviceMemory<int>(filled(1))), ncclSuccess);
  });
}

TEST_P(NcclStandIn, MisuseIsNamed) {
  const auto said = [](const std::string& what) {
    const auto complaints = nccl_stand_in::complaints();
    ASSERT_EQ(complaints.size(), 1u);
    EXPECT_NE(complaints[0].find(what), std::string::npos) << complaints[0];
  };
  on_ranks(1, true, [&](Rank& self) {
    const DeviceMemory<int> values(filled(1));
    std::vector<int> host(kCount);
    EXPECT_EQ(ncclAllReduce(host.data(), values.data(), kCount, ncclInt32, ncclSum, self.comm, self.stream),
              ncclInvalidArgument);
    said("not the GPU's");
    EXPECT_EQ(ncclAllReduce(values.data(), values.data(), kCount + 1, ncclInt32, ncclSum, self.comm, self.stream),
              ncclInvalidArgument);
    said("too short");
    EXPECT_EQ(ncclAllReduce(values.data(), values.data() + 1, kCount - 1, ncclInt32, ncclSum, self.comm, self.stream),
              ncclInvalidArgument);
    said("overlaps");
    EXPECT_EQ(ncclSend(values.data(), kCount, ncclInt32, 0, self.comm, self.stream), ncclInvalidArgument);
    said("none that it can mean");
    EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
    said("not started");
    EXPECT_EQ(ncclCommDestroy(self.comm), ncclInvalidUsage);
    said("before ncclCommFinalize()");
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    EXPECT_EQ(ncclAllReduce(values.data(), values.data(), kCount, ncclInt32, ncclSum, self.comm, nullptr),
              ncclInvalidUsage);
    said("not of its device");
    const ncclComm_t gone = self.comm;
    self.abort();
    EXPECT_EQ(ncclCommAbort(gone), ncclInvalidArgument);
    said("after the communicator's end");
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t first = nullptr, second = nullptr;
    EXPECT_EQ(ncclCommInitRankConfig(&first, 2, id, 0, &config), ncclInProgress);
    EXPECT_EQ(ncclAllReduce(values.data(), values.data(), kCount, ncclInt32, ncclSum, first, nullptr),
              ncclInvalidUsage);
    said("in progress");
    EXPECT_EQ(ncclCommInitRankConfig(&second, 2, id, 1, &config), ncclInvalidUsage);
    said("on the GPU of rank 0");
    EXPECT_EQ(ncclCommAbort(first), ncclSuccess);
  });
}

// A call that has returned ncclInProgress may not be in its stream: who does not look again works beside it.
TEST(NcclStandInOrder, ACallInProgressIsNotYetInItsStream) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer reports it first";
#endif
  int wrong = 0;
  for (int seed = 0; seed < 12; ++seed) {
    start_over(seed);
    on_ranks(1, false, [&](Rank& self) {
      const DeviceMemory<int> values(filled(1)), all(filled(0)), copy(kCount);
      const ncclResult_t result = ncclAllGather(values.data(), all.data(), kCount, ncclInt32, self.comm, self.stream);
      cudaMemcpyAsync(copy.data(), all.data(), kBytes, cudaMemcpyDeviceToDevice, self.stream);
      cudaStreamSynchronize(self.stream);
      EXPECT_EQ(self.settled(result), ncclSuccess);
      wrong += copy.read() != filled(1);
    });
  }
  EXPECT_GE(wrong, 4);
  start_over(0);
}

class NcclStandInDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

TEST_F(NcclStandInDeathTest, WhatIsLeftIsNamed) {
  EXPECT_DEATH(
      {
        start_over(0);
        ncclUniqueId id;
        ncclGetUniqueId(&id);
        ncclComm_t comm = nullptr;
        ncclCommInitRank(&comm, 1, id, 0);
        ncclGroupStart();
        start_over(0);
      },
      "communicator of rank 0 is still open.*group was left open");
}

#if defined(__SANITIZE_THREAD__)
// What another stream writes without an event between them is a race with the operation that reads it.
TEST_F(NcclStandInDeathTest, AMissingWaitIsARace) {
  EXPECT_DEATH(
      {
        start_over(0);
        on_ranks(2, true, [](Rank& self) {
          cudaStream_t other = nullptr;
          cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
          const DeviceMemory<int> values(filled(1));
          cudaMemsetAsync(values.data(), 1, kBytes, other);
          self.all_reduce(values);
          cudaStreamSynchronize(self.stream);
        });
      },
      "data race");
}

TEST_F(NcclStandInDeathTest, TwoThreadsAtOnceAreARace) {
  EXPECT_DEATH(
      {
        start_over(0);
        on_ranks(1, true, [](Rank& self) {
          int rank;
          std::thread other([&] { ncclCommUserRank(self.comm, &rank); });
          int count;
          ncclCommCount(self.comm, &count);
          other.join();
        });
      },
      "data race");
}
#endif

}  // namespace
}  // namespace tiercel
