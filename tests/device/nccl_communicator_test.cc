// What ranks on GPUs say to each other, against plain sums, at every pace that seeds of the emulated GPUs and of NCCL's
// stand-in have.
#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <type_traits>

#include "ranks/tcp_communicator.h"
#include "tests/device/nccl_ranks.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

class NcclCommunicator : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, NcclCommunicator, testing::Range(0, 12));

std::size_t random_count(std::mt19937& random) {
  constexpr std::size_t kMost[] = {1, 4, 1000, 5000};
  return 1 + random() % kMost[random() % 4];
}

// What a rank gives: whole numbers, so that sums are exact in any order, in bfloat16 too. No byte of an integer is 0.
template <class T>
std::vector<T> values_of(std::uint32_t rank, std::size_t count, unsigned round) {
  std::vector<T> values(count);
  constexpr T kEachByte = std::is_integral_v<T> ? T(0x01010101) : T(1);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(1 + (i * 5 + rank * 3 + round) % 7) * kEachByte;
  return values;
}
template <class T>
std::vector<T> sums_of(std::uint32_t size, std::size_t count, unsigned round) {
  std::vector<T> sums(count);
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    const auto values = values_of<T>(rank, count, round);
    for (std::size_t i = 0; i < count; ++i) sums[i] += values[i];
  }
  return sums;
}

std::uint32_t size_of(int seed) { return 1 + static_cast<std::uint32_t>(seed * 5) % kMostRanks; }

// What comes before an operation in the stream is before it, and what comes after it has its result.
template <class T>
void check_sums(int seed, Element element) {
  run_nccl_ranks(size_of(seed), [&](NcclRank& self) {
    std::mt19937 random(static_cast<unsigned>(seed));
    for (unsigned round = 0; round < 8; ++round) {
      const std::size_t count = random_count(random);
      const DeviceMemory<T> values(count), result(count);
      self.fill(values, values_of<T>(self.rank, count, round));
      const Status status = self.communicator->all_reduce_sum(values.data(), count, element);
      ASSERT_TRUE(status.ok()) << status.to_string();
      self.copy(result, values);
      EXPECT_EQ(cudaMemsetAsync(values.data(), 0, count * sizeof(T), self.stream.get()), cudaSuccess);
      if (round % 2 == 0) {
        ASSERT_TRUE(self.communicator->wait().ok());
        ASSERT_TRUE(self.stream.synchronize().ok());
      }
      EXPECT_EQ(result.read(), sums_of<T>(self.size, count, round)) << count << " elements of " << self.size;
    }
  });
}

TEST_P(NcclCommunicator, SumsOfFloats) { check_sums<float>(GetParam(), Element::F32); }
TEST_P(NcclCommunicator, SumsOfIntegers) { check_sums<std::int32_t>(GetParam(), Element::I32); }

TEST_P(NcclCommunicator, SumsOfBfloat16) {
  run_nccl_ranks(size_of(GetParam()), [&](NcclRank& self) {
    const auto bits = [](const std::vector<float>& values) {
      std::vector<std::uint16_t> result(values.size());
      std::ranges::transform(values, result.begin(), [](float value) {
        return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      });
      return result;
    };
    constexpr std::size_t kCount = 777;
    const DeviceMemory<std::uint16_t> values(bits(values_of<float>(self.rank, kCount, 1)));
    ASSERT_TRUE(self.communicator->all_reduce_sum(values.data(), kCount, Element::BF16).ok());
    ASSERT_TRUE(self.communicator->wait().ok());
    EXPECT_EQ(look_at(values, kCount), bits(sums_of<float>(self.size, kCount, 1)));
  });
}

