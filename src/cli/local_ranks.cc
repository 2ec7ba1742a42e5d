#include "cli/local_ranks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/cpu_affinity.h"
#include "base/device_name.h"
#include "cli/child_process.h"
#include "cli/cli_options.h"

namespace tiercel::cli {
namespace {

// With a port that nobody has now.
Result<std::string> free_address() {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const bool is_bound = ::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                        ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  const int error = errno;
  ::close(listener);
  if (!is_bound) return Status::unavailable(fmt::format("no port for ranks: {}", std::strerror(error)));
  return fmt::format("127.0.0.1:{}", ntohs(address.sin_port));
}

}  // namespace

Status start_local_ranks(EngineOptions& options) {
  if (options.ranks.size == 1 || !options.ranks.address.empty()) return {};
  auto address = free_address();
  if (!address.ok()) return address.status();
  options.ranks.address = *std::move(address);
  if (options.threads == 0) options.threads = std::max(1u, usable_cores() / options.ranks.size);
  const DeviceName device = parse_device(options.device).value_or(DeviceName());
  for (std::uint32_t rank = 1; rank < options.ranks.size; ++rank) {
    EngineOptions of_rank = options;
    of_rank.ranks.rank = rank;
    // Rank 0 says what tiers there are; where they are is each rank's own.
    if (!options.cache.disk_dir.empty())
      of_rank.cache.disk_dir = fmt::format("{}/rank-{}", options.cache.disk_dir, rank);
    if (device.is_gpu) of_rank.device = fmt::format("cuda:{}", device.number + static_cast<int>(rank));
    std::vector<std::string> arguments = arguments_of(of_rank);
    arguments.insert(arguments.begin(), {"rank", "--end-with-parent"});
    TIERCEL_RETURN_IF_ERROR(start_program("/proc/self/exe", std::move(arguments)));
  }
  return {};
}

}  // namespace tiercel::cli
