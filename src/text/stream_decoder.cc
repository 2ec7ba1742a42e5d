#include "text/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "text/utf8.h"

namespace tiercel {

StreamDecoder::StopString::StopString(std::string stop) : text(std::move(stop)), border(text.size() + 1, 0) {
  for (std::size_t n = 1; n < text.size(); ++n) {
    std::size_t length = border[n];
    while (length > 0 && text[length] != text[n]) length = border[length];
    border[n + 1] = text[length] == text[n] ? length + 1 : 0;
  }
}

bool StreamDecoder::StopString::advance(char byte) {
  while (matched > 0 && text[matched] != byte) matched = border[matched];
  if (text[matched] == byte) ++matched;
  if (matched < text.size()) return false;
  matched = border[matched];
  return true;
}

StreamDecoder::StreamDecoder(std::vector<std::string> stop_strings) {
  for (std::string& stop : stop_strings) {
    if (!stop.empty() && find_invalid_utf8(stop) == std::string_view::npos) stops_.emplace_back(std::move(stop));
  }
}

std::string StreamDecoder::push(std::string_view bytes) {
  if (stopped_) return {};
  undecoded_ += bytes;
  const std::size_t from = pending_.size();
  decode();
  return release(find_stop(from));
}

std::string StreamDecoder::finish() {
  if (stopped_) return {};
  const std::size_t from = pending_.size();
  if (!undecoded_.empty()) pending_ += kReplacementCharacter;
  undecoded_.clear();
  find_stop(from);
  stopped_ = stop_start_ != std::string::npos;
  std::string out = release(std::min(stop_start_, pending_.size()));
  for (StopString& stop : stops_) stop.matched = 0;
  return out;
}

// Moves what is decided from undecoded_ to pending_.
void StreamDecoder::decode() {
  std::string_view rest = undecoded_;
  while (!rest.empty()) {
    const Utf8Start start = read_utf8(rest);
    if (start.kind == Utf8Start::Kind::Incomplete) break;
    pending_ += start.kind == Utf8Start::Kind::Character ? rest.substr(0, start.length) : kReplacementCharacter;
    rest.remove_prefix(start.length);
  }
  undecoded_.erase(0, undecoded_.size() - rest.size());
}

// Reads pending_ from `from` on, up to there known to be held back as a whole. Returns how much of it no stop string
// can reach any more. Sets stopped_ once stop_start_ is final: no unfinished stop string starts before it.
std::size_t StreamDecoder::find_stop(std::size_t from) {
  std::size_t certain = 0;
  for (std::size_t end = from + 1; end <= pending_.size(); ++end) {
    certain = end;
    for (StopString& stop : stops_) {
      if (stop.advance(pending_[end - 1])) stop_start_ = std::min(stop_start_, end - stop.text.size());
      certain = std::min(certain, end - stop.matched);
    }
    if (stop_start_ <= certain) {
      stopped_ = true;
      return stop_start_;
    }
  }
  return certain;
}

std::string StreamDecoder::release(std::size_t length) {
  std::string out = pending_.substr(0, length);
  pending_.erase(0, length);
  if (stopped_) pending_.clear();
  if (stop_start_ != std::string::npos) stop_start_ -= length;
  return out;
}

}  // namespace tiercel
