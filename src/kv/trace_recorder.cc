#include "kv/trace_recorder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"

namespace tiercel {
namespace {

constexpr std::size_t kMostWaitingBytes = 64 << 10;
constexpr std::chrono::seconds kMostWaitingTime{1};

void append_ids(std::string& line, std::span<const std::uint64_t> ids) {
  line += '[';
  for (std::size_t i = 0; i < ids.size(); ++i) {
    fmt::format_to(std::back_inserter(line), "{}{}", i == 0 ? "" : ",", ids[i]);
  }
  line += ']';
}

}  // namespace

Result<std::unique_ptr<TraceRecorder>> TraceRecorder::open(const std::string& path, std::uint32_t block_tokens) {
  const int file = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) {
    const int error = errno;
    std::string message = fmt::format("cannot record a trace to {}: {}", path, std::strerror(error));
    return error == ENOENT ? Status::not_found(std::move(message)) : Status::unavailable(std::move(message));
  }
  return std::unique_ptr<TraceRecorder>(new TraceRecorder(file, path, block_tokens));
}

TraceRecorder::TraceRecorder(int file, std::string path, std::uint32_t block_tokens)
    : file_(file), path_(std::move(path)), block_tokens_(block_tokens), opened_(Clock::now()), last_write_(opened_) {}

TraceRecorder::~TraceRecorder() {
  flush();
  ::close(file_);
}

std::uint64_t TraceRecorder::elapsed_ms() const {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - opened_).count());
}

void TraceRecorder::record(const Record& record) noexcept {
  const std::lock_guard lock(mutex_);
  const std::size_t whole_lines = waiting_.size();
  try {
    append_line(record);
    ++waiting_records_;
  } catch (...) {  // no memory for the line: it is lost like one that the disk does not take
    waiting_.resize(whole_lines);
    ++lost_records_;
  }
  if (waiting_.size() >= kMostWaitingBytes || Clock::now() - last_write_ >= kMostWaitingTime) write_waiting();
}

void TraceRecorder::flush() noexcept {
  const std::lock_guard lock(mutex_);
  write_waiting();
}

std::uint64_t TraceRecorder::lost_records() const {
  const std::lock_guard lock(mutex_);
  return lost_records_;
}

void TraceRecorder::append_line(const Record& record) {
  fmt::format_to(std::back_inserter(waiting_),
                 R"({{"timestamp":{},"input_length":{},"output_length":{},"block_tokens":{},"hash_ids":)",
                 record.timestamp_ms, record.input_length, record.output_length, block_tokens_);
  append_ids(waiting_, record.prompt_ids);
  if (!record.output_ids.empty()) {
    waiting_ += R"(,"output_ids":)";
    append_ids(waiting_, record.output_ids);
  }
  waiting_ += "}\n";
}

void TraceRecorder::write_waiting() {
  last_write_ = Clock::now();
  std::size_t written = 0;
  while (written < waiting_.size()) {
    const ssize_t count = ::write(file_, waiting_.data() + written, waiting_.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      lose_waiting(written, count < 0 ? errno : ENOSPC);
      break;
    }
    written += static_cast<std::size_t>(count);
  }
  waiting_.clear();
  waiting_records_ = 0;
}

// The disk took `written` bytes of what is waiting, then no more. Takes back a line that it has half of, or the next
// line that fits would continue it and both would be unreadable.
void TraceRecorder::lose_waiting(std::size_t written, int error) {
  const std::string_view taken = std::string_view(waiting_).substr(0, written);
  const std::size_t half_line = written - (taken.rfind('\n') + 1);  // npos + 1 is 0
  const off_t end = ::lseek(file_, 0, SEEK_CUR);
  if (half_line > 0 && end >= static_cast<off_t>(half_line)) {
    [[maybe_unused]] const int result = ::ftruncate(file_, end - static_cast<off_t>(half_line));
  }
  if (lost_records_ == 0) {
    log().warn("cannot record the trace {}: {}; requests go on, their lines are lost", path_, std::strerror(error));
  }
  lost_records_ += waiting_records_ - static_cast<std::uint64_t>(std::ranges::count(taken, '\n'));
}

}  // namespace tiercel
