// Connections beside the communicator's.
#include "ranks/rank_links.h"

#include <gtest/gtest.h>

#include "ranks/tcp_communicator.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

Deadline soon() { return RankClock::now() + std::chrono::seconds(20); }

TEST(RankLinks, EachLeadsToItsRankAndPlace) {
  for (const std::uint32_t size : {2u, 4u}) {
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
      const std::string address = free_address();
      std::vector<std::thread> threads;
      for (std::uint32_t rank = 0; rank < size; ++rank) {
        threads.emplace_back([&, rank] {
          auto communicator = open_tcp_communicator(rank_options(address, rank, size)).value();
          const auto links = link_with_first(*communicator, address, count, 20'000).value();
          const auto name_of = [](std::size_t of_rank, std::size_t index) {
            return std::to_string(of_rank) + "/" + std::to_string(index);
          };
          for (std::size_t index = 0; rank > 0 && index < count; ++index) {
            ASSERT_TRUE(links[0][index].send_frame(name_of(rank, index), soon()).ok());
          }
          if (rank > 0) return;
          ASSERT_EQ(links.size(), size - 1);
          for (std::size_t peer = 0; peer < links.size(); ++peer) {
            ASSERT_EQ(links[peer].size(), count);
            for (std::size_t index = 0; index < count; ++index) {
              EXPECT_EQ(links[peer][index].receive_frame(soon()).value(), name_of(peer + 1, index));
            }
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
  }
}

// One that says nothing of use takes nobody's place.
TEST(RankLinks, AStrangerIsNotTakenForARank) {
  const std::string address = free_address();
  std::thread other([&] {
    auto communicator = open_tcp_communicator(rank_options(address, 1, 2)).value();
    // As link_with_first() begins.
    struct {
      std::uint64_t token;
      std::uint32_t port;
    } invitation;
    ASSERT_TRUE(communicator->broadcast(&invitation, sizeof invitation, 0).ok());
    const HostPort first{.host = parse_address(address)->host, .port = std::to_string(invitation.port)};
    struct {
      std::uint64_t token;
      std::uint32_t rank, index;
    } greeting{.token = invitation.token + 1, .rank = 1, .index = 0};
    const auto greet = [&] {
      auto socket = Socket::connect_to(first, soon()).value();
      EXPECT_TRUE(socket.send_frame({reinterpret_cast<const char*>(&greeting), sizeof greeting}, soon()).ok());
      return socket;
    };
    const Socket stranger = greet();
    greeting.token = invitation.token;
    greeting.rank = 2;
    const Socket nobody = greet();
    greeting.rank = 1;
    const Socket rank = greet();
    EXPECT_EQ(rank.receive_frame(soon()).value(), "welcome");
    EXPECT_FALSE(stranger.receive_frame(soon()).ok());
  });
  auto communicator = open_tcp_communicator(rank_options(address, 0, 2)).value();
  const auto links = link_with_first(*communicator, address, 1, 20'000).value();
  EXPECT_TRUE(links[0][0].send_frame("welcome", soon()).ok());
  other.join();
}

TEST(RankLinks, WhoDoesNotComeIsWaitedForUntilTheDeadline) {
  const std::string address = free_address();
  std::thread other([&] {
    auto communicator = open_tcp_communicator(rank_options(address, 1, 2)).value();
    std::byte invitation[16];
    ASSERT_TRUE(communicator->broadcast(invitation, sizeof invitation, 0).ok());
    EXPECT_FALSE(communicator->barrier().ok());  // until rank 0 leaves
  });
  {
    auto communicator = open_tcp_communicator(rank_options(address, 0, 2)).value();
    EXPECT_EQ(link_with_first(*communicator, address, 1, 100).status().code(), StatusCode::DeadlineExceeded);
  }
  other.join();
}

}  // namespace
}  // namespace tiercel
