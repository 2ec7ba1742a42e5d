// What ranks on GPUs see of one that disagrees, dies, hangs, is slow or leaves: all are out with a Status that says who
// and what, NCCL's kernels leave the GPUs, and later calls fail at once.
#include <algorithm>
#include <atomic>
#include <future>

#include "ranks/tcp_communicator.h"
#include "tests/device/nccl_ranks.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

using nccl_stand_in::Fault;

constexpr std::uint64_t kShort_ms = 150;
constexpr std::size_t kCount = 100;

class NcclFailure : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, NcclFailure, testing::Range(0, 6));

bool contains(const Status& status, const std::string& what) {
  return status.message().find(what) != std::string::npos;
}

// Final, and the stream goes on.
void expect_over(NcclRank& self, const Status& status, std::initializer_list<StatusCode> codes) {
  EXPECT_NE(std::ranges::find(codes, status.code()), codes.end()) << status.to_string();
  EXPECT_TRUE(contains(status, "rank " + std::to_string(self.rank) + " of " + std::to_string(self.size)))
      << status.message();
  EXPECT_EQ(self.stream.synchronize().code(), StatusCode::Ok);
  self.all_ranks.arrive_and_wait();
  const int operations = nccl_stand_in::counts().operations;
  const DeviceMemory<float> values(1);
  EXPECT_EQ(self.communicator->all_reduce_sum(values.data(), 1, Element::F32).message(), status.message());
  EXPECT_EQ(self.communicator->send(values.data(), 1, (self.rank + 1) % self.size).message(), status.message());
  EXPECT_EQ(self.communicator->barrier().message(), status.message());
  EXPECT_EQ(self.communicator->wait().message(), status.message());
  EXPECT_EQ(nccl_stand_in::counts().operations, operations);
}

Status sum_until_failure(NcclRank& self, int rounds, const DeviceMemory<float>& values) {
  for (int round = 0; round < rounds; ++round)
    TIERCEL_RETURN_IF_ERROR(self.communicator->all_reduce_sum(values.data(), kCount, Element::F32));
  return self.communicator->wait();
}

TEST_P(NcclFailure, ASlowRankIsWaitedFor) {
  nccl_stand_in::plan_fault(1, 2, Fault::Slow);
  run_nccl_ranks(3, [](NcclRank& self) {
    const DeviceMemory<float> values(std::vector<float>(kCount, 1));
    const Status status = sum_until_failure(self, 3, values);
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(look_at(values, kCount), std::vector<float>(kCount, 27));
  });
  EXPECT_EQ(nccl_stand_in::counts().aborts, 0);
}

