// Text to tokens and back: byte-level BPE as a GGUF model describes it.
//
// Algorithm: split by the model's pre-tokenizer pattern (GPT-2, Radford et al. 2019, and its successors), map each
// piece's bytes to the vocabulary's byte alphabet, merge the pair of lowest rank until none is left (Sennrich et al.
// 2016).
//
// Thread-safety: immutable; any thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// What a vocabulary is made of, however it was stored.
struct Vocabulary {
  std::vector<std::string> tokens;  // in the byte alphabet, as GGUF has them; index is the id
  std::vector<std::int64_t>
      types;  // GGUF token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;      // "left right", lowest rank first
  std::string pre_tokenizer;            // "smollm", "gpt-2", "llama-bpe", "qwen2"
  std::int64_t begin_token = -1;        // put before a text where add_begin is set; -1: none
  std::int64_t end_token = -1;          // ends a text
  std::int64_t end_of_turn_token = -1;  // ends a chat turn; -1: none besides end_token
  bool add_begin = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*. InvalidArgument: another tokenizer model than byte-level BPE ("gpt2"), an unknown
  // pre-tokenizer (lists the known ones), or inconsistent tables.
  static Result<Tokenizer> from_gguf(const GgufFile& file);
  static Result<Tokenizer> make(Vocabulary vocabulary);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Tokens of UTF-8 text; the begin token is put first where the model asks for one, and not doubled where the text
  // itself starts with it as a special token. User-defined tokens (type 4) are found in any text, before it is split;
  // control tokens (type 3) only with `parse_special`, else their text is plain text. Where several start at a
  // position, the longest is taken. Bytes that the vocabulary has no token for (SmolLM2 lacks 0x04, for one) are left
  // out, as the tokenizers that the models were trained with do. No Unicode normalisation. InvalidArgument: the text is
  // not UTF-8 (names the byte offset), or longer than 1 GiB.
  Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special = false) const;
  // The same where some of the text is trusted and some is not: a special token is recognised only where all its bytes
  // have trusted[i] != 0. trusted.size() == text.size().
  Result<std::vector<TokenId>> encode(std::string_view text, std::string_view trusted) const;

  // The bytes that tokens stand for, joined; special (control) tokens show their text only with `show_special`. Not
  // necessarily UTF-8 where the tokens cut a character. Ids out of range stand for nothing.
  std::string decode(std::span<const TokenId> tokens, bool show_special = false) const;
  // The bytes of one token. A view into the tokenizer.
  std::string_view bytes_of(TokenId token, bool show_special = false) const;

  std::size_t size() const;              // of the vocabulary
  bool is_special(TokenId token) const;  // control tokens
  // End of text or end of turn: the ones the file names, and control tokens known to be one, such as "<|endoftext|>".
  bool is_end(TokenId token) const;
  std::string_view begin_text() const;  // "<s>", or "" where there is none
  std::string_view end_text() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tiercel
