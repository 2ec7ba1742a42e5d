#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include <fmt/format.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace tiercel {
namespace {

// In the patterns \s stands for Unicode's White_Space, spelt out like this, and is always within brackets. Each last
// alternative makes sure that every character belongs to some piece.
constexpr std::string_view kWhiteSpace =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+)";
// "Each digit apart, then GPT-2" in one pass: a run of white space before a digit is whole, as at the end of the text.
constexpr std::string_view kSmollmPattern =
    R"(\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s\p{N}])|[\s]+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+)";

std::string spell_out_white_space(std::string_view pattern) {
  constexpr std::string_view kShort = R"(\s)";
  std::string out;
  for (;;) {
    const std::size_t at = pattern.find(kShort);
    out += pattern.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += kWhiteSpace;
    pattern.remove_prefix(at + kShort.size());
  }
}

struct Kind {
  std::string_view name;
  std::string_view pattern;
  bool takes_whole_pieces = false;
  bool begins_by_default = false;
};

// Names that model files use for the same pattern stand beside each other.
constexpr std::array kKinds{
    Kind{"gpt-2", kGpt2Pattern},
    Kind{"gpt2", kGpt2Pattern},
    Kind{"phi-2", kGpt2Pattern},
    Kind{"smollm", kSmollmPattern},
    Kind{"llama-bpe", kLlama3Pattern, true, true},
    Kind{"llama3", kLlama3Pattern, true, true},
    Kind{"llama-v3", kLlama3Pattern, true, true},
    Kind{"qwen2", kQwen2Pattern},
    Kind{"deepseek-r1-qwen", kQwen2Pattern},
};

template <auto release>
struct Release {
  template <class T>
  void operator()(T* object) const {
    release(object);
  }
};

}  // namespace

struct PreTokenizer::Impl {
  Kind kind;
  std::unique_ptr<pcre2_code, Release<pcre2_code_free>> code;
};

PreTokenizer::PreTokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

bool PreTokenizer::takes_whole_pieces() const { return impl_->kind.takes_whole_pieces; }
bool PreTokenizer::begins_by_default() const { return impl_->kind.begins_by_default; }

Result<PreTokenizer> PreTokenizer::make(std::string_view name) {
  const auto* kind = std::ranges::find(kKinds, name, &Kind::name);
  if (kind == kKinds.end()) {
    std::string known;
    for (const Kind& each : kKinds) known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
    return Status::invalid_argument(
        fmt::format("tokenizer.ggml.pre is '{}'; the known pre-tokenizers are {}", name, known));
  }
  const std::string pattern = spell_out_white_space(kind->pattern);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  // Anchored: a piece starts where the last one ended. NUL is a character like any other: lengths are always given.
  auto* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                             PCRE2_ANCHORED | PCRE2_UTF | PCRE2_UCP, &error, &error_offset, nullptr);
  if (code == nullptr) {
    return Status::internal(fmt::format("PCRE2 error {} at {} of the pattern for '{}'", error, error_offset, name));
  }
  auto impl = std::make_unique<Impl>(Impl{*kind, {}});
  impl->code.reset(code);
  // Where machine code cannot be made (not built in, or memory may not be executable), matching interprets instead.
  static_cast<void>(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
  return PreTokenizer(std::move(impl));
}

struct PieceReader::Matcher {
  const pcre2_code* code;
  std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>> context;
};

PieceReader::PieceReader(const PreTokenizer& pre_tokenizer, std::string_view text)
    : matcher_(std::make_unique<Matcher>()), text_(text) {
  matcher_->code = pre_tokenizer.impl_->code.get();
  matcher_->data.reset(pcre2_match_data_create(1, nullptr));
  matcher_->context.reset(pcre2_match_context_create(nullptr));
  if (!matcher_->data || !matcher_->context) {
    status_ = Status{StatusCode::ResourceExhausted, "out of memory for splitting a text"};
    return;
  }
  // A run of white space may be walked back once, a character at a time; nothing needs more steps than that.
  const std::size_t limit = std::min<std::size_t>(1000 + 4 * text.size(), std::numeric_limits<std::uint32_t>::max());
  pcre2_set_match_limit(matcher_->context.get(), static_cast<std::uint32_t>(limit));
  pcre2_set_depth_limit(matcher_->context.get(), 1000);
}

PieceReader::~PieceReader() = default;

bool PieceReader::next(std::string_view& piece) {
  if (offset_ == text_.size() || !status_.ok()) return false;
  const int found = pcre2_match(matcher_->code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), offset_,
                                PCRE2_NO_UTF_CHECK, matcher_->data.get(), matcher_->context.get());
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(matcher_->data.get());
  if (found < 1 || ends[1] <= offset_) {
    status_ = Status::internal(fmt::format("PCRE2 error {} at byte {} of a text", found, offset_));
    return false;
  }
  piece = text_.substr(offset_, ends[1] - offset_);
  offset_ = ends[1];
  return true;
}

}  // namespace tiercel