TEST_P(NcclFailure, AHungRankIsADeadline) {
  nccl_stand_in::plan_fault(1, 3, Fault::Hung);
  run_nccl_ranks(3, [](NcclRank& self) {
    const DeviceMemory<float> values(std::vector<float>(kCount, 1));
    Status status = sum_until_failure(self, 2, values);
    self.communicator->set_timeout_ms(kShort_ms);
    if (status.ok()) status = sum_until_failure(self, 2, values);
    EXPECT_TRUE(status.code() == StatusCode::Unavailable ||
                contains(status, "all-reduce of 100 f32 (operation 3) was not through within 150 ms"))
        << status.message();
    expect_over(self, status, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
  });
  EXPECT_EQ(nccl_stand_in::counts().aborts, 3);
}

// It dies while the others wait for it.
TEST_P(NcclFailure, ADeadRankIsNamedByNcclToTheOthers) {
  nccl_stand_in::plan_fault(2, 2, Fault::Dead);
  constexpr std::uint64_t kLonger_ms = 20'000;  // not by the deadline
  run_nccl_ranks(
      4,
      [](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        const auto sum = [&] { return self.communicator->all_reduce_sum(values.data(), kCount, Element::F32); };
        EXPECT_TRUE(sum_until_failure(self, 1, values).ok());
        const Status before = self.rank == 2 ? Status() : sum();
        EXPECT_TRUE(before.ok()) << before.message();
        self.all_ranks.arrive_and_wait();
        const Status status = self.rank == 2 ? sum() : self.communicator->wait();
        EXPECT_TRUE(contains(status, self.rank == 2 ? "the GPU has fallen off the bus" : "remote")) << status.message();
        EXPECT_TRUE(contains(status, "all-reduce of 100 f32 (operation 2)")) << status.message();
        expect_over(self, status, {StatusCode::Unavailable});
      },
      kLonger_ms);
  EXPECT_EQ(nccl_stand_in::counts().aborts, 4);
}

TEST_P(NcclFailure, ARankThatNeverComesIsADeadline) {
  run_nccl_ranks(
      3,
      [](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        const Status status = self.rank == 1 ? Status() : sum_until_failure(self, 1, values);
        self.all_ranks.arrive_and_wait();
        const Status own = self.rank == 1 ? sum_until_failure(self, 1, values) : status;
        expect_over(self, own, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
      },
      kShort_ms);
}

TEST_P(NcclFailure, DifferentSizesAndOperations) {
  for (const bool other_operation : {false, true}) {
    run_nccl_ranks(
        3,
        [&](NcclRank& self) {
          const DeviceMemory<float> values(std::vector<float>(kCount, 1));
          Communicator& c = *self.communicator;
          const bool is_odd = self.rank == 1;
          Status status = is_odd && other_operation
                              ? c.broadcast(values.data(), kCount, 1)
                              : c.all_reduce_sum(values.data(), is_odd ? kCount - 1 : kCount, Element::F32);
          if (status.ok()) status = c.wait();
          expect_over(self, status, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
        },
        kShort_ms);
    const auto complaints = nccl_stand_in::complaints();
    ASSERT_FALSE(complaints.empty());
    const std::string odd = other_operation ? "broadcast of 100 int8 from rank 1" : "all-reduce of 99 float32";
    EXPECT_NE(complaints[0].find(odd), std::string::npos) << complaints[0];
  }
}

TEST_P(NcclFailure, AnotherDeadlineHoldsFromTheNextOperationOn) {
  run_nccl_ranks(2, [](NcclRank& self) {
    self.communicator->set_timeout_ms(kShort_ms);
    const DeviceMemory<char> byte(1);
    Status status = self.communicator->receive(byte.data(), 1, 1 - self.rank);
    if (status.ok()) status = self.communicator->wait();
    EXPECT_TRUE(status.code() == StatusCode::Unavailable || contains(status, "receive of 1 bytes from rank"))
        << status.message();
    expect_over(self, status, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
  });
}

TEST_P(NcclFailure, AbortEndsAnOperationThatIsUnderWay) {
  std::atomic<bool> waiting = false;
  run_nccl_ranks(
      3,
      [&](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        std::thread aborter;
        if (self.rank == 1) {
          aborter = std::thread([&] {
            while (!waiting) std::this_thread::yield();
            self.communicator->abort();
            self.communicator->abort();
          });
          self.communicator->set_timeout_ms(600'000);  // only abort() can end it
          waiting = true;
        }
        Status status = self.rank == 1 ? sum_until_failure(self, 1, values) : Status();
        if (aborter.joinable()) aborter.join();
        self.all_ranks.arrive_and_wait();
        if (self.rank != 1) status = sum_until_failure(self, 1, values);  // they come when it is gone
        if (self.rank == 1) {
          expect_over(self, status, {StatusCode::Cancelled});
        } else {
          expect_over(self, status, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
        }
      },
      kShort_ms);
}

TEST_P(NcclFailure, OneThatLeavesEarlyIsOut) {
  run_nccl_ranks(
      2,
      [](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        if (self.rank == 1) self.communicator.reset();
        if (self.rank == 0) {
          const Status status = sum_until_failure(self, 1, values);
          EXPECT_TRUE(status.code() == StatusCode::DeadlineExceeded || status.code() == StatusCode::Unavailable)
              << status.to_string();
        }
      },
      kShort_ms);
}

// With operations of its own under way, to which nobody comes: they do not stay on the GPU.
TEST_P(NcclFailure, DestructionEndsWhatIsUnderWay) {
  run_nccl_ranks(
      2,
      [](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        const Status sent = self.rank == 0 ? self.communicator->send(values.data(), kCount, 1) : Status();
        EXPECT_TRUE(sent.ok() || sent.code() == StatusCode::DeadlineExceeded || sent.code() == StatusCode::Unavailable);
        self.communicator.reset();
        EXPECT_TRUE(self.stream.synchronize().ok());
      },
      kShort_ms);
}

TEST_P(NcclFailure, ABrokenGpu) {
  cuemu::fail_operation(20, cudaErrorIllegalAddress);
  run_nccl_ranks(2, [](NcclRank& self) {
    Status status;
    float* values = nullptr;
    if (cudaMalloc(reinterpret_cast<void**>(&values), sizeof(float)) == cudaSuccess) {
      while (status.ok()) {
        status = self.communicator->all_reduce_sum(values, 1, Element::F32);
        if (status.ok()) status = self.communicator->wait();
      }
      EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
      EXPECT_EQ(self.communicator->wait().message(), status.message());
      cudaFree(values);
    }
  });
}

// On one of the ranks; the other may have its sum by then.
TEST_P(NcclFailure, AnEventThatCannotBeRecorded) {
  std::atomic<int> failed = 0;
  run_nccl_ranks(
      2,
      [&](NcclRank& self) {
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        if (self.rank == 0) cuemu::fail_call("cudaEventRecord", 1, cudaErrorUnknown);
        self.all_ranks.arrive_and_wait();
        failed += !sum_until_failure(self, 1, values).ok();
      },
      kShort_ms);
  EXPECT_GE(failed, 1);
  EXPECT_GE(nccl_stand_in::counts().aborts, failed);
}

TEST_P(NcclFailure, OpeningFails) {
  const auto open_all = [](std::uint32_t size, std::uint32_t coming,
                           const std::function<void(std::uint32_t, const Status&)>& check) {
    const NcclId id = create_nccl_id().value();
    run_gpus(coming, [&](std::uint32_t rank, CudaStream& stream) {
      CommunicatorOptions options = nccl_options(rank, size, kShort_ms);
      options.open_timeout_ms = kShort_ms;
      check(rank, open_nccl_communicator(options, id, stream).status());
    });
  };
  // Somebody does not come.
  open_all(3, 2, [](std::uint32_t rank, const Status& status) {
    EXPECT_EQ(status.code(), StatusCode::DeadlineExceeded) << status.to_string();
    EXPECT_TRUE(contains(status, "rank " + std::to_string(rank) + " of 3: opening")) << status.message();
  });
  // NCCL cannot.
  nccl_stand_in::plan_failed_opening(1, ncclSystemError);
  open_all(2, 2, [](std::uint32_t rank, const Status& status) {
    EXPECT_EQ(status.code(), rank == 1 ? StatusCode::Unavailable : StatusCode::DeadlineExceeded) << status.to_string();
  });
  EXPECT_EQ(nccl_stand_in::counts().open_communicators, 0);
  // No memory.
  cuemu::fail_call("cudaMalloc", 1, cudaErrorMemoryAllocation);
  open_all(1, 1, [](std::uint32_t, const Status& status) { EXPECT_EQ(status.code(), StatusCode::ResourceExhausted); });
  // Options.
  auto stream = CudaStream::create();
  EXPECT_EQ(open_nccl_communicator(nccl_options(2, 2), NcclId{}, *stream).status().code(), StatusCode::InvalidArgument);
}

// One failure for a communicator and its groups, which ends what is under way in both.
TEST_P(NcclFailure, ARankThatIsLostInAGroupEndsAllGroups) {
  for (const Fault fault : {Fault::Hung, Fault::Dead}) {
    const int before = nccl_stand_in::counts().aborts;
    run_nccl_ranks(4, [&](NcclRank& self) {
      const std::uint32_t half = self.rank / 2;
      const auto group = self.communicator->group({2 * half, 2 * half + 1}).value();
      self.communicator->set_timeout_ms(kShort_ms);
      self.all_ranks.arrive_and_wait();
      if (self.rank == 1) nccl_stand_in::plan_fault(1, 2, fault);  // the first one of the group's
      self.all_ranks.arrive_and_wait();
      const DeviceMemory<float> values(std::vector<float>(kCount, 1));
      constexpr std::size_t kBytes = kCount * sizeof(float);
      Status status = half == 1 ? self.communicator->receive(values.data(), kBytes, self.rank - 2) : Status();
      if (status.ok()) status = group->all_reduce_sum(values.data(), kCount, Element::F32);
      if (status.ok() && half == 0) status = self.communicator->send(values.data(), kBytes, self.rank + 2);
      if (status.ok()) status = group->wait();
      expect_over(self, status, {StatusCode::DeadlineExceeded, StatusCode::Unavailable});
      EXPECT_EQ(group->all_reduce_sum(values.data(), 1, Element::F32).message(), status.message());
      EXPECT_EQ(group->wait().message(), status.message());
    });
    EXPECT_EQ(nccl_stand_in::counts().aborts - before, 8);
  }
}

TEST_P(NcclFailure, AbortOfAGroupIsThatOfAll) {
  run_nccl_ranks(
      2,
      [](NcclRank& self) {
        const auto group = self.communicator->group({self.rank}).value();
        self.all_ranks.arrive_and_wait();  // all have theirs: opening it is work of all
        if (self.rank == 0) group->abort();
        self.all_ranks.arrive_and_wait();
        const DeviceMemory<float> values(std::vector<float>(kCount, 1));
        const Status status = sum_until_failure(self, 1, values);
        expect_over(self, status,
                    {self.rank == 0 ? StatusCode::Cancelled : StatusCode::DeadlineExceeded, StatusCode::Unavailable});
      },
      kShort_ms);
}

TEST_P(NcclFailure, OpeningAGroupFails) {
  for (const bool without_id : {true, false}) {
    std::atomic<int> failed = 0, named = 0;
    run_nccl_ranks(
        4,
        [&](NcclRank& self) {
          if (self.rank == 0 && without_id) nccl_stand_in::plan_failed_id(ncclSystemError);
          if (self.rank == 0 && !without_id) nccl_stand_in::plan_failed_opening(1, ncclSystemError);
          self.all_ranks.arrive_and_wait();
          const std::uint32_t half = self.rank / 2;
          auto group = self.communicator->group({2 * half, 2 * half + 1});
          const Status status = group.status();
          failed += !status.ok();
          named += contains(status, without_id ? "unhandled system error" : "rank 1 of 2 in a group");
          named += contains(status, "could not begin with a group of ranks");
          EXPECT_TRUE(status.ok() || status.code() == StatusCode::Unavailable ||
                      status.code() == StatusCode::DeadlineExceeded)
              << status.to_string();
          self.all_ranks.arrive_and_wait();
        },
        kShort_ms, /*open_timeout_ms=*/1500);
    EXPECT_GE(failed, 2);
    EXPECT_GE(named, without_id ? 2 : 1);
  }
}

TEST_P(NcclFailure, TwoRanksOnOneGpu) {
  const NcclId id = create_nccl_id().value();
  std::atomic<int> refused = 0;
  run_gpus(2, [&](std::uint32_t rank, CudaStream&) {
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    auto stream = CudaStream::create();
    CommunicatorOptions options = nccl_options(rank, 2);
    options.open_timeout_ms = kShort_ms;
    const Status status = open_nccl_communicator(options, id, *stream).status();
    refused += status.code() == StatusCode::InvalidArgument && contains(status, "give each rank a GPU");
    EXPECT_FALSE(status.ok());
  });
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(nccl_stand_in::complaints().size(), 1u);
}

TEST_P(NcclFailure, TheFirstRankSaysThatItHasNoId) {
  const std::string address = free_address();
  nccl_stand_in::plan_failed_id(ncclSystemError);
  run_gpus(3, [&](std::uint32_t rank, CudaStream& stream) {
    const CommunicatorOptions options = rank_options(address, rank, 3);
    const auto host = open_tcp_communicator(options).value();
    const Status status = open_nccl_communicator(options, *host, stream).status();
    EXPECT_EQ(status.code(), StatusCode::Unavailable) << status.to_string();
    EXPECT_TRUE(contains(status, rank == 0 ? "unhandled system error" : "rank 0 could not begin")) << status.message();
  });
}

}  // namespace
}  // namespace tiercel
