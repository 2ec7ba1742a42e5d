// How ranks find each other, and what is said to those who do not fit.
#include "ranks/rendezvous.h"

#include <thread>

#include <gtest/gtest.h>

#include "tests/ranks/rank_threads.h"

namespace tiercel {
namespace {

TEST(Rendezvous, AddressesAreAHostAndAPort) {
  const auto parsed = parse_address("10.0.0.1:29500").value(), bracketed = parse_address("[::1]:80").value();
  EXPECT_EQ(parsed.host, "10.0.0.1");
  EXPECT_EQ(parsed.port, "29500");
  EXPECT_EQ(parsed.text(), "10.0.0.1:29500");
  EXPECT_EQ(bracketed.host, "::1");
  EXPECT_EQ(bracketed.port, "80");
  EXPECT_EQ(bracketed.text(), "[::1]:80");
  for (const char* bad :
       {"", ":", "host", "host:", ":80", "host:0", "host:65536", "host:8x", "::1:80", "host:123456"}) {
    const auto refused = parse_address(bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_EQ(refused.status().code(), StatusCode::InvalidArgument);
  }
}

TEST(Rendezvous, EverybodyGetsWhatEverybodyGaveInWhateverOrderTheyCome) {
  const std::string address = free_address();
  std::vector<std::thread> threads;
  for (const std::uint32_t rank : {3u, 1u, 0u, 2u}) {
    threads.emplace_back([&, rank] {
      auto rendezvous = Rendezvous::open(rank_options(address, rank, 4));
      ASSERT_TRUE(rendezvous.ok()) << rendezvous.status().to_string();
      EXPECT_EQ(rendezvous->local_host(), "127.0.0.1");
      const auto all = rendezvous->exchange(std::string(rank * 1000, static_cast<char>('a' + rank)));
      ASSERT_TRUE(all.ok()) << all.status().to_string();
      for (std::uint32_t r = 0; r < 4; ++r) EXPECT_EQ((*all)[r], std::string(r * 1000, static_cast<char>('a' + r)));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Rendezvous, WhoDoesNotComeIsNamed) {
  CommunicatorOptions options = rank_options(free_address(), 0, 3);
  options.open_timeout_ms = 200;
  const auto alone = Rendezvous::open(options);
  EXPECT_EQ(alone.status().code(), StatusCode::DeadlineExceeded);
  EXPECT_NE(alone.status().message().find("rank 1, 2 did not come"), std::string::npos) << alone.status().to_string();
  options.rank = 2;
  EXPECT_EQ(Rendezvous::open(options).status().code(), StatusCode::DeadlineExceeded);
  options.rank = 3;
  EXPECT_EQ(Rendezvous::open(options).status().code(), StatusCode::InvalidArgument);
}

TEST(Rendezvous, WhoDoesNotFitIsToldSoAndTheOthersGoOn) {
  const std::string address = free_address();
  std::thread first([&] {
    const auto rendezvous = Rendezvous::open(rank_options(address, 0, 3));
    EXPECT_TRUE(rendezvous.ok()) << rendezvous.status().to_string();
  });
  // Rank 0 is there when it has answered.
  const auto other_size = Rendezvous::open(rank_options(address, 2, 4));
  EXPECT_EQ(other_size.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(other_size.status().message().find("3 ranks"), std::string::npos) << other_size.status().to_string();

  // A stranger who says something else, and one who says nothing.
  const HostPort first_address = parse_address(address).value();
  const auto connect_and_say = [&](const std::string& bytes) {
    const int stranger = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(first_address.port)));
    ::inet_pton(AF_INET, first_address.host.c_str(), &to.sin_addr);
    EXPECT_EQ(::connect(stranger, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    EXPECT_EQ(::send(stranger, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    return stranger;
  };
  const int talking = connect_and_say("GET / HTTP/1.1\r\n\r\n"), silent = connect_and_say("");

  // The place of a rank that is there is taken; of one that has left, it is free again.
  const std::string greeting = "tiercel ranks 2 1 of 3";
  const int earlier = connect_and_say(std::string{static_cast<char>(greeting.size()), 0, 0, 0} + greeting);
  const auto taken = Rendezvous::open(rank_options(address, 1, 3));
  EXPECT_EQ(taken.status().code(), StatusCode::InvalidArgument);
  EXPECT_NE(taken.status().message().find("a rank 1 already"), std::string::npos) << taken.status().to_string();
  ::close(earlier);
  std::thread second([&] { EXPECT_TRUE(Rendezvous::open(rank_options(address, 1, 3)).ok()); });
  EXPECT_TRUE(Rendezvous::open(rank_options(address, 2, 3)).ok());
  first.join();
  second.join();
  ::close(talking);
  ::close(silent);
}

}  // namespace
}  // namespace tiercel
