// Splits text into the pieces that byte-pair merging works on; no token crosses a piece's border.
//
// The patterns are those that the models were trained with: GPT-2 (Radford et al. 2019), SmolLM (every digit apart,
// then GPT-2), Llama 3, and Qwen 2. White space is Unicode's White_Space property, spelt out because PCRE2's own \s
// also has U+180E, which that property lost in Unicode 6.3.
//
// Every pattern takes time proportional to the text, whatever the text is: no repetition is inside another one.
//
// Thread-safety: immutable; any thread may read pieces, each with its own reader.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "tiercel/status.h"

namespace tiercel {

class PreTokenizer {
 public:
  // `name` as GGUF's tokenizer.ggml.pre has it. InvalidArgument, listing the known names.
  static Result<PreTokenizer> make(std::string_view name);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // The model takes a piece that is in the vocabulary as that token, without merging.
  bool takes_whole_pieces() const;
  // Models of this kind put a begin token first unless their file says otherwise.
  bool begins_by_default() const;

 private:
  friend class PieceReader;
  struct Impl;
  explicit PreTokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The pieces of one text, in order; joined they are the text. `text` must be UTF-8 and outlive the reader, as must the
// pre-tokenizer.
class PieceReader {
 public:
  PieceReader(const PreTokenizer& pre_tokenizer, std::string_view text);
  PieceReader(const PieceReader&) = delete;
  PieceReader& operator=(const PieceReader&) = delete;
  ~PieceReader();

  // False at the end, or where the pattern engine fails (out of memory): status() tells.
  bool next(std::string_view& piece);
  const Status& status() const { return status_; }

 private:
  struct Matcher;
  std::unique_ptr<Matcher> matcher_;
  std::string_view text_;
  std::size_t offset_ = 0;
  Status status_;
};

}  // namespace tiercel