TEST_P(NcclCommunicator, EverybodyGetsWhatEverybodyGave) {
  run_nccl_ranks(size_of(GetParam()), [&](NcclRank& self) {
    std::mt19937 random(static_cast<unsigned>(GetParam()));
    for (unsigned round = 0; round < 6; ++round) {
      const std::size_t count = random_count(random);
      const std::uint32_t root = static_cast<std::uint32_t>(random()) % self.size;
      std::vector<int> everybody;
      for (std::uint32_t rank = 0; rank < self.size; ++rank) {
        const auto values = values_of<int>(rank, count, round);
        everybody.insert(everybody.end(), values.begin(), values.end());
      }
      const DeviceMemory<int> mine(count), all(count * self.size);
      self.fill(mine, values_of<int>(self.rank, count, round));
      ASSERT_TRUE(self.communicator->all_gather(mine.data(), count * sizeof(int), all.data()).ok());
      ASSERT_TRUE(self.communicator->broadcast(mine.data(), count * sizeof(int), root).ok());
      ASSERT_TRUE(self.communicator->wait().ok());
      EXPECT_EQ(look_at(all, everybody.size()), everybody);
      EXPECT_EQ(look_at(mine, count), values_of<int>(root, count, round));
      // In its place.
      const DeviceMemory<int> in_place(count * self.size);
      int* const own = in_place.data() + count * self.rank;
      EXPECT_EQ(cudaMemcpyAsync(own, all.data() + count * self.rank, count * sizeof(int), cudaMemcpyDeviceToDevice,
                                self.stream.get()),
                cudaSuccess);
      ASSERT_TRUE(self.communicator->all_gather(own, count * sizeof(int), in_place.data()).ok());
      EXPECT_EQ(in_place.read(), everybody);
    }
  });
}

// As the stages of a pipeline do: several messages of one size stay in order, and the last rank answers the first.
TEST_P(NcclCommunicator, MessagesGoFromRankToRank) {
  run_nccl_ranks(2 + static_cast<std::uint32_t>(GetParam()) % 3, [](NcclRank& self) {
    constexpr std::size_t kCount = 50;
    const DeviceMemory<int> values(kCount);
    Communicator& c = *self.communicator;
    const std::uint32_t last = self.size - 1;
    for (unsigned round = 0; round < 4; ++round) {
      constexpr std::size_t kBytes = kCount * sizeof(int);
      if (self.rank == 0) self.fill(values, values_of<int>(0, kCount, round));
      const Status received = self.rank == 0 ? Status() : c.receive(values.data(), kBytes, self.rank - 1);
      ASSERT_TRUE(received.ok()) << received.to_string();
      ASSERT_TRUE(c.send(values.data(), kBytes, self.rank == last ? 0 : self.rank + 1).ok());
      const Status back = self.rank == 0 ? c.receive(values.data(), kBytes, last) : Status();
      ASSERT_TRUE(back.ok()) << back.to_string();
      ASSERT_TRUE(c.wait().ok());
      EXPECT_EQ(look_at(values, kCount), values_of<int>(0, kCount, round));
    }
  });
}

// As stages of several ranks do: sums within a stage, what they give from stage to stage, all in one order.
TEST_P(NcclCommunicator, GroupsAddUpAmongThemselvesBetweenMessagesOfAll) {
  run_nccl_ranks(4, [](NcclRank& self) {
    const std::uint32_t half = self.rank / 2;
    const auto group = self.communicator->group({2 * half, 2 * half + 1});
    ASSERT_TRUE(group.ok()) << group.status().to_string();
    EXPECT_EQ((*group)->rank(), self.rank % 2);
    EXPECT_EQ((*group)->size(), 2u);
    constexpr std::size_t kCount = 50, kBytes = kCount * sizeof(int);
    const DeviceMemory<int> values(kCount), result(kCount);
    for (unsigned round = 0; round < 4; ++round) {
      if (half == 0) self.fill(values, values_of<int>(self.rank, kCount, round));
      const Status received = half == 0 ? Status() : self.communicator->receive(values.data(), kBytes, self.rank - 2);
      ASSERT_TRUE(received.ok()) << received.to_string();
      ASSERT_TRUE((*group)->all_reduce_sum(values.data(), kCount, Element::I32).ok());
      const Status sent = half == 1 ? Status() : self.communicator->send(values.data(), kBytes, self.rank + 2);
      ASSERT_TRUE(sent.ok()) << sent.to_string();
      self.copy(result, values);
      const bool by_group = round % 2 == 0;  // what one waits for is through for the other
      ASSERT_TRUE((by_group ? **group : *self.communicator).wait().ok());
      ASSERT_TRUE(self.stream.synchronize().ok());
      std::vector<int> expected = sums_of<int>(2, kCount, round);
      if (half == 1) {
        for (int& value : expected) value *= 2;
      }
      EXPECT_EQ(look_at(result, kCount), expected);
    }
  });
}

