#include "server/http/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "server/api/openai_api.h"
#include "server/http/url.h"
#include "tests/server/api/fake_service.h"
#include "tests/server/api/recording_writer.h"

namespace thermocline {
namespace {

class RouterTest : public testing::Test {
 protected:
  RouterTest() { api_.AddRoutes(router_); }

  RecordingWriter Send(const std::string& method, const std::string& target,
                       HttpHeaders headers = {}) {
    auto request = std::make_shared<HttpRequest>();
    request->method = method;
    request->target = target;
    request->path = UrlPath(target);
    request->headers = std::move(headers);
    const auto writer = std::make_shared<RecordingWriter>();
    router_.Handle(request, writer);
    return *writer;
  }
  static std::string Header(const HttpHeaders& headers, const std::string& name) {
    const auto found = std::find_if(headers.begin(), headers.end(),
                                    [&](const auto& header) { return header.first == name; });
    return found == headers.end() ? "" : found->second;
  }

  FakeService service_;
  const ApiContext context_ = FakeContext(service_);
  OpenAiApi api_{context_, "1.2.3", 1};
  Router router_{[] { return std::string("new-id"); }};
};

TEST_F(RouterTest, KnownPathsAreServed) {
  EXPECT_EQ(Send("GET", "/live").response.status, 200);
  EXPECT_EQ(Send("HEAD", "/health?x=1").response.status, 200);
  EXPECT_EQ(Send("GET", "/version").response.body, R"({"version":"1.2.3"})");
  EXPECT_EQ((*ParseJson(Send("GET", "/load").response.body))["num_pages"], 7);
}

TEST_F(RouterTest, ModelsAreListedAndFoundByName) {
  const Json list = *ParseJson(Send("GET", "/v1/models").response.body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "fake");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ((*ParseJson(Send("GET", "/v1/models/other%2Dname").response.body))["id"], "other-name");
  const RecordingWriter missing = Send("GET", "/v1/models/none");
  EXPECT_EQ(missing.response.status, 404);
  EXPECT_EQ((*ParseJson(missing.response.body))["error"]["code"], "model_not_found");
}

TEST_F(RouterTest, UnknownPathsAre404AndWrongMethodsNameTheRightOnes) {
  EXPECT_EQ(Send("GET", "/v1/nothing").response.status, 404);
  EXPECT_EQ(Send("GET", "/v1/models/").response.status, 404);
  const RecordingWriter wrong = Send("PUT", "/live");
  EXPECT_EQ(wrong.response.status, 405);
  EXPECT_EQ(Header(wrong.response.headers, "Allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(Send("GET", "/v1/completions").response.status, 405);
}

TEST_F(RouterTest, RequestIdsAreEchoedIfPlainAndMadeOtherwise) {
  EXPECT_EQ(Header(Send("GET", "/live", {{"x-request-id", "abc-1"}}).headers, "X-Request-Id"),
            "abc-1");
  EXPECT_EQ(Header(Send("GET", "/live").headers, "X-Request-Id"), "new-id");
  EXPECT_EQ(Header(Send("GET", "/live", {{"x-request-id", "a b"}}).headers, "X-Request-Id"),
            "new-id");
  EXPECT_EQ(Header(Send("GET", "/live", {{"x-request-id", std::string(129, 'a')}}).headers,
                   "X-Request-Id"),
            "new-id");
}

TEST_F(RouterTest, FormsOfOtherSitesAreRefused) {
  EXPECT_EQ(Send("POST", "/v1/completions", {{"content-type", "text/plain"}}).response.status, 415);
  EXPECT_EQ(Send("POST", "/tokenize", {{"content-type", "text/plain"}}).response.status, 415);
}

TEST_F(RouterTest, MediaTypesAreReadInAnyCase) {
  for (const char* type :
       {"application/json", "Application/JSON", "APPLICATION/JSON; Charset=UTF-8",
        "application/json ;charset=utf-8", "application/problem+JSON"}) {
    EXPECT_NE(Send("POST", "/tokenize", {{"content-type", type}}).response.status, 415) << type;
  }
}

TEST_F(RouterTest, HealthTurnsRedWhenStoppingOrBroken) {
  service_.is_healthy = false;
  EXPECT_EQ(Send("GET", "/health").response.status, 503);
  EXPECT_EQ(Send("GET", "/live").response.status, 200);
  service_.is_healthy = true;
  EXPECT_EQ(Send("GET", "/health").response.status, 200);
  api_.StopAccepting();
  const RecordingWriter stopping = Send("GET", "/health");
  EXPECT_EQ(stopping.response.status, 503);
  EXPECT_EQ(Header(stopping.response.headers, "Retry-After"), "5");
  EXPECT_EQ(Send("POST", "/v1/completions").response.status, 503);
}

TEST(Url, PathsAreDecodedWithoutTheirQuery) {
  EXPECT_EQ(UrlPath("/a%20b/c?d=%20#e"), "/a b/c");
  EXPECT_EQ(UrlPath("http://host:1/x"), "/x");
  EXPECT_EQ(UrlPath("http://host"), "/");
  EXPECT_EQ(UrlPath("/%zz%4"), "/%zz%4");
  EXPECT_EQ(UrlPath("*"), "*");
}

}  // namespace
}  // namespace thermocline
