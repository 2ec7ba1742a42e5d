#include "tiercel/status.h"

#include <memory>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

constexpr StatusCode kCodes[] = {StatusCode::Ok,         StatusCode::InvalidArgument,  StatusCode::NotFound,
                                 StatusCode::Rejected,   StatusCode::DeadlineExceeded, StatusCode::Cancelled,
                                 StatusCode::Corruption, StatusCode::Unavailable,      StatusCode::ResourceExhausted,
                                 StatusCode::Internal};

TEST(Status, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::Ok);
  EXPECT_EQ(status.to_string(), "Ok");
}

TEST(Status, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (const StatusCode code : kCodes) names.insert(to_string(code));
  EXPECT_EQ(names.size(), std::size(kCodes));
  EXPECT_EQ(names.count("Unknown"), 0u);
}

TEST(Status, FactoriesCarryCodeAndMessage) {
  const std::pair<Status, StatusCode> made[] = {
      {Status::invalid_argument("a"), StatusCode::InvalidArgument},
      {Status::not_found("a"), StatusCode::NotFound},
      {Status::rejected("a"), StatusCode::Rejected},
      {Status::deadline_exceeded("a"), StatusCode::DeadlineExceeded},
      {Status::cancelled("a"), StatusCode::Cancelled},
      {Status::corruption("a"), StatusCode::Corruption},
      {Status::unavailable("a"), StatusCode::Unavailable},
      {Status::resource_exhausted("a"), StatusCode::ResourceExhausted},
      {Status::internal("a"), StatusCode::Internal},
  };
  for (const auto& [status, code] : made) {
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.code(), code);
    EXPECT_EQ(status.message(), "a");
    EXPECT_EQ(status.to_string(), std::string(to_string(code)) + ": a");
  }
}

TEST(Result, HoldsAValueOrAStatus) {
  const Result<int> seven = 7;
  EXPECT_TRUE(seven.ok());
  EXPECT_TRUE(seven.status().ok());
  EXPECT_EQ(*seven, 7);
  const Result<int> none = Status::not_found("no such file");
  EXPECT_FALSE(none);
  EXPECT_EQ(none.status().code(), StatusCode::NotFound);
  EXPECT_EQ(none.status().message(), "no such file");
}

TEST(Result, MovesOutAMoveOnlyValue) {
  Result<std::unique_ptr<std::string>> made = std::make_unique<std::string>("x");
  EXPECT_EQ(**made, "x");
  const std::unique_ptr<std::string> taken = *std::move(made);
  EXPECT_EQ(*taken, "x");
}

TEST(Result, ArrowReachesTheValue) {
  Result<std::string> text = std::string("abc");
  text->push_back('d');
  EXPECT_EQ(text.value(), "abcd");
  const Result<std::string>& same = text;
  EXPECT_EQ(same->size(), 4u);
}

TEST(ResultDeathTest, ReadingAFailedResultSaysWhy) {
  Result<int> none = Status::corruption("record 3 of seg-1");
  EXPECT_DEATH(static_cast<void>(none.value()), "Corruption: record 3 of seg-1");
}

TEST(Status, ReturnIfErrorLeavesOnlyOnError) {
  int evaluated = 0;
  const auto run = [&](Status first) -> Status {
    TIERCEL_RETURN_IF_ERROR((++evaluated, first));
    return Status::internal("went on");
  };
  EXPECT_EQ(run(Status::cancelled("stop")).code(), StatusCode::Cancelled);
  EXPECT_EQ(evaluated, 1);
  EXPECT_EQ(run({}).message(), "went on");
  EXPECT_EQ(evaluated, 2);
}

}  // namespace
}  // namespace tiercel
