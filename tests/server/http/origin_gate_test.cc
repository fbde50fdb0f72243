#include "server/http/origin_gate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/server/http/http_rig.h"

namespace thermocline {
namespace {

HttpRequest Request(HttpHeaders headers, const std::string& method = "POST",
                    const std::string& target = "/v1/completions") {
  HttpRequest request;
  request.method = method;
  request.target = request.path = target;
  request.headers = std::move(headers);
  return request;
}

bool Passes(const OriginGate& gate, const HttpRequest& request) {
  const std::optional<ApiError> error = gate.Check(request);
  EXPECT_TRUE(!error || error->http_status == 403);
  return !error;
}

std::string Header(const HttpHeaders& headers, const std::string& name) {
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [&](const auto& header) { return header.first == name; });
  return found == headers.end() ? "" : found->second;
}

TEST(OriginGate, OnlyTheServersOwnPageMayCallUnlessOthersAreNamed) {
  const OriginGate gate({}, /*loopback=*/false);
  const auto passes = [&](const std::string& host, const std::string& origin) {
    return Passes(gate, Request({{"host", host}, {"origin", origin}}));
  };
  EXPECT_TRUE(Passes(gate, Request({{"host", "a.example"}})));  // a program
  EXPECT_TRUE(passes("127.0.0.1:8000", "http://127.0.0.1:8000"));
  EXPECT_TRUE(passes("LocalHost:8000", "http://localhost:8000"));
  EXPECT_TRUE(passes("[::1]:8000", "http://[0:0::1]:8000"));
  EXPECT_TRUE(passes("chat.example", "https://chat.example"));      // behind a proxy
  EXPECT_TRUE(passes("chat.example:443", "https://chat.example"));  // so too
  EXPECT_TRUE(passes("chat.example", "http://chat.example:80"));
  for (const char* foreign :
       {"http://evil.example", "http://127.0.0.1:8001", "http://127.0.0.1", "https://127.0.0.1",
        "http://localhost:8000", "null", "", "file://", "ftp://127.0.0.1:8000",
        "http://127.0.0.1:8000.evil.example", "http://evil.example/127.0.0.1:8000",
        "http://127.0.0.1:8000@evil.example", "http://127.0.0.1:8000 ", "http://127.0.0.1:99999"}) {
    EXPECT_FALSE(passes("127.0.0.1:8000", foreign)) << foreign;
  }
  EXPECT_FALSE(passes("chat.example", "https://chat.example:80"));
  EXPECT_FALSE(Passes(gate, Request({{"origin", "http://x"}})));  // no Host
}

TEST(OriginGate, NeitherMethodNorContentTypeHelpsAForeignPage) {
  const OriginGate gate({}, /*loopback=*/true);
  for (const char* method : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    EXPECT_FALSE(Passes(gate, Request({{"host", "localhost"},
                                       {"origin", "http://evil.example"},
                                       {"content-type", "application/json"}},
                                      method)))
        << method;
  }
  EXPECT_FALSE(
      Passes(gate, Request({{"host", "x"}, {"origin", "http://x"}, {"origin", "http://x"}})));
}

TEST(OriginGate, BrowsersSayWhenAPageIsOfAnotherSite) {
  const OriginGate gate({}, /*loopback=*/true);
  const auto passes = [&](const std::string& site, const std::string& method) {
    return Passes(
        gate, Request({{"host", "localhost:8000"}, {"sec-fetch-site", site}}, method, "/v1/kv"));
  };
  EXPECT_FALSE(passes("cross-site", "GET"));
  EXPECT_FALSE(passes("Cross-Site", "POST"));
  EXPECT_FALSE(passes("same-site", "POST"));  // another port of this machine
  EXPECT_TRUE(passes("same-site", "GET"));
  EXPECT_TRUE(passes("same-origin", "POST"));
  EXPECT_TRUE(passes("none", "GET"));
  // Our own name in a cross-site request is no name of ours.
  EXPECT_FALSE(Passes(gate, Request({{"host", "localhost:8000"},
                                     {"sec-fetch-site", "cross-site"},
                                     {"origin", "http://localhost:8000"}})));
}

TEST(OriginGate, ALinkToThePageMayStandAnywhere) {
  const OriginGate gate({}, /*loopback=*/true);
  const HttpHeaders link = {{"host", "localhost"},
                            {"sec-fetch-site", "cross-site"},
                            {"sec-fetch-mode", "navigate"},
                            {"sec-fetch-dest", "document"}};
  EXPECT_TRUE(Passes(gate, Request(link, "GET", "/")));
  EXPECT_FALSE(Passes(gate, Request(link, "GET", "/v1/kv")));
  EXPECT_FALSE(Passes(gate, Request(link, "POST", "/")));
  HttpHeaders frame = link;
  frame.back().second = "iframe";
  EXPECT_FALSE(Passes(gate, Request(frame, "GET", "/")));
}

TEST(OriginGate, NamedPagesMayCallAndOnlyThese) {
  const OriginGate gate({.allowed_origins = {"https://A.example/", "http://b.example:80", "null"}},
                        /*loopback=*/false);
  const auto passes = [&](const std::string& origin) {
    return Passes(
        gate,
        Request({{"host", "h.example"}, {"origin", origin}, {"sec-fetch-site", "cross-site"}}));
  };
  EXPECT_TRUE(passes("https://a.example"));
  EXPECT_TRUE(passes("https://a.example:443"));
  EXPECT_TRUE(passes("http://b.example"));
  EXPECT_TRUE(passes("null"));
  EXPECT_FALSE(passes("http://a.example"));
  EXPECT_FALSE(passes("https://a.example.evil.example"));
  EXPECT_FALSE(passes("https://x.a.example"));
  EXPECT_FALSE(Passes(gate, Request({{"host", "h.example"}, {"sec-fetch-site", "cross-site"}})));
  const OriginGate open({.allowed_origins = {"*"}}, /*loopback=*/true);
  EXPECT_TRUE(Passes(open, Request({{"host", "evil.example"}, {"origin", "http://evil.example"}})));
  EXPECT_TRUE(Passes(open, Request({{"host", "x"}, {"sec-fetch-site", "cross-site"}})));
}

TEST(OriginGate, ALoopbackAddressIsReachedUnderNamesOfThisMachine) {
  const OriginGate gate(
      {.allowed_origins = {"https://chat.example"}, .allowed_hosts = {"box.lan", "other.lan:9000"}},
      /*loopback=*/true);
  const auto passes = [&](const std::string& host) {
    return Passes(gate, Request({{"host", host}}, "GET"));
  };
  for (const char* ours :
       {"localhost", "LOCALHOST:8000", "localhost.", "a.localhost:1", "127.0.0.1", "127.1.2.3:80",
        "[::1]", "[0:0:0::1]:8000", "[::ffff:127.0.0.1]", "mybox", "mybox:8000", "box.lan",
        "BOX.lan:77", "other.lan:9000", "chat.example", "chat.example:8000"}) {
    EXPECT_TRUE(passes(ours)) << ours;
  }
  for (const char* foreign :
       {"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
        "10.0.0.1", "0.0.0.0", "[::]", "[2001:db8::1]", "[fe80::1%1]", "other.lan",
        "other.lan:9001", "evil.example@localhost", "localhost:80:80", "localhost:x", "a b", "[::1",
        "[::1]x"}) {
    EXPECT_FALSE(passes(foreign)) << foreign;
  }
  EXPECT_FALSE(Passes(gate, Request({{"host", "localhost"}}, "GET", "http://evil.example/live")));
  EXPECT_TRUE(Passes(gate, Request({{"host", "localhost"}}, "GET", "http://localhost/live")));
  const OriginGate open({}, /*loopback=*/false);
  EXPECT_TRUE(Passes(open, Request({{"host", "chat.example"}}, "GET")));
}

TEST(OriginGate, RulesThatMatchNothingAreRefused) {
  for (const char* origin : {"a.example", "https://", "https://a.example/path", "", "//a"}) {
    EXPECT_FALSE(CheckOriginRules({.allowed_origins = {origin}}).ok()) << origin;
  }
  EXPECT_TRUE(CheckOriginRules({.allowed_origins = {"*", "null", "https://a.example:1",
                                                    "chrome-extension://abcdef", "http://[::1]"}})
                  .ok());
  EXPECT_FALSE(CheckOriginRules({.allowed_hosts = {"http://a.example"}}).ok());
}

TEST(OriginGate, PreflightAnswersNameWhatWasAskedForIfItIsAName) {
  const OriginGate gate({.allowed_origins = {"https://a.example"}}, /*loopback=*/true);
  const auto ask = [&](const std::string& names) {
    return gate.AnswerHeaders(Request({{"host", "x"},
                                       {"origin", "https://a.example"},
                                       {"access-control-request-method", "POST"},
                                       {"access-control-request-headers", names}},
                                      "OPTIONS"));
  };
  const HttpHeaders answer = ask("authorization, x-stainless-os,x-stainless-arch , a b,c\x01,,d:e");
  EXPECT_EQ(Header(answer, "Access-Control-Allow-Headers"),
            "authorization, x-stainless-os, x-stainless-arch");
  EXPECT_EQ(Header(answer, "Access-Control-Allow-Origin"), "https://a.example");
  EXPECT_NE(Header(answer, "Access-Control-Allow-Methods").find("DELETE"), std::string::npos);
  EXPECT_NE(Header(answer, "Vary").find("Origin"), std::string::npos);
  EXPECT_NE(Header(ask(""), "Access-Control-Allow-Headers").find("Content-Type"),
            std::string::npos);
  EXPECT_EQ(Header(gate.AnswerHeaders("https://b.example"), "Access-Control-Allow-Origin"), "");
}

class Cors : public HttpRig {
 protected:
  Cors() {
    options_.origins.allowed_origins = {"https://a.example"};
    options_.max_body_bytes = 100'000;
  }
  static bool IsReadable(const std::string& answer) {
    return answer.find("Access-Control-Allow-Origin: https://a.example\r\n") != std::string::npos &&
           answer.find("Vary: Origin") != std::string::npos;
  }
};

// The page gets the error to read, not "network error".
TEST_F(Cors, EveryAnswerThatAnAllowedPageCanCauseIsReadable) {
  options_.header_timeout = std::chrono::milliseconds(200);
  options_.body_timeout = std::chrono::milliseconds(200);
  Start();
  const std::string head = " HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n";
  const std::string post = "POST /tokenize" + head;
  const struct {
    std::string bytes;
    std::string status;
  } cases[] = {
      {"GET /live" + head + "Connection: close\r\n\r\n", "200"},
      {"GET /nothing" + head + "Connection: close\r\n\r\n", "404"},
      {"PUT /live" + head + "Connection: close\r\n\r\n", "405"},
      {post + "Connection: close\r\nContent-Length: 1\r\n\r\nx", "400"},
      {post + "Connection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
       "415"},
      {post + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "415"},
      {post + "Content-Length: 100001\r\n\r\n", "413"},
      {post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
      {post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
      {post + "Content-Length: x\r\n\r\n", "400"},
      {post + "A: " + std::string(20'000, 'a') + "\r\n\r\n", "431"},
      {post + "Content-Length: 2\r\n\r\n{", "408"},
      {post + "A: b", "408"},
      {"OPTIONS /v1/nothing" + head +
           "Access-Control-Request-Method: POST\r\nConnection: "
           "close\r\n\r\n",
       "204"},
  };
  for (const auto& [bytes, status] : cases) {
    const std::string answer = Ask(bytes);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + status)) << bytes.substr(0, 200) << answer;
    EXPECT_TRUE(IsReadable(answer)) << answer;
  }
}

TEST_F(Cors, AForeignPageIsRefusedBeforeItsBodyIsRead) {
  Start();
  for (const char* foreign :
       {"Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"}) {
    // A length without a body: nothing waits for it.
    const std::string answer =
        Ask(fmt::format("POST /v1/completions HTTP/1.1\r\nHost: x\r\n{}Expect: 100-continue\r\n"
                        "Content-Length: 1000\r\n\r\n",
                        foreign));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 403")) << answer;
    EXPECT_EQ(answer.find("Access-Control"), std::string::npos) << answer;
  }
  EXPECT_TRUE(service_.requests().empty());
  EXPECT_TRUE(Ask("GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n").starts_with("HTTP/1.1 403"));
}

}  // namespace
}  // namespace thermocline
