// What ranks say to each other over each transport, against plain sums; and what the others see of one that dies, hangs
// or leaves.
#include "ranks/communicator.h"

#include <bit>
#include <cstring>
#include <future>
#include <mutex>
#include <random>

#include <gtest/gtest.h>

#include "ranks/gloo_communicator.h"
#include "ranks/tcp_communicator.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

// What a rank gives: of many magnitudes, so that sums in another order would differ.
std::vector<float> values_of(std::uint32_t rank, std::size_t count, unsigned seed) {
  std::mt19937 random(seed * 64 + rank);
  std::vector<float> values(count);
  for (float& value : values) {
    value = std::ldexp(std::uniform_real_distribution<float>(-1, 1)(random), static_cast<int>(random() % 20));
  }
  return values;
}

std::size_t random_count(std::mt19937& random) {
  constexpr std::size_t kMost[] = {4, 1000, 5000, 100'000};
  return random() % kMost[random() % 4];
}

struct Transport {
  std::string name;
  OpenCommunicator open;
};
void PrintTo(const Transport& transport, std::ostream* out) { *out << transport.name; }
const Transport kTransports[] = {{"Tcp", open_tcp_communicator},
#if defined(TIERCEL_TEST_GLOO)
                                 {"Gloo", open_gloo_communicator}
#endif
};

class CommunicatorTest : public testing::TestWithParam<Transport> {
 protected:
  void run_ranks(std::uint32_t size, const std::function<void(Communicator&)>& work,
                 std::uint64_t timeout_ms = 60'000) const {
    tiercel::run_ranks(GetParam().open, size, work, timeout_ms);
  }
};

TEST_P(CommunicatorTest, SumsAreAddedUpInTheOrderOfRanks) {
  for (const std::uint32_t size : {1u, 2u, 3u, 4u}) {
    run_ranks(size, [&](Communicator& communicator) {
      std::mt19937 random(size);
      for (unsigned i = 0; i < 40; ++i) {
        const std::size_t count = random_count(random);
        std::vector<float> expected = values_of(0, count, i);
        for (std::uint32_t rank = 1; rank < size; ++rank) {
          const auto others = values_of(rank, count, i);
          for (std::size_t k = 0; k < count; ++k) expected[k] += others[k];
        }
        auto values = values_of(communicator.rank(), count, i);
        const Status status = communicator.all_reduce_sum(values.data(), count, Element::F32);
        ASSERT_TRUE(status.ok()) << status.to_string();
        ASSERT_TRUE(values == expected) << count << " elements of " << size << " ranks";
      }
    });
  }
}

TEST_P(CommunicatorTest, SumsOfOtherElements) {
  run_ranks(3, [](Communicator& communicator) {
    for (const std::size_t count : {std::size_t{7}, std::size_t{30'001}}) {
      std::vector<std::int32_t> integers(count, -5 + static_cast<std::int32_t>(communicator.rank()));
      ASSERT_TRUE(communicator.all_reduce_sum(integers.data(), count, Element::I32).ok());
      EXPECT_EQ(integers, std::vector<std::int32_t>(count, -12));
      // 1 + 2^-7, the next one above 1, three times: between 3 and the next one, nearer to that.
      std::vector<std::uint16_t> halves(count, 0x3f81);
      ASSERT_TRUE(communicator.all_reduce_sum(halves.data(), count, Element::BF16).ok());
      EXPECT_EQ(halves, std::vector<std::uint16_t>(count, 0x4042)) << std::hex << halves[0];
    }
  });
}

TEST_P(CommunicatorTest, EverybodyGetsWhatEverybodyGave) {
  for (const std::uint32_t size : {2u, 4u}) {
    run_ranks(size, [&](Communicator& communicator) {
      std::mt19937 random(size);
      for (unsigned i = 0; i < 30; ++i) {
        const std::size_t count = random_count(random);
        const std::uint32_t rank = communicator.rank(), root = static_cast<std::uint32_t>(random()) % size;
        const auto mine = values_of(rank, count, i);
        std::vector<float> all(count * size);
        ASSERT_TRUE(communicator.all_gather(mine.data(), count * sizeof(float), all.data()).ok());
        for (std::uint32_t r = 0; r < size; ++r) {
          const auto theirs = values_of(r, count, i);
          ASSERT_TRUE(std::equal(theirs.begin(), theirs.end(), all.begin() + static_cast<std::ptrdiff_t>(r * count)));
        }
        auto data = mine;
        ASSERT_TRUE(communicator.broadcast(data.data(), count * sizeof(float), root).ok());
        ASSERT_EQ(data, values_of(root, count, i));
        // Around in a circle, from the odd to the even and then the other way; several of one size stay in order.
        for (const float order : {1.0f, 2.0f}) {
          float sent = order * static_cast<float>(rank + 1), received = 0;
          const std::uint32_t to = (rank + 1) % size, from = (rank + size - 1) % size;
          const auto send = [&] { return communicator.send(&sent, sizeof sent, to); };
          const auto receive = [&] { return communicator.receive(&received, sizeof received, from); };
          ASSERT_TRUE((rank % 2 ? send() : receive()).ok());
          ASSERT_TRUE((rank % 2 ? receive() : send()).ok());
          ASSERT_EQ(received, order * static_cast<float>(from + 1));
        }
      }
      ASSERT_TRUE(communicator.barrier().ok());
      EXPECT_TRUE(communicator.wait().ok());
    });
  }
}

TEST_P(CommunicatorTest, NobodyLeavesABarrierBeforeAllCame) {
  std::atomic<int> came = 0;
  run_ranks(4, [&](Communicator& communicator) {
    for (int round = 1; round <= 20; ++round) {
      ++came;
      ASSERT_TRUE(communicator.barrier().ok());
      EXPECT_GE(came.load(), round * 4);
      ASSERT_TRUE(communicator.barrier().ok());
    }
  });
}

TEST_P(CommunicatorTest, ARankOutOfRangeIsRefusedAndNothingIsLost) {
  run_ranks(2, [](Communicator& communicator) {
    char byte = 0;
    EXPECT_EQ(communicator.broadcast(&byte, 1, 2).code(), StatusCode::InvalidArgument);
    EXPECT_EQ(communicator.send(&byte, 1, 7).code(), StatusCode::InvalidArgument);
    EXPECT_EQ(communicator.receive(&byte, 1, communicator.rank()).code(), StatusCode::InvalidArgument);
    EXPECT_TRUE(communicator.barrier().ok());
  });
}

// Two by two, either way, between operations of all: sums, sends and barriers of a group are its own.
TEST_P(CommunicatorTest, GroupsAreCommunicatorsOfTheirRanks) {
  run_ranks(4, [](Communicator& communicator) {
    const std::uint32_t rank = communicator.rank();
    const auto group_of = [&](std::uint32_t a, std::uint32_t b) { return communicator.group({a, b}).value(); };
    const auto row = rank < 2 ? group_of(0, 1) : group_of(2, 3);
    const auto column = rank % 2 == 0 ? group_of(0, 2) : group_of(1, 3);
    EXPECT_EQ(row->rank(), rank % 2);
    EXPECT_EQ(column->rank(), rank / 2);
    EXPECT_EQ(column->size(), 2u);
    std::mt19937 random(7);
    for (unsigned i = 0; i < 30; ++i) {
      const std::size_t count = random_count(random);
      const auto mine = values_of(rank, count, i);
      const auto sum_of = [&](std::uint32_t a, std::uint32_t b) {
        std::vector<float> sum = values_of(a, count, i);
        const auto others = values_of(b, count, i);
        for (std::size_t k = 0; k < count; ++k) sum[k] += others[k];
        return sum;
      };
      auto values = mine;
      ASSERT_TRUE(row->all_reduce_sum(values.data(), count, Element::F32).ok());
      ASSERT_TRUE(values == sum_of(rank / 2 * 2, rank / 2 * 2 + 1)) << count;
      values = mine;
      ASSERT_TRUE(column->all_reduce_sum(values.data(), count, Element::F32).ok());
      ASSERT_TRUE(values == sum_of(rank % 2, rank % 2 + 2)) << count;
      values = mine;
      ASSERT_TRUE(column->broadcast(values.data(), count * sizeof(float), 1).ok());
      ASSERT_TRUE(values == values_of(2 + rank % 2, count, i));
      std::uint32_t sent = rank, received = 99;
      if (rank < 2) {
        ASSERT_TRUE(column->send(&sent, sizeof sent, 1).ok());
      } else {
        ASSERT_TRUE(column->receive(&received, sizeof received, 0).ok());
        EXPECT_EQ(received, rank - 2);
      }
      std::int32_t one = 1;
      ASSERT_TRUE(communicator.all_reduce_sum(&one, 1, Element::I32).ok());
      EXPECT_EQ(one, 4);
    }
    // One of one rank, and one of a group.
    float value = 5;
    ASSERT_TRUE(communicator.group({rank}).value()->all_reduce_sum(&value, 1, Element::F32).ok());
    EXPECT_EQ(value, 5);
    const auto last = communicator.group({0, 1, 2, 3}).value()->group({rank < 3 ? 0u : 3u});
    EXPECT_EQ(last.ok(), rank == 0 || rank == 3);
  });
}

TEST_P(CommunicatorTest, WhatIsNoGroupIsRefused) {
  run_ranks(2, [](Communicator& communicator) {
    const std::uint32_t rank = communicator.rank();
    for (const std::vector<std::uint32_t>& ranks :
         {std::vector<std::uint32_t>{}, {1 - rank}, {1, 0}, {rank, rank}, {rank, 2}}) {
      EXPECT_EQ(communicator.group(ranks).status().code(), StatusCode::InvalidArgument);
    }
    EXPECT_TRUE(communicator.barrier().ok());
  });
}

// Every rank leaves with a Status, and every later call has the same one at once.
void expect_final_failure(Communicator& communicator, const Status& status) {
  ASSERT_FALSE(status.ok());
  EXPECT_TRUE(status.code() == StatusCode::DeadlineExceeded || status.code() == StatusCode::Unavailable ||
              status.code() == StatusCode::Internal)
      << status.to_string();
  float value = 1;
  EXPECT_EQ(communicator.all_reduce_sum(&value, 1, Element::F32).message(), status.message());
  EXPECT_EQ(communicator.broadcast(&value, 4, 0).message(), status.message());
  EXPECT_EQ(communicator.wait().message(), status.message());
}

TEST_P(CommunicatorTest, DifferentSizesOrOperationsFail) {
  for (const bool other_operation : {false, true}) {
    run_ranks(
        3,
        [&](Communicator& communicator) {
          std::vector<float> values(100'000);
          const bool is_odd = communicator.rank() == 1;
          const std::size_t count = is_odd && !other_operation ? 99'000 : 100'000;
          Status status = is_odd && other_operation ? communicator.broadcast(values.data(), count, 1)
                                                    : communicator.all_reduce_sum(values.data(), count, Element::F32);
          if (status.ok() && is_odd) status = communicator.barrier();  // who only sends may learn it later
          expect_final_failure(communicator, status);
        },
        300);
  }
}

TEST_P(CommunicatorTest, AnotherDeadlineHoldsFromTheNextOperationOn) {
  std::promise<void> is_over;
  run_ranks(2, [&](Communicator& communicator) {
    communicator.set_timeout_ms(200);
    if (communicator.rank() == 1) return is_over.get_future().wait();  // is there, and does not come
    char byte = 0;
    const Status status = communicator.receive(&byte, 1, 1);
    EXPECT_EQ(status.code(), StatusCode::DeadlineExceeded) << status.to_string();
    EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.to_string();
    is_over.set_value();
  });
}

// The failure of a group is that of the whole, for those too who are in other groups, and the other way round.
TEST_P(CommunicatorTest, AGroupAndTheWholeFailTogether) {
  for (const bool fails_in_group : {true, false}) {
    run_ranks(
        4,
        [&](Communicator& communicator) {
          const std::uint32_t rank = communicator.rank();
          const auto group = communicator.group(rank < 2 ? std::vector{0u, 1u} : std::vector{2u, 3u}).value();
          std::vector<float> values(1000);
          const auto sum = [&](Communicator& among) {
            return among.all_reduce_sum(values.data(), values.size(), Element::F32);
          };
          if (rank == 3) {  // leaves when all are here
            ASSERT_TRUE(communicator.barrier().ok());
            fails_in_group ? group->abort() : communicator.abort();
            EXPECT_EQ(communicator.wait().code(), StatusCode::Cancelled);
            EXPECT_EQ(group->wait().code(), StatusCode::Cancelled);
            return;
          }
          ASSERT_TRUE(communicator.barrier().ok());
          Status status;
          while (status.ok()) {
            status = sum(fails_in_group ? *group : communicator);
            if (fails_in_group && status.ok()) status = sum(communicator);
          }
          expect_final_failure(communicator, status);
          expect_final_failure(*group, status);
        },
        5000);
  }
}

TEST_P(CommunicatorTest, AGroupHasTheDeadlineOfTheWhole) {
  std::promise<void> is_over;
  run_ranks(2, [&](Communicator& communicator) {
    const auto group = communicator.group({0, 1}).value();
    communicator.rank() == 0 ? communicator.set_timeout_ms(200) : group->set_timeout_ms(200);
    if (communicator.rank() == 1) return is_over.get_future().wait();
    char byte = 0;
    EXPECT_EQ(group->receive(&byte, 1, 1).code(), StatusCode::DeadlineExceeded);
    is_over.set_value();
  });
}

TEST_P(CommunicatorTest, AbortEndsAnOperationThatIsUnderWayAndThoseOfTheOthers) {
  std::promise<void> is_aborted;
  std::atomic<int> waiting = 0;
  run_ranks(3, [&](Communicator& communicator) {
    if (communicator.rank() == 0) return is_aborted.get_future().wait();  // never comes
    std::thread aborter;
    if (communicator.rank() == 1) {
      aborter = std::thread([&] {
        while (waiting < 2) std::this_thread::yield();
        communicator.abort();
        communicator.abort();
      });
    }
    float value = 1;
    ++waiting;
    const Status status = communicator.all_reduce_sum(&value, 1, Element::F32);
    EXPECT_EQ(status.code(), communicator.rank() == 1 ? StatusCode::Cancelled : StatusCode::Unavailable)
        << status.to_string();
    EXPECT_EQ(communicator.barrier().code(), status.code());
    if (!aborter.joinable()) return;
    aborter.join();
    is_aborted.set_value();
  });
}

// Ranks 1 and 2 are processes; this one is rank 0. Rank 2 ends or stops after a few rounds, in the middle of others'.
class LostRank : public testing::TestWithParam<std::tuple<Transport, int>> {};

TEST_P(LostRank, EverybodyElseLeavesWithAStatus) {
  const Transport& transport = std::get<0>(GetParam());
  const int signal = std::get<1>(GetParam());
  const std::string address = free_address();
  constexpr std::uint64_t kTimeout_ms = 500;
  const auto rounds = [&](std::uint32_t rank, int stop_after) -> Status {
    auto communicator = transport.open(rank_options(address, rank, 3, kTimeout_ms));
    if (!communicator.ok()) return Status::internal(communicator.status().to_string());
    std::vector<float> values(50'000, 1);
    for (int round = 0; round != stop_after; ++round) {
      TIERCEL_RETURN_IF_ERROR((*communicator)->all_reduce_sum(values.data(), values.size(), Element::F32));
    }
    ::raise(signal);
    return {};
  };
  const auto exit_status_of = [](const Status& status) { return static_cast<int>(status.code()); };
  RankProcess first([&] { return exit_status_of(rounds(1, -1)); });
  RankProcess second([&] { return exit_status_of(rounds(2, 20)); });
  const Status status = rounds(0, -1);
  const int of_first = first.wait();
  const auto is_loss = [](int code) {
    return code == static_cast<int>(StatusCode::Unavailable) || code == static_cast<int>(StatusCode::DeadlineExceeded);
  };
  EXPECT_TRUE(is_loss(exit_status_of(status))) << status.to_string();
  EXPECT_TRUE(is_loss(of_first)) << of_first;
  if (signal == SIGSTOP) {  // back again, it finds the others gone
    EXPECT_NE(status.message().find("rank"), std::string::npos);
    second.signal(SIGCONT);
    EXPECT_EQ(second.wait(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, CommunicatorTest, testing::ValuesIn(kTransports),
                         [](const auto& instance) { return instance.param.name; });
INSTANTIATE_TEST_SUITE_P(Transports, LostRank,
                         testing::Combine(testing::ValuesIn(kTransports), testing::Values(SIGKILL, SIGSTOP)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param).name +
                                  (std::get<1>(instance.param) == SIGKILL ? "Killed" : "Stopped");
                         });

}  // namespace
}  // namespace tiercel
