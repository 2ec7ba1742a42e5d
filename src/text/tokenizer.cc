#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <functional>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "text/byte_alphabet.h"
#include "text/byte_pair_merger.h"
#include "text/pre_tokenizer.h"
#include "text/special_token_finder.h"
#include "text/utf8.h"

namespace tiercel {
namespace {

enum TokenType : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// Positions within a text are 32 bits wide in the merger; half of that leaves room for its marks.
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

// Control tokens that end a text or a turn by convention: files often name only one of them as such.
constexpr std::array<std::string_view, 10> kEndTexts{
    "<|im_end|>",      "<|eot_id|>",    "<|eom_id|>",      "<|end|>", "<end_of_turn>",
    "<|end_of_turn|>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>"};

Status invalid(std::string message) { return Status::invalid_argument(std::move(message)); }

}  // namespace

struct Tokenizer::Impl {
  PreTokenizer pre_tokenizer;
  BytePairMerger merger;
  SpecialTokenFinder specials;

  std::string bytes;              // of all tokens, one after the other
  std::vector<std::size_t> ends;  // where each token's bytes end
  std::vector<std::uint8_t> types;
  std::vector<bool> is_end;
  std::vector<bool> is_whole;  // a piece of just these bytes becomes this token
  std::vector<TokenId> slots;  // open addressing, by bytes: tokens that text can merge into; a power of two, half full
  std::array<TokenId, 256> byte_tokens{};
  TokenId begin_token = -1;
  TokenId end_token = -1;
  bool add_begin = false;

  Impl(PreTokenizer pre, std::size_t merge_count) : pre_tokenizer(std::move(pre)), merger(merge_count) {}

  std::string_view bytes_of(std::size_t token) const {
    const std::size_t start = token == 0 ? 0 : ends[token - 1];
    return std::string_view(bytes).substr(start, ends[token] - start);
  }
  bool is_special(std::size_t token) const { return types[token] == kControl || types[token] == kUnknown; }

  TokenId& slot_of(std::string_view piece) { return slots[slot_index(piece)]; }
  TokenId find(std::string_view piece) const { return slots[slot_index(piece)]; }
  std::size_t slot_index(std::string_view piece) const {
    const std::size_t mask = slots.size() - 1;
    for (std::size_t slot = std::hash<std::string_view>{}(piece)&mask;; slot = (slot + 1) & mask) {
      if (slots[slot] < 0 || bytes_of(static_cast<std::size_t>(slots[slot])) == piece) return slot;
    }
  }

  Status add_tokens(const Vocabulary& vocabulary);
  Status add_merges(const std::vector<std::string>& merges);
  void find_whole_tokens();

  struct Work {
    BytePairMerger::Scratch scratch;
    std::vector<TokenId> piece_tokens;
  };
  void merge_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const;
  Status encode_plain(std::string_view text, Work& work, std::vector<TokenId>& out) const;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Status Tokenizer::Impl::add_tokens(const Vocabulary& vocabulary) {
  const auto& tokens = vocabulary.tokens;
  if (tokens.empty()) return invalid("tokenizer.ggml.tokens is empty");
  if (tokens.size() > std::numeric_limits<TokenId>::max()) return invalid("tokenizer.ggml.tokens has too many tokens");
  if (!vocabulary.types.empty() && vocabulary.types.size() != tokens.size()) {
    return invalid(fmt::format("tokenizer.ggml.token_type has {} entries, but tokenizer.ggml.tokens has {}",
                               vocabulary.types.size(), tokens.size()));
  }
  ends.reserve(tokens.size());
  types.assign(tokens.size(), kNormal);
  is_end.assign(tokens.size(), false);
  is_whole.assign(tokens.size(), false);
  slots.assign(std::bit_ceil(2 * tokens.size() + 2), -1);
  byte_tokens.fill(-1);

  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    const std::int64_t type = vocabulary.types.empty() ? kNormal : vocabulary.types[i];
    if (type < kNormal || type > kByte) {
      return invalid(fmt::format("tokenizer.ggml.token_type[{}] is {}; it must be 1 to 6", i, type));
    }
    types[i] = static_cast<std::uint8_t>(type);
    // A token that is not in the byte alphabet stands for its own text, and no merge leads to it.
    const bool text_is_bytes = type == kUnknown || type == kControl || type == kUserDefined;
    const bool in_alphabet = !text_is_bytes && append_alphabet_bytes(tokens[i], bytes);
    if (!in_alphabet) bytes += tokens[i];
    ends.push_back(bytes.size());

    const std::string_view own = bytes_of(i);
    if (own.empty() || type == kUnused) continue;
    if (text_is_bytes) {
      if (!specials.add(own, id, type != kUserDefined)) {
        return invalid(fmt::format("tokenizer.ggml.tokens[{}], a special token, is there twice: '{}'", i, own));
      }
      is_end[i] = type == kControl && std::ranges::find(kEndTexts, own) != kEndTexts.end();
    } else if (in_alphabet) {
      TokenId& slot = slot_of(own);
      if (slot >= 0) {
        return invalid(fmt::format("tokenizer.ggml.tokens[{}] and [{}] are the same: '{}'", slot, i, tokens[i]));
      }
      slot = id;
      if (own.size() == 1) byte_tokens[static_cast<unsigned char>(own[0])] = id;
    }
  }
  // User-defined tokens may also be what a merge makes, where no normal token is.
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] != kUserDefined || bytes_of(i).empty()) continue;
    TokenId& slot = slot_of(bytes_of(i));
    if (slot < 0) slot = static_cast<TokenId>(i);
  }
  return {};
}

