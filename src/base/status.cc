#include "tiercel/status.h"

#include <fmt/format.h>

namespace tiercel {

std::string_view to_string(StatusCode code) {
  switch (code) {
    case StatusCode::Ok: return "Ok";
    case StatusCode::InvalidArgument: return "InvalidArgument";
    case StatusCode::NotFound: return "NotFound";
    case StatusCode::Rejected: return "Rejected";
    case StatusCode::DeadlineExceeded: return "DeadlineExceeded";
    case StatusCode::Cancelled: return "Cancelled";
    case StatusCode::Corruption: return "Corruption";
    case StatusCode::Unavailable: return "Unavailable";
    case StatusCode::ResourceExhausted: return "ResourceExhausted";
    case StatusCode::Internal: return "Internal";
  }
  return "Unknown";
}

std::string Status::to_string() const {
  if (ok()) return "Ok";
  return fmt::format("{}: {}", tiercel::to_string(code_), message_);
}

}  // namespace tiercel
