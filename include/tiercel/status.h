// What a call into tiercel returns when the world may say no: a code for the program, a sentence for the person.
//
// No exception crosses the public API. Functions that can fail return Status, or Result<T> where there is a value.
// The message says what was wrong and what to change; it is one line without a final full stop or line feed. The code
// is always right; the message may be missing where even it found no memory.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace tiercel {

enum class StatusCode : std::uint8_t {
  Ok,
  InvalidArgument,    // the caller's input cannot be used as it is: options, request, file
  NotFound,           // a named thing (file, tensor, block) is not there
  Rejected,           // a queue or quota is full now; the same call may succeed later
  DeadlineExceeded,   // the time given ran out
  Cancelled,          // the caller, or the engine's end, stopped it
  Corruption,         // stored bytes are not what was written
  Unavailable,        // something needed is out of reach now; nothing is known to be lost
  ResourceExhausted,  // it can never fit the configured limit
  Internal,           // a defect in tiercel
};

// "InvalidArgument", "NotFound", ...: stable names, for logs and JSON.
std::string_view to_string(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // Ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::Ok; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // Of Rejected: after how long the same call may succeed, by what has been seen so far. 0: not known.
  std::uint64_t retry_after_ms() const { return retry_after_ms_; }
  // "InvalidArgument: temperature is NaN; give a number of at least 0", or "Ok".
  std::string to_string() const;

  static Status invalid_argument(std::string m) { return {StatusCode::InvalidArgument, std::move(m)}; }
  static Status not_found(std::string m) { return {StatusCode::NotFound, std::move(m)}; }
  static Status rejected(std::string m, std::uint64_t retry_after_ms = 0) {
    Status status(StatusCode::Rejected, std::move(m));
    status.retry_after_ms_ = retry_after_ms;
    return status;
  }
  static Status deadline_exceeded(std::string m) { return {StatusCode::DeadlineExceeded, std::move(m)}; }
  static Status cancelled(std::string m) { return {StatusCode::Cancelled, std::move(m)}; }
  static Status corruption(std::string m) { return {StatusCode::Corruption, std::move(m)}; }
  static Status unavailable(std::string m) { return {StatusCode::Unavailable, std::move(m)}; }
  static Status resource_exhausted(std::string m) { return {StatusCode::ResourceExhausted, std::move(m)}; }
  static Status internal(std::string m) { return {StatusCode::Internal, std::move(m)}; }

 private:
  StatusCode code_ = StatusCode::Ok;
  std::string message_;
  std::uint64_t retry_after_ms_ = 0;
};

// A T, or the Status that says why there is none. Reading the value of a failed Result is a programming error: it
// prints the status to standard error and aborts, so check ok() first wherever failure is possible.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}  // NOLINT: implicit by design

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  // Ok when there is a value.
  Status status() const { return ok() ? Status() : std::get<1>(state_); }

  T& value() & { return check(), *std::get_if<0>(&state_); }
  const T& value() const& { return check(), *std::get_if<0>(&state_); }
  T&& value() && { return check(), std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void check() const {
    if (ok()) return;
    std::fprintf(stderr, "tiercel: value() of a failed Result: %s\n", std::get<1>(state_).to_string().c_str());
    std::abort();
  }
  std::variant<T, Status> state_;
};

}  // namespace tiercel

// Leaves the current function with the status of `expression` unless it is ok.
#define TIERCEL_RETURN_IF_ERROR(expression)            \
  do {                                                 \
    ::tiercel::Status tiercel_status_ = (expression);  \
    if (!tiercel_status_.ok()) return tiercel_status_; \
  } while (false)
