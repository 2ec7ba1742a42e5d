// Ranks of a test: threads of this process, or processes of their own.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "ranks/communicator.h"

namespace tiercel {

// "127.0.0.1:port" with a port that nobody has now.
inline std::string free_address() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  ::close(listener);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

inline CommunicatorOptions rank_options(const std::string& address, std::uint32_t rank, std::uint32_t size,
                                        std::uint64_t timeout_ms = 60'000) {
  return {.address = address, .rank = rank, .size = size, .timeout_ms = timeout_ms, .open_timeout_ms = 60'000};
}

using OpenCommunicator = Result<std::unique_ptr<Communicator>> (*)(const CommunicatorOptions&);

// Calls work(communicator) on a thread for each rank, and returns when all are through.
inline void run_ranks(OpenCommunicator open, std::uint32_t size, const std::function<void(Communicator&)>& work,
                      std::uint64_t timeout_ms = 60'000) {
  const std::string address = free_address();
  std::vector<std::thread> threads;
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      auto communicator = open(rank_options(address, rank, size, timeout_ms));
      ASSERT_TRUE(communicator.ok()) << communicator.status().to_string();
      work(**communicator);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A process that does `work` and ends with what it returns. Killed where it is left behind.
class RankProcess {
 public:
  explicit RankProcess(const std::function<int()>& work) : process_(::fork()) {
    if (process_ == 0) ::_exit(work());
  }
  ~RankProcess() {
    if (process_ <= 0) return;
    signal(SIGKILL);
    wait();
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  void signal(int number) const { ::kill(process_, number); }
  // Its exit status; -1: a signal ended it.
  int wait() {
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t process_;
};

}  // namespace tiercel
