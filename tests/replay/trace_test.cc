#include "replay/trace.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdint>
#include <latch>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kv/trace_recorder.h"
#include "tests/replay/trace_file.h"

namespace tiercel {
namespace {

std::vector<TokenId> blocks_of(const Trace& trace, std::size_t request) {
  const auto blocks = trace.shared_blocks(trace.requests.at(request));
  return {blocks.begin(), blocks.end()};
}

// What is wrong with a file of these lines, without the file's name.
std::string problem(const std::string& lines) {
  const TemporaryFile file(lines);
  const auto trace = read_trace(file.path());
  if (trace.ok()) return "";
  EXPECT_EQ(trace.status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(trace.status().message().find(file.path()), 0u) << trace.status().message();
  return trace.status().message().substr(file.path().size());
}

TEST(Trace, CountsThePartialBlockAsAskedForAndNeverKeepsIt) {
  const Trace trace = trace_of(R"({"timestamp": 0, "input_length": 1300, "output_length": 5, "hash_ids": [7, 8, 9]})"
                               "\n"
                               R"({"timestamp": 12.5, "input_length": 1024, "output_length": 1, "hash_ids": [7, 8]})"
                               "\n");
  EXPECT_EQ(trace.block_tokens, 512u);
  EXPECT_EQ(trace.accesses, 5u);
  EXPECT_EQ(trace.distinct_blocks, 3u);
  EXPECT_EQ(trace.input_tokens, 2324u);
  EXPECT_EQ(blocks_of(trace, 0), (std::vector<TokenId>{0, 1}));
  EXPECT_EQ(blocks_of(trace, 1), (std::vector<TokenId>{0, 1}));
  EXPECT_EQ(trace.requests[0].requested_blocks, 3u);
  EXPECT_EQ(trace.requests[1].matchable_blocks, 2u);
}

TEST(Trace, InRecordingsTheBlockOfTheLastTokenIsComputed) {
  const Trace trace =
      trace_of(R"({"input_length":64,"output_length":40,"block_tokens":32,"hash_ids":[1,2]})"
               "\n"
               R"({"input_length":64,"output_length":40,"block_tokens":32,"hash_ids":[1,2],"output_ids":[3]})"
               "\n"
               R"({"input_length":70,"output_length":60,"block_tokens":32,"hash_ids":[1,2,4],"output_ids":[5,6]})"
               "\n");
  EXPECT_EQ(trace.block_tokens, 32u);
  EXPECT_EQ(trace.requests[0].matchable_blocks, 1u);
  EXPECT_EQ(blocks_of(trace, 0), (std::vector<TokenId>{0})) << "the engine does not share it either";
  EXPECT_EQ(trace.requests[1].matchable_blocks, 1u);
  EXPECT_EQ(blocks_of(trace, 1), (std::vector<TokenId>{0, 1, 2})) << "what follows was shared, so it was";
  EXPECT_EQ(trace.requests[2].matchable_blocks, 2u);
  EXPECT_EQ(trace.requests[2].prompt_blocks, 2u);
  EXPECT_EQ(blocks_of(trace, 2).size(), 4u);
}

TEST(Trace, TakesWhatOthersWrite) {
  const Trace trace = trace_of(
      "\r\n"
      R"({"type": "text", "turn": 1, "input_length": 512, "hash_ids": [-9223372036854775808], "extra": {"a": []}})"
      "\r\n  \n"
      R"({"input_length": 512, "hash_ids": [18446744073709551615]})"
      "\n"
      R"({"input_length": 100000, "hash_ids": []})");  // no line feed
  EXPECT_EQ(trace.requests.size(), 3u);
  EXPECT_EQ(trace.distinct_blocks, 2u);
  EXPECT_EQ(trace.requests[2].requested_blocks, 0u);
  EXPECT_EQ(trace.input_tokens, 101024u);
}

TEST(Trace, SizeOfBlocksThatNoLineSays) {
  const TemporaryFile file(R"({"input_length": 40, "hash_ids": [1, 2, 3]})");
  EXPECT_FALSE(read_trace(file.path()).ok());
  const auto trace = read_trace(file.path(), 16);
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->block_tokens, 16u);
  EXPECT_EQ(trace->requests[0].matchable_blocks, 2u);
}

TEST(Trace, SaysWhereItIsWrongAndWhy) {
  const std::string good = R"({"input_length": 1, "hash_ids": [1]})"
                           "\n";
  EXPECT_EQ(problem(good), "");
  EXPECT_EQ(problem(""), " holds no requests");
  EXPECT_EQ(problem("\n \n"), " holds no requests");
  EXPECT_EQ(problem(good + "\n[1, 2]"), ":3: the line is no JSON object");
  EXPECT_EQ(problem(good + R"({"input_length": 1, "hash_ids": [1})"), ":2: the line is no JSON object");
  EXPECT_EQ(problem(std::string(100000, '[')), ":1: the line is no JSON object");
  EXPECT_EQ(problem(good + R"({"input_length": 1})"), ":2: hash_ids is missing");
  EXPECT_EQ(problem(R"({"hash_ids": [1]})"), ":1: input_length is missing");
  EXPECT_EQ(problem(R"({"input_length": 1, "hash_ids": 5})"), ":1: hash_ids is no array");
  EXPECT_EQ(problem(R"({"input_length": 1, "hash_ids": [1.5]})"), ":1: hash_ids[0] is no 64-bit integer");
  EXPECT_EQ(problem(R"({"input_length": 1000, "hash_ids": [1, 18446744073709551616]})"),
            ":1: hash_ids[1] is no 64-bit integer");
  EXPECT_EQ(problem(R"({"input_length": 1300, "hash_ids": [1, 2]})"),
            ":1: 2 hash_ids do not fit an input_length of 1300, which is 3 blocks of 512 tokens (the line does not say "
            "block_tokens)");
  EXPECT_EQ(problem(R"({"input_length": 64, "block_tokens": 32, "hash_ids": [1, 2, 3]})"),
            ":1: 3 hash_ids do not fit an input_length of 64, which is 2 blocks of 32 tokens");
  EXPECT_EQ(problem(R"({"input_length":40,"output_length":30,"block_tokens":32,"hash_ids":[1,2],"output_ids":[3,4]})"),
            ":1: 2 output_ids do not fit an output_length of 30, which fills 1 blocks of 32 tokens");
  EXPECT_EQ(problem(R"({"input_length": -1, "hash_ids": []})"),
            ":1: input_length is -1; it must be a whole number from 0 to 4294967295");
  EXPECT_EQ(problem(R"({"input_length": 1e3, "hash_ids": []})"),
            ":1: input_length is 1000.0; it must be a whole number from 0 to 4294967295");
  EXPECT_EQ(problem(R"({"input_length": 1, "output_length": "2", "hash_ids": []})"),
            ":1: output_length is \"2\"; it must be a whole number from 0 to 4294967295");
  EXPECT_EQ(problem(R"({"input_length": 1, "block_tokens": 0, "hash_ids": [1]})"),
            ":1: block_tokens is 0; it must be a whole number from 1 to 4294967295");
  EXPECT_EQ(problem(good + R"({"input_length": 1, "block_tokens": 32, "hash_ids": [1]})"),
            ":2: block_tokens is 32, and on the lines before it was 512; it must be the same on all lines");
}

TEST(Trace, FilesThatCannotBeRead) {
  const auto missing = read_trace("/nowhere/trace.jsonl");
  EXPECT_EQ(missing.status().code(), StatusCode::NotFound);
  EXPECT_EQ(missing.status().message(), "cannot read /nowhere/trace.jsonl: No such file or directory");
  EXPECT_EQ(read_trace("/tmp").status().code(), StatusCode::Unavailable);
}

TEST(TraceRecorder, IsReadBack) {
  const TemporaryFile file;
  const std::vector<std::uint64_t> prompt = {trace_id({.low = ~0ull, .high = 0}), 0, 5};
  const std::vector<std::uint64_t> output = {9, 10};
  for (int run = 0; run < 2; ++run) {  // the second appends
    auto recorder = TraceRecorder::open(file.path(), 32);
    ASSERT_TRUE(recorder.ok()) << recorder.status().to_string();
    (*recorder)->record(
        {.timestamp_ms = 1250, .input_length = 70, .output_length = 60, .prompt_ids = prompt, .output_ids = output});
    (*recorder)->record({.input_length = 3, .output_length = 1});
    EXPECT_EQ((*recorder)->lost_records(), 0u);
  }
  const std::string once = R"({"timestamp":1250,"input_length":70,"output_length":60,"block_tokens":32,)"
                           R"("hash_ids":[9007199254740991,0,5],"output_ids":[9,10]})"
                           "\n"
                           R"({"timestamp":0,"input_length":3,"output_length":1,"block_tokens":32,"hash_ids":[]})"
                           "\n";
  EXPECT_EQ(file.content(), once + once);
  const Trace trace = trace_of(file.content());
  EXPECT_EQ(trace.block_tokens, 32u);
  EXPECT_EQ(trace.requests.size(), 4u);
  EXPECT_EQ(trace.accesses, 6u);
  EXPECT_EQ(blocks_of(trace, 0), blocks_of(trace, 2));
  EXPECT_EQ(blocks_of(trace, 0).size(), 4u);
}

TEST(TraceRecorder, ANewFileIsItsOwnersAlone) {
  const TemporaryFile file;
  std::filesystem::remove(file.path());
  ASSERT_TRUE(TraceRecorder::open(file.path(), 32).ok());
  struct stat found {};
  ASSERT_EQ(::stat(file.path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
}

TEST(TraceRecorder, PlacesThatCannotBeWritten) {
  EXPECT_EQ(TraceRecorder::open("/nowhere/trace.jsonl", 32).status().code(), StatusCode::NotFound);
  const auto folder = TraceRecorder::open("/tmp", 32);
  EXPECT_EQ(folder.status().code(), StatusCode::Unavailable);
  EXPECT_EQ(folder.status().message(), "cannot record a trace to /tmp: Is a directory");
}

TEST(TraceRecorder, LinesOfSeveralThreadsStayWhole) {
  constexpr int kThreads = 4;
  constexpr int kRecords = 2000;  // several writes' worth
  const TemporaryFile file;
  {
    auto recorder = TraceRecorder::open(file.path(), 8);
    ASSERT_TRUE(recorder.ok());
    std::latch start(kThreads);
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&recorder, &start, thread] {
        start.arrive_and_wait();
        const std::vector<std::uint64_t> ids = {thread, thread + 10, thread + 20};
        for (int i = 0; i < kRecords; ++i) {
          (*recorder)->record({.timestamp_ms = (*recorder)->elapsed_ms(), .input_length = 20, .prompt_ids = ids});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const Trace trace = trace_of(file.content());
  EXPECT_EQ(trace.requests.size(), std::size_t{kThreads} * kRecords);
  EXPECT_EQ(trace.distinct_blocks, 12u);
}

TEST(TraceRecorder, AFullDiskCostsLinesAndNoHalfOnes) {
  const TemporaryFile file;
  auto recorder = TraceRecorder::open(file.path(), 32);
  ASSERT_TRUE(recorder.ok());
  const std::vector<std::uint64_t> ids(1, 1234567);
  const auto record = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) (*recorder)->record({.input_length = 32, .prompt_ids = ids});
    (*recorder)->flush();
  };
  record(1);
  const std::size_t line_bytes = file.content().size();

  // No file may grow beyond two lines and a half.
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit limit{.rlim_cur = line_bytes * 5 / 2, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  record(3);
  EXPECT_EQ((*recorder)->lost_records(), 2u);
  record(1);  // does not fit either
  EXPECT_EQ((*recorder)->lost_records(), 3u);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);

  record(1);  // there is room again
  EXPECT_EQ(trace_of(file.content()).requests.size(), 3u);
}

}  // namespace
}  // namespace tiercel
