// Writes what the cache was asked for: one JSON line per sequence, as docs/trace_format.md says. Lengths and block ids
// only, never text, tokens or salts; `tiercel replay` reads it.
//
// Thread-safe. Lines are collected and written whole: when 64 KiB are waiting, by a record() a second or more after the
// last write, and at the end. So it may be called under a lock; a slow disk is met at most once a second.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "kv/content_key.h"
#include "tiercel/status.h"

namespace tiercel {

// The name of a block in a trace: the upper 53 bits, which a number of JavaScript holds exactly.
inline std::uint64_t trace_id(const ContentKey& key) { return key.low >> 11; }

class TraceRecorder {
 public:
  struct Record {
    std::uint64_t timestamp_ms = 0;  // when the sequence was admitted, by elapsed_ms()
    std::size_t input_length = 0;    // tokens of the prompt
    std::size_t output_length = 0;   // tokens after it
    // trace_id() of each block of the prompt, head to tail, the last one even if only partly filled:
    // ceil(input_length / block_tokens) of them. Or none: the sequence neither matched nor shared anything.
    std::span<const std::uint64_t> prompt_ids = {};
    // trace_id() of the further full blocks that the sequence filled by its end and shared: from the block in which its
    // prompt ended, if that one was partly filled, else from the next.
    std::span<const std::uint64_t> output_ids = {};
  };

  // Appends to `path`, which only the user may read if it is new. NotFound where its folder is missing, Unavailable
  // where it cannot be written.
  static Result<std::unique_ptr<TraceRecorder>> open(const std::string& path, std::uint32_t block_tokens);
  ~TraceRecorder();
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  // Milliseconds since open().
  std::uint64_t elapsed_ms() const;
  // Serving never fails for it: lines that cannot be written are dropped and counted, and the first time is logged.
  void record(const Record& record) noexcept;
  // Writes what is waiting.
  void flush() noexcept;
  std::uint64_t lost_records() const;

 private:
  using Clock = std::chrono::steady_clock;

  TraceRecorder(int file, std::string path, std::uint32_t block_tokens);
  void append_line(const Record& record);
  void write_waiting();  // with the lock held
  void lose_waiting(std::size_t written, int error);

  const int file_;
  const std::string path_;
  const std::uint32_t block_tokens_;
  const Clock::time_point opened_;

  mutable std::mutex mutex_;
  std::string waiting_;  // whole lines
  std::uint64_t waiting_records_ = 0;
  std::uint64_t lost_records_ = 0;
  Clock::time_point last_write_;
};

}  // namespace tiercel
