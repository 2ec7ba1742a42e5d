#include "replay/trace.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tiercel {
namespace {

using Json = nlohmann::json;

// Turns lines into requests. A problem is a sentence; its place in the file is the caller's to add.
class TraceBuilder {
 public:
  explicit TraceBuilder(std::uint32_t unsaid_block_tokens) : unsaid_block_tokens_(unsaid_block_tokens) {}

  Status add_line(std::string_view text);
  Trace take() && {
    trace_.distinct_blocks = tokens_.size();
    return std::move(trace_);
  }

 private:
  // The value of a whole number of at least `least`. `unsaid`: where the line does not have it.
  static Status read_number(const Json& line, const char* name, std::uint64_t least, const std::uint64_t* unsaid,
                            std::uint64_t& value);
  Status read_ids(const Json& line, const char* name, std::vector<TokenId>& tokens);
  Status set_block_tokens(std::uint64_t block_tokens);
  TokenId token_of(std::uint64_t id);

  const std::uint32_t unsaid_block_tokens_;
  Trace trace_;
  std::unordered_map<std::uint64_t, TokenId> tokens_;
  std::vector<TokenId> prompt_;  // of the line at hand
  std::vector<TokenId> output_;
};

Status TraceBuilder::add_line(std::string_view text) {
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return Status::invalid_argument("the line is no JSON object");

  constexpr std::uint64_t kNoOutput = 0;
  const std::uint64_t unsaid_block_tokens = unsaid_block_tokens_;
  std::uint64_t input_length = 0;
  std::uint64_t output_length = 0;
  std::uint64_t block_tokens = 0;
  TIERCEL_RETURN_IF_ERROR(read_number(line, "input_length", 0, nullptr, input_length));
  TIERCEL_RETURN_IF_ERROR(read_number(line, "output_length", 0, &kNoOutput, output_length));
  TIERCEL_RETURN_IF_ERROR(read_number(line, "block_tokens", 1, &unsaid_block_tokens, block_tokens));
  TIERCEL_RETURN_IF_ERROR(set_block_tokens(block_tokens));
  if (!line.contains("hash_ids")) return Status::invalid_argument("hash_ids is missing");
  TIERCEL_RETURN_IF_ERROR(read_ids(line, "hash_ids", prompt_));
  TIERCEL_RETURN_IF_ERROR(read_ids(line, "output_ids", output_));

  const std::uint64_t full_blocks = input_length / block_tokens;
  const std::uint64_t begun_blocks = full_blocks + (input_length % block_tokens != 0);
  const bool has_ids = !prompt_.empty();
  if (has_ids && prompt_.size() != begun_blocks) {
    return Status::invalid_argument(fmt::format(
        "{} hash_ids do not fit an input_length of {}, which is {} blocks of {} tokens{}", prompt_.size(), input_length,
        begun_blocks, block_tokens, line.contains("block_tokens") ? "" : " (the line does not say block_tokens)"));
  }
  if (const std::uint64_t room = (input_length % block_tokens + output_length) / block_tokens; output_.size() > room) {
    return Status::invalid_argument(
        fmt::format("{} output_ids do not fit an output_length of {}, which fills {} blocks of {} tokens",
                    output_.size(), output_length, room, block_tokens));
  }

  TraceRequest request{.input_tokens = input_length,
                       .first_block = trace_.blocks.size(),
                       .requested_blocks = static_cast<std::uint32_t>(prompt_.size()),
                       .prompt_blocks = static_cast<std::uint32_t>(has_ids ? full_blocks : 0),
                       .output_blocks = static_cast<std::uint32_t>(output_.size())};
  request.matchable_blocks = request.prompt_blocks;
  // A recording of ours: the engine computes the last token of every prompt. A block that this token fills is neither
  // taken from the cache nor, unless more followed it there, left in it.
  if (line.contains("block_tokens") && has_ids && input_length % block_tokens == 0) {
    --request.matchable_blocks;
    if (output_.empty()) --request.prompt_blocks;
  }
  trace_.blocks.insert(trace_.blocks.end(), prompt_.begin(), prompt_.begin() + request.prompt_blocks);
  trace_.blocks.insert(trace_.blocks.end(), output_.begin(), output_.end());
  trace_.requests.push_back(request);
  trace_.accesses += request.requested_blocks;
  trace_.input_tokens += request.input_tokens;
  return {};
}

Status TraceBuilder::read_number(const Json& line, const char* name, std::uint64_t least, const std::uint64_t* unsaid,
                                 std::uint64_t& value) {
  const auto found = line.find(name);
  if (found == line.end() && unsaid != nullptr) {
    value = *unsaid;
    return {};
  }
  if (found == line.end()) return Status::invalid_argument(fmt::format("{} is missing", name));
  // Far above every real length, and far enough below the limit of the type for sums.
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() < least || found->get<std::uint64_t>() > kMost) {
    return Status::invalid_argument(fmt::format("{} is {}; it must be a whole number from {} to {}", name,
                                                found->dump(-1, ' ', true, Json::error_handler_t::replace), least,
                                                kMost));
  }
  value = found->get<std::uint64_t>();
  return {};
}

Status TraceBuilder::read_ids(const Json& line, const char* name, std::vector<TokenId>& tokens) {
  tokens.clear();
  const auto found = line.find(name);
  if (found == line.end()) return {};
  if (!found->is_array()) return Status::invalid_argument(fmt::format("{} is no array", name));
  for (const Json& id : *found) {
    if (!id.is_number_integer()) {
      return Status::invalid_argument(fmt::format("{}[{}] is no 64-bit integer", name, tokens.size()));
    }
    const bool positive = id.is_number_unsigned();
    tokens.push_back(token_of(positive ? id.get<std::uint64_t>() : static_cast<std::uint64_t>(id.get<std::int64_t>())));
  }
  // A token is 31 bits wide. So many ids would be some 20 GB of text.
  if (tokens_.size() > static_cast<std::size_t>(std::numeric_limits<TokenId>::max())) {
    return Status::invalid_argument("more than 2^31 distinct ids");
  }
  return {};
}

Status TraceBuilder::set_block_tokens(std::uint64_t block_tokens) {
  if (trace_.block_tokens != 0 && trace_.block_tokens != block_tokens) {
    return Status::invalid_argument(
        fmt::format("block_tokens is {}, and on the lines before it was {}; it must be the same on all lines",
                    block_tokens, trace_.block_tokens));
  }
  trace_.block_tokens = static_cast<std::uint32_t>(block_tokens);
  return {};
}

TokenId TraceBuilder::token_of(std::uint64_t id) {
  return tokens_.try_emplace(id, static_cast<TokenId>(tokens_.size())).first->second;
}

}  // namespace

Result<Trace> read_trace(const std::string& path, std::uint32_t unsaid_block_tokens) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  const auto cannot_read = [&](int error) { return fmt::format("cannot read {}: {}", path, std::strerror(error)); };
  if (!file) {
    const int error = errno;
    return error == ENOENT ? Status::not_found(cannot_read(error)) : Status::unavailable(cannot_read(error));
  }
  TraceBuilder builder(unsaid_block_tokens);
  std::string line;
  std::size_t number = 0;
  std::size_t requests = 0;
  while (std::getline(file, line)) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (const Status status = builder.add_line(line); !status.ok()) {
      return Status::invalid_argument(fmt::format("{}:{}: {}", path, number, status.message()));
    }
    ++requests;
  }
  if (file.bad()) return Status::unavailable(cannot_read(errno));
  if (requests == 0) return Status::invalid_argument(fmt::format("{} holds no requests", path));
  return std::move(builder).take();
}

}  // namespace tiercel
