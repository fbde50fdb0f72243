#include "server/http/api_error.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

TEST(ApiError, AFullQueueIsNotTheClientsDoingAndAnExceededQuotaIs) {
  const ApiError full = FromStatus({StatusCode::kResourceExhausted, "the queue is full"});
  EXPECT_EQ(full.http_status, 503);
  EXPECT_EQ(full.code, "server_overloaded");
  EXPECT_EQ(full.retry_after_seconds, 1);
  EXPECT_EQ(ErrorType(full.http_status), "service_unavailable_error");
  const ApiError quota = FromStatus({StatusCode::kQuotaExceeded, "too much of it is yours"});
  EXPECT_EQ(quota.http_status, 429);
  EXPECT_EQ(quota.retry_after_seconds, 1);
  EXPECT_EQ(ErrorType(quota.http_status), "rate_limit_error");
}

}  // namespace
}  // namespace thermocline
