#include "base/process_usage.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace tiercel {
namespace {

double seconds_on(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

}  // namespace

double thread_cpu_s() { return seconds_on(CLOCK_THREAD_CPUTIME_ID); }

double thread_cpu_s(pthread_t thread) {
  clockid_t clock{};
  return pthread_getcpuclockid(thread, &clock) == 0 ? seconds_on(clock) : 0;
}

ProcessUsage::ProcessUsage()
    : statm_(::open("/proc/self/statm", O_RDONLY | O_CLOEXEC)),
      page_bytes_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {}

ProcessUsage::~ProcessUsage() {
  if (statm_ >= 0) ::close(statm_);
}

ProcessStats ProcessUsage::stats() const {
  constexpr std::uint64_t kBlockBytes = 512;  // in which the kernel counts, whatever the file system's are
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return {};
  return {.cpu_s = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime),
          .disk_read_bytes = static_cast<std::uint64_t>(usage.ru_inblock) * kBlockBytes,
          .disk_written_bytes = static_cast<std::uint64_t>(usage.ru_oublock) * kBlockBytes};
}

std::size_t ProcessUsage::resident_bytes() const {
  char text[128];
  const ssize_t length = statm_ < 0 ? -1 : ::pread(statm_, text, sizeof text - 1, 0);
  if (length <= 0) return 0;
  text[length] = '\0';
  unsigned long long total = 0, resident = 0;
  return std::sscanf(text, "%llu %llu", &total, &resident) == 2 ? resident * page_bytes_ : 0;
}

}  // namespace tiercel
