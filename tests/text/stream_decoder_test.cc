#include "text/stream_decoder.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "text/utf8.h"

namespace tiercel {
namespace {

constexpr std::size_t kNone = std::string::npos;

// What has been decided of `bytes`, whole: characters as they are, U+FFFD for what cannot be one.
std::string decided(std::string_view bytes, bool ended) {
  std::string out;
  while (!bytes.empty()) {
    const Utf8Start start = read_utf8(bytes);
    if (start.kind == Utf8Start::Kind::Incomplete && !ended) break;
    out += start.kind == Utf8Start::Kind::Character ? bytes.substr(0, start.length) : "\uFFFD";
    bytes.remove_prefix(start.length);
  }
  return out;
}

struct Shown {
  std::string text;
  bool stopped;
};

// All that may be shown after `bytes`, by trying every place in the text.
Shown expected(const std::string& bytes, const std::vector<std::string>& stops, bool ended) {
  const std::string text = decided(bytes, ended);
  std::size_t stop = kNone;
  for (const std::string& each : stops) stop = std::min(stop, text.find(each));
  std::size_t started = kNone;
  for (std::size_t i = 0; i < text.size() && !ended && started == kNone; ++i) {
    const std::string rest = text.substr(i);
    for (const std::string& each : stops) {
      if (each.size() > rest.size() && each.starts_with(rest)) started = i;
    }
  }
  if (stop != kNone && stop <= started) return {text.substr(0, stop), true};
  return {text.substr(0, started), false};
}

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  std::size_t below(std::size_t end) { return engine_() % end; }
  std::string text(const std::vector<std::string>& parts, std::size_t count) {
    std::string out;
    while (count-- > 0) out += parts[below(parts.size())];
    return out;
  }

 private:
  std::mt19937 engine_;
};

// Few letters, so that stop strings begin, fail and overlap all the time.
const std::vector<std::string> kCharacters{"a", "a", "a", "b", "b", "é", "漢", "😀", "\n"};
const std::vector<std::string> kBytes{"a",    "b",    "é",    "漢",   "😀",    "\xC3", "\xA9", "\xE6",
                                      "\xBC", "\xA2", "\xF0", "\x9F", "\x80", "\xFF", "\xED", "\xA0"};

void check_history(unsigned seed, const std::vector<std::string>& alphabet, std::size_t longest_stop) {
  Random random(seed);
  std::vector<std::string> stops(random.below(4));
  for (std::string& stop : stops) {
    // Half of them of two letters only: the ones that are like themselves in many places.
    stop = random.text(seed % 2 == 0 ? kCharacters : std::vector<std::string>{"a", "a", "b"},
                       1 + random.below(longest_stop));
  }
  std::string bytes;
  for (std::size_t count = random.below(20); count > 0; --count) {
    bytes += random.text(alphabet, random.below(4));
    if (stops.empty() || random.below(2) == 0) continue;
    const std::string& stop = stops[random.below(stops.size())];
    bytes += stop.substr(0, random.below(stop.size()));
  }

  StreamDecoder decoder(stops);
  std::string shown;
  for (std::size_t offset = 0; offset < bytes.size();) {
    const std::size_t length = std::min(random.below(7), bytes.size() - offset);
    const std::string piece = decoder.push(std::string_view(bytes).substr(offset, length));
    offset += length;
    ASSERT_EQ(find_invalid_utf8(piece), kNone) << "seed " << seed;
    shown += piece;
    // At each step just what is certain: nothing too early, nothing held back for no reason.
    const Shown now = expected(bytes.substr(0, offset), stops, false);
    ASSERT_EQ(shown, now.text) << "seed " << seed;
    ASSERT_EQ(decoder.stopped(), now.stopped) << "seed " << seed;
  }
  shown += decoder.finish();
  const Shown all = expected(bytes, stops, true);
  ASSERT_EQ(shown, all.text) << "seed " << seed;
  ASSERT_EQ(decoder.stopped(), all.stopped) << "seed " << seed;
}

TEST(StreamDecoder, ShowsWhatIsCertainHoweverTextIsDivided) {
  for (unsigned seed = 0; seed < 5000; ++seed) check_history(seed, kCharacters, 12);
}

TEST(StreamDecoder, ShowsWhatIsCertainHoweverBrokenBytesAreDivided) {
  for (unsigned seed = 0; seed < 5000; ++seed) check_history(seed, kBytes, 6);
}

TEST(StreamDecoder, NeverGivesHalfACharacter) {
  StreamDecoder decoder;
  EXPECT_EQ(decoder.push("a\xF0"), "a");
  EXPECT_EQ(decoder.push("\x9F"), "");
  EXPECT_EQ(decoder.push("\x98"), "");
  EXPECT_EQ(decoder.push("\x80z"), "😀z");
  EXPECT_EQ(decoder.finish(), "");
  EXPECT_FALSE(decoder.stopped());
}

TEST(StreamDecoder, AnUnfinishedCharacterAtTheEndIsReplaced) {
  StreamDecoder decoder;
  EXPECT_EQ(decoder.push("x\xE6\xBC"), "x");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

// The Unicode Standard, chapter 3.9, tables 3-8 to 3-11.
TEST(StreamDecoder, ReplacesInvalidBytesAsTheStandardAdvises) {
  const std::string r = "\uFFFD";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
       "A",
       r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
       "A",
       r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF"
       "A\x80\xBF"
       "B",
       r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       r + r + r + r + "A"},
  };
  for (const auto& [bytes, text] : cases) {
    StreamDecoder whole;
    EXPECT_EQ(whole.push(bytes) + whole.finish(), text);
    StreamDecoder by_byte;
    std::string shown;
    for (const char byte : bytes) shown += by_byte.push(std::string_view(&byte, 1));
    EXPECT_EQ(shown + by_byte.finish(), text);
  }
}

