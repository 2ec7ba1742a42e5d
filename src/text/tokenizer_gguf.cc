#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace tiercel {
namespace {

Status in_file(const GgufFile& file, const Status& status) {
  return {status.code(), fmt::format("{}: {}", file.path(), status.message())};
}

Result<std::vector<std::string>> owned_strings(const GgufFile& file, std::string_view key) {
  auto views = file.get_strings(key);
  if (!views.ok()) return views.status();
  return std::vector<std::string>(views->begin(), views->end());
}

// -1 where the file does not name one. The range is checked with the vocabulary at hand.
Result<std::int64_t> optional_token(const GgufFile& file, std::string_view key) {
  if (file.find(key) == nullptr) return std::int64_t{-1};
  const auto token = file.get_uint(key);
  if (!token.ok()) return token.status();
  // Files written for "none" may have the largest number of 32 bits.
  if (*token == 0xFFFFFFFF) return std::int64_t{-1};
  if (*token > 0x7FFFFFFF)
    return Status::invalid_argument(fmt::format("{}: {} is {}, not a token", file.path(), key, *token));
  return static_cast<std::int64_t>(*token);
}

Result<Vocabulary> read_vocabulary(const GgufFile& file) {
  const auto model = file.get_string("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model != "gpt2") {
    return Status::invalid_argument(fmt::format(
        "{}: tokenizer.ggml.model is '{}'; only 'gpt2', byte-level BPE, is understood", file.path(), *model));
  }
  const auto pre_tokenizer = file.get_string("tokenizer.ggml.pre");
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  const auto kind = PreTokenizer::make(*pre_tokenizer);
  if (!kind.ok()) return in_file(file, kind.status());

  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = *pre_tokenizer;
  vocabulary.add_begin = kind->begins_by_default();
  if (file.find("tokenizer.ggml.add_bos_token") != nullptr) {
    const auto add_begin = file.get_bool("tokenizer.ggml.add_bos_token");
    if (!add_begin.ok()) return add_begin.status();
    vocabulary.add_begin = *add_begin;
  }
  for (const auto& [key, strings] : {std::pair{"tokenizer.ggml.tokens", &vocabulary.tokens},
                                     std::pair{"tokenizer.ggml.merges", &vocabulary.merges}}) {
    auto read = owned_strings(file, key);
    if (!read.ok()) return read.status();
    *strings = std::move(*read);
  }
  if (file.find("tokenizer.ggml.token_type") != nullptr) {
    auto types = file.get_ints("tokenizer.ggml.token_type");
    if (!types.ok()) return types.status();
    vocabulary.types = std::move(*types);
  }
  for (const auto& [key, token] : {std::pair{"tokenizer.ggml.bos_token_id", &vocabulary.begin_token},
                                   std::pair{"tokenizer.ggml.eos_token_id", &vocabulary.end_token},
                                   std::pair{"tokenizer.ggml.eot_token_id", &vocabulary.end_of_turn_token}}) {
    const auto read = optional_token(file, key);
    if (!read.ok()) return read.status();
    *token = *read;
  }
  return vocabulary;
}

}  // namespace

Result<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  auto vocabulary = read_vocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  auto tokenizer = make(std::move(*vocabulary));
  if (!tokenizer.ok()) return in_file(file, tokenizer.status());
  return tokenizer;
}

}  // namespace tiercel
