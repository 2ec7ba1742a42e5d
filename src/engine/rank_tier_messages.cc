#include "engine/rank_tier_messages.h"

#include <algorithm>

#include "engine/message_bytes.h"

namespace tiercel {
namespace {

struct RequestHead {
  TierCall call;
  std::uint32_t used, used_lengths, blocks, tokens;
  std::uint64_t after, tenant;
  BlockKey parent;
};

struct AnswerHead {
  StatusCode code;
  std::uint32_t message, blocks;
};

bool is_code(StatusCode code) { return code <= StatusCode::Internal; }

}  // namespace

void write_request(const TierRequest& request, std::vector<std::byte>& bytes) {
  bytes.clear();
  const RequestHead head{.call = request.call,
                         .used = static_cast<std::uint32_t>(request.used.size()),
                         .used_lengths = static_cast<std::uint32_t>(request.used_lengths.size()),
                         .blocks = static_cast<std::uint32_t>(request.blocks.size()),
                         .tokens = static_cast<std::uint32_t>(request.tokens.size()),
                         .after = request.after,
                         .tenant = request.tenant,
                         .parent = request.parent};
  append(bytes, &head, 1);
  append(bytes, request.used.data(), request.used.size());
  append(bytes, request.used_lengths.data(), request.used_lengths.size());
  append(bytes, request.blocks.data(), request.blocks.size());
  append(bytes, request.tokens.data(), request.tokens.size());
}

void write_answer(const TierAnswer& answer, std::vector<std::byte>& bytes) {
  bytes.clear();
  const std::string& message = answer.status.message();
  const AnswerHead head{.code = answer.status.code(),
                        .message = static_cast<std::uint32_t>(message.size()),
                        .blocks = static_cast<std::uint32_t>(answer.blocks.size())};
  append(bytes, &head, 1);
  append(bytes, message.data(), message.size());
  append(bytes, answer.blocks.data(), answer.blocks.size());
}

Status read_request(std::span<const std::byte> bytes, TierRequest& request) {
  const auto no_request = [] { return Status::internal("what rank 0 asked of a tier is no request"); };
  MessageReader reader(bytes);
  RequestHead head;
  if (!reader.read(head) || head.call > TierCall::Flush || !reader.read(request.used, head.used) ||
      !reader.read(request.used_lengths, head.used_lengths) || !reader.read(request.blocks, head.blocks) ||
      !reader.read(request.tokens, head.tokens) || !reader.at_end()) {
    return no_request();
  }
  request.call = head.call;
  request.after = head.after;
  request.tenant = head.tenant;
  request.parent = head.parent;
  std::uint64_t tokens = 0, used = 0;
  for (const TierRequest::Block& block : request.blocks) tokens += block.tokens;
  for (const std::uint32_t length : request.used_lengths) used += length;
  return tokens > request.tokens.size() || used > request.used.size() ? no_request() : Status();
}

Status read_answer(std::span<const std::byte> bytes, TierAnswer& answer) {
  const auto no_answer = [] { return Status::internal("what a rank answered for a tier is no answer"); };
  MessageReader reader(bytes);
  AnswerHead head;
  std::vector<char> message;
  if (!reader.read(head) || !is_code(head.code) || !reader.read(message, head.message) ||
      !reader.read(answer.blocks, head.blocks) || !reader.at_end()) {
    return no_answer();
  }
  answer.status = Status(head.code, std::string(message.begin(), message.end()));
  const bool fits = std::ranges::all_of(answer.blocks, [](const auto& block) { return is_code(block.code); });
  return fits ? Status() : no_answer();
}

}  // namespace tiercel
