// Text of a growing token sequence, piece by piece, for streaming: never half a character, never a started stop string.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tiercel {

// Feed the bytes of each output token; get back what can be shown now. Bytes that may still become a UTF-8 character,
// or a stop string, are held back until that is decided. Bytes that can never become UTF-8 are replaced by U+FFFD, one
// for each maximal subpart. The pieces joined are the same however the bytes were divided among pushes.
//
// Stop strings are looked for in the text as shown. The occurrence that starts first ends the text, even where another
// one is complete before it. Stop strings that are empty or not UTF-8 cannot occur and are ignored.
//
// Each byte costs time proportional to the number of stop strings, whatever they and the text are (Knuth, Morris and
// Pratt 1977). Thread-safety: one thread at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::vector<std::string> stop_strings = {});

  // The newly certain text. After a stop string was met, stopped() is true, the text before it is out, and nothing more
  // ever comes.
  std::string push(std::string_view bytes);
  // The sequence ended: everything still held back, up to a stop string that was complete but waited for an earlier
  // one.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  struct StopString {
    std::string text;
    // border[n]: the longest proper prefix of text's first n bytes that is also their suffix.
    std::vector<std::size_t> border;
    std::size_t matched = 0;  // longest prefix of text, but not all of it, that pending_ read so far ends with

    explicit StopString(std::string stop);
    bool advance(char byte);  // true where `byte` completes an occurrence
  };

  void decode();
  std::size_t find_stop(std::size_t from);
  std::string release(std::size_t length);

  std::vector<StopString> stops_;
  std::string undecoded_;                       // the beginning of a character
  std::string pending_;                         // UTF-8 text not yet given out
  std::size_t stop_start_ = std::string::npos;  // in pending_: the complete occurrence that starts first
  bool stopped_ = false;
};

}  // namespace tiercel