Status Tokenizer::Impl::add_merges(const std::vector<std::string>& merges) {
  std::string both;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto wrong = [&](std::string_view what) {
      return invalid(fmt::format("tokenizer.ggml.merges[{}], '{}', {}", rank, merges[rank], what));
    };
    const std::string_view merge = merges[rank];
    const std::size_t space = merge.find(' ');
    both.clear();
    if (space == 0 || space >= merge.size() - 1 || !append_alphabet_bytes(merge.substr(0, space), both)) {
      return wrong("is not two tokens with a space between");
    }
    const std::size_t left_size = both.size();
    if (!append_alphabet_bytes(merge.substr(space + 1), both)) return wrong("is not two tokens with a space between");
    const TokenId left = find(std::string_view(both).substr(0, left_size));
    const TokenId right = find(std::string_view(both).substr(left_size));
    const TokenId joined = find(both);
    if (left < 0 || right < 0 || joined < 0)
      return wrong("has a part or a result that is not in tokenizer.ggml.tokens");
    if (!merger.add(left, right, joined)) return wrong("is there twice");
  }
  return {};
}

// A piece that is in the vocabulary is that token only where merging its bytes leads there (or the model says so).
// Knowing beforehand saves merging most pieces of a text.
void Tokenizer::Impl::find_whole_tokens() {
  Work work;
  std::vector<TokenId> merged;
  for (const TokenId token : slots) {
    if (token < 0) continue;
    const auto i = static_cast<std::size_t>(token);
    merged.clear();
    if (!pre_tokenizer.takes_whole_pieces()) merge_piece(bytes_of(i), work, merged);
    is_whole[i] = pre_tokenizer.takes_whole_pieces() || (merged.size() == 1 && merged[0] == token);
  }
}

void Tokenizer::Impl::merge_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const {
  work.piece_tokens.clear();
  for (const char byte : piece) {
    const TokenId token = byte_tokens[static_cast<unsigned char>(byte)];
    if (token >= 0) work.piece_tokens.push_back(token);
  }
  merger.merge(work.piece_tokens, work.scratch, out);
}

Status Tokenizer::Impl::encode_plain(std::string_view text, Work& work, std::vector<TokenId>& out) const {
  if (text.empty()) return {};
  PieceReader reader(pre_tokenizer, text);
  std::string_view piece;
  while (reader.next(piece)) {
    const TokenId token = find(piece);
    if (token >= 0 && is_whole[static_cast<std::size_t>(token)]) {
      out.push_back(token);
    } else {
      merge_piece(piece, work, out);
    }
  }
  return reader.status();
}