TEST(StreamDecoder, AStopStringMayCrossPieces) {
  StreamDecoder decoder({"</answer>"});
  EXPECT_EQ(decoder.push("42 <"), "42 ");
  EXPECT_EQ(decoder.push("b></ans"), "<b>");
  EXPECT_EQ(decoder.push("wer> and more"), "");
  EXPECT_TRUE(decoder.stopped());
}

TEST(StreamDecoder, NothingComesAfterAStop) {
  StreamDecoder decoder({"\n\n"});
  EXPECT_EQ(decoder.push("one\n"), "one");
  EXPECT_EQ(decoder.push("two\n\nthree"), "\ntwo");
  EXPECT_TRUE(decoder.stopped());
  EXPECT_EQ(decoder.push("four"), "");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, TheStopThatStartsFirstWins) {
  StreamDecoder decoder({"bc", "abcd"});
  // "bc" is complete, but "abcd" may still start before it.
  EXPECT_EQ(decoder.push("xabc"), "x");
  EXPECT_FALSE(decoder.stopped());
  EXPECT_EQ(decoder.push("d"), "");
  EXPECT_TRUE(decoder.stopped());

  StreamDecoder other({"bc", "abcd"});
  EXPECT_EQ(other.push("xabc"), "x");
  EXPECT_EQ(other.push("e"), "a");
  EXPECT_TRUE(other.stopped());

  StreamDecoder ended({"bc", "abcd"});
  EXPECT_EQ(ended.push("xabc"), "x");
  EXPECT_EQ(ended.finish(), "a");
  EXPECT_TRUE(ended.stopped());
}

TEST(StreamDecoder, AStartedStopStringIsShownWhenTheTextEnds) {
  StreamDecoder decoder({"STOP"});
  EXPECT_EQ(decoder.push("go STO"), "go ");
  EXPECT_EQ(decoder.finish(), "STO");
  EXPECT_FALSE(decoder.stopped());
}

TEST(StreamDecoder, StopStringsThatCannotOccurAreIgnored) {
  StreamDecoder decoder({"", "\xFF", "\xA9"});
  EXPECT_EQ(decoder.push("é\xFFz"), "é\uFFFDz");
  EXPECT_FALSE(decoder.stopped());
}

TEST(StreamDecoder, LongRepetitiveStopStringsStayCheap) {
  // Quadratic work would be 10^12 comparisons here.
  StreamDecoder decoder({std::string(1'000'000, 'a') + "b"});
  std::size_t shown = 0;
  for (int i = 0; i < 2000; ++i) shown += decoder.push(std::string(1000, 'a')).size();
  EXPECT_EQ(shown, 1'000'000u);
  EXPECT_EQ(decoder.push("b"), "");
  EXPECT_TRUE(decoder.stopped());
}

}  // namespace
}  // namespace tiercel