TEST_P(NcclCommunicator, AGroupMayBeOfOneAndAnotherOfSeveral) {
  run_nccl_ranks(4, [](NcclRank& self) {
    const auto group =
        self.communicator->group(self.rank == 2 ? std::vector<std::uint32_t>{2} : std::vector<std::uint32_t>{0, 1, 3});
    ASSERT_TRUE(group.ok()) << group.status().to_string();
    const DeviceMemory<int> values(std::vector<int>{1});
    ASSERT_TRUE((*group)->all_reduce_sum(values.data(), 1, Element::I32).ok());
    const Status said = self.rank == 0   ? (*group)->send(values.data(), 1, 2)
                        : self.rank == 3 ? (*group)->receive(values.data(), 1, 0)
                                         : Status();
    ASSERT_TRUE(said.ok()) << said.to_string();
    ASSERT_TRUE((*group)->barrier().ok());
    EXPECT_EQ(look_at(values, 1)[0], self.rank == 2 ? 1 : 3);
  });
}

TEST_P(NcclCommunicator, GroupsThatCannotBeAreRefusedAndNothingIsLost) {
  run_nccl_ranks(3, [](NcclRank& self) {
    for (const std::vector<std::uint32_t>& ranks :
         {std::vector<std::uint32_t>{(self.rank + 1) % 3}, {self.rank, self.rank}, {2, 1, 0}, {self.rank, 3}, {}}) {
      EXPECT_EQ(self.communicator->group(ranks).status().code(), StatusCode::InvalidArgument);
    }
    EXPECT_TRUE(self.communicator->barrier().ok());
  });
}

TEST_P(NcclCommunicator, NobodyLeavesABarrierBeforeAllCame) {
  std::atomic<int> came = 0;
  run_nccl_ranks(4, [&](NcclRank& self) {
    for (int round = 1; round <= 5; ++round) {
      ++came;
      ASSERT_TRUE(self.communicator->barrier().ok());
      EXPECT_GE(came.load(), round * 4);
      ASSERT_TRUE(self.communicator->barrier().ok());
    }
  });
}

TEST_P(NcclCommunicator, NothingIsAnOperationOfNoBytes) {
  run_nccl_ranks(2, [](NcclRank& self) {
    EXPECT_TRUE(self.communicator->all_reduce_sum(nullptr, 0, Element::F32).ok());
    EXPECT_TRUE(self.communicator->send(nullptr, 0, 1 - self.rank).ok());
    EXPECT_TRUE(self.communicator->wait().ok());
  });
  EXPECT_EQ(nccl_stand_in::counts().operations, 0);
}

TEST_P(NcclCommunicator, ARankOutOfRangeIsRefusedAndNothingIsLost) {
  run_nccl_ranks(2, [](NcclRank& self) {
    const DeviceMemory<char> byte(1);
    EXPECT_EQ(self.communicator->broadcast(byte.data(), 1, 2).code(), StatusCode::InvalidArgument);
    EXPECT_EQ(self.communicator->send(byte.data(), 1, 7).code(), StatusCode::InvalidArgument);
    const Status status = self.communicator->receive(byte.data(), 1, self.rank);
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    EXPECT_NE(status.message().find("receive from rank"), std::string::npos) << status.message();
    EXPECT_TRUE(self.communicator->barrier().ok());
  });
}

// Whose current GPU is another one, and stays it.
TEST_P(NcclCommunicator, AnyThreadMayCall) {
  run_nccl_ranks(3, [](NcclRank& self) {
    std::thread other([&] {
      const DeviceMemory<int> values(std::vector<int>{1});
      EXPECT_EQ(cudaSetDevice(7), cudaSuccess);
      EXPECT_TRUE(self.communicator->all_reduce_sum(values.data(), 1, Element::I32).ok());
      EXPECT_TRUE(self.communicator->wait().ok());
      EXPECT_EQ(look_at(values, 1)[0], 3);
      int device = 0;
      EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
      EXPECT_EQ(device, 7);
    });
    other.join();
  });
}

TEST_P(NcclCommunicator, TheFirstRankTellsTheOthersItsId) {
  const std::string address = free_address();
  run_gpus(3, [&](std::uint32_t rank, CudaStream& stream) {
    const CommunicatorOptions options = rank_options(address, rank, 3);
    const auto host = open_tcp_communicator(options).value();
    auto communicator = open_nccl_communicator(options, *host, stream);
    ASSERT_TRUE(communicator.ok()) << communicator.status().to_string();
    EXPECT_EQ((*communicator)->rank(), rank);
    EXPECT_EQ((*communicator)->size(), 3u);
    EXPECT_TRUE((*communicator)->barrier().ok());
  });
}

}  // namespace
}  // namespace tiercel