Result<Tokenizer> Tokenizer::make(Vocabulary vocabulary) {
  auto pre_tokenizer = PreTokenizer::make(vocabulary.pre_tokenizer);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  if (vocabulary.merges.size() > std::numeric_limits<std::int32_t>::max()) {
    return invalid("tokenizer.ggml.merges has too many merges");
  }
  auto impl = std::make_unique<Impl>(std::move(*pre_tokenizer), vocabulary.merges.size());
  TIERCEL_RETURN_IF_ERROR(impl->add_tokens(vocabulary));
  TIERCEL_RETURN_IF_ERROR(impl->add_merges(vocabulary.merges));
  impl->find_whole_tokens();

  const auto check = [&](std::string_view key, std::int64_t token) -> Status {
    if (token >= -1 && token < static_cast<std::int64_t>(vocabulary.tokens.size())) return {};
    return invalid(
        fmt::format("tokenizer.ggml.{} is {}; the vocabulary is 0 to {}", key, token, vocabulary.tokens.size() - 1));
  };
  TIERCEL_RETURN_IF_ERROR(check("bos_token_id", vocabulary.begin_token));
  TIERCEL_RETURN_IF_ERROR(check("eos_token_id", vocabulary.end_token));
  TIERCEL_RETURN_IF_ERROR(check("eot_token_id", vocabulary.end_of_turn_token));
  if (vocabulary.add_begin && vocabulary.begin_token < 0) {
    return invalid("tokenizer.ggml.bos_token_id is missing, but the model puts a begin token before a text");
  }
  impl->begin_token = static_cast<TokenId>(vocabulary.begin_token);
  impl->end_token = static_cast<TokenId>(vocabulary.end_token);
  impl->add_begin = vocabulary.add_begin;
  for (const std::int64_t end : {vocabulary.end_token, vocabulary.end_of_turn_token}) {
    if (end >= 0) impl->is_end[static_cast<std::size_t>(end)] = true;
  }
  return Tokenizer(std::move(impl));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, bool parse_special) const {
  return encode(text, std::string(text.size(), parse_special ? '\1' : '\0'));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, std::string_view trusted) const {
  assert(trusted.size() == text.size());
  if (text.size() > kMaxTextBytes) {
    return invalid(
        fmt::format("the text has {} bytes; at most {} can be made tokens at once", text.size(), kMaxTextBytes));
  }
  if (const std::size_t offset = find_invalid_utf8(text); offset != std::string_view::npos) {
    return invalid(fmt::format("the text is not UTF-8 at byte {}", offset));
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 1);
  if (impl_->add_begin) out.push_back(impl_->begin_token);
  Impl::Work work;
  std::size_t offset = 0;
  while (const auto special = impl_->specials.find(text, trusted, offset)) {
    TIERCEL_RETURN_IF_ERROR(impl_->encode_plain(text.substr(offset, special->offset - offset), work, out));
    const bool repeats_begin = impl_->add_begin && special->offset == 0 && special->token == impl_->begin_token;
    if (!repeats_begin) out.push_back(special->token);
    offset = special->offset + special->length;
  }
  TIERCEL_RETURN_IF_ERROR(impl_->encode_plain(text.substr(offset), work, out));
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> tokens, bool show_special) const {
  std::string out;
  for (const TokenId token : tokens) out += bytes_of(token, show_special);
  return out;
}

std::string_view Tokenizer::bytes_of(TokenId token, bool show_special) const {
  if (token < 0 || static_cast<std::size_t>(token) >= size()) return {};
  if (is_special(token) && !show_special) return {};
  return impl_->bytes_of(static_cast<std::size_t>(token));
}

std::size_t Tokenizer::size() const { return impl_->ends.size(); }

bool Tokenizer::is_special(TokenId token) const {
  return token >= 0 && static_cast<std::size_t>(token) < size() && impl_->is_special(static_cast<std::size_t>(token));
}

bool Tokenizer::is_end(TokenId token) const {
  return token >= 0 && static_cast<std::size_t>(token) < size() && impl_->is_end[static_cast<std::size_t>(token)];
}

std::string_view Tokenizer::begin_text() const { return bytes_of(impl_->begin_token, true); }
std::string_view Tokenizer::end_text() const { return bytes_of(impl_->end_token, true); }

}  // namespace tiercel
