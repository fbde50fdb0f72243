#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>

#include "tests/server/http/http_rig.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;

class HttpLimits : public HttpRig {};

TEST_F(HttpLimits, KeepAliveAndPipeliningAnswerInOrder) {
  Start();
  Client client(server_->port());
  client.Send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n" + Post("/tokenize", R"({"prompt":"ab"})") +
              "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answers = client.ReadAll();
  const size_t version = answers.find("1.2.3");
  const size_t tokens = answers.find("\"tokens\":[256,97,98]");
  const size_t live = answers.find("\"live\"");
  EXPECT_LT(version, tokens);
  EXPECT_LT(tokens, live);
  EXPECT_NE(live, std::string::npos);
}

struct RefusedBytes {
  std::string name;
  std::string bytes;
  std::string status;
};

constexpr char kNext[] = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";

class RefusedRequests : public HttpLimits, public testing::WithParamInterface<RefusedBytes> {};

std::string Repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

TEST_P(RefusedRequests, GetAnErrorAndAClosedConnection) {
  Start();
  // A second request behind it must not be answered: that would be smuggling.
  const std::string answer = Ask(GetParam().bytes);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + GetParam().status)) << answer;
  EXPECT_NE(answer.find("Connection: close"), std::string::npos);
  EXPECT_NE(answer.find("\"error\""), std::string::npos);
  EXPECT_EQ(answer.find("\"live\""), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Http, RefusedRequests,
    testing::Values(
        RefusedBytes{"LengthAndChunks",
                     std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n") +
                         kNext,
                     "400"},
        RefusedBytes{"ChunksAndLength",
                     std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                                 "chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n") +
                         kNext,
                     "400"},
        RefusedBytes{"TwoLengths",
                     std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                                 "Content-Length: 3\r\n\r\n{}") +
                         kNext,
                     "400"},
        RefusedBytes{"TheSameLengthTwice",
                     std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
                                 "Content-Length: 2\r\n\r\n{}") +
                         kNext,
                     "400"},
        RefusedBytes{"NegativeLength",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
        RefusedBytes{
            "HugeLength",
            "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "400"},
        RefusedBytes{"OtherEncoding",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
                     "501"},
        RefusedBytes{
            "TwoEncodings",
            "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "501"},
        RefusedBytes{"ChunksOverHttp10",
                     "POST /tokenize HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                     "501"},
        RefusedBytes{"EndlessChunkExtension",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "2;a=" +
                         std::string(40'000, 'b'),
                     "400"},
        RefusedBytes{"EndlessChunkSize",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                         std::string(40'000, '0'),
                     "400"},
        RefusedBytes{"EndlessTrailers",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "2\r\n{}\r\n0\r\n" +
                         Repeat("X-Trailer: yyyyyyyy\r\n", 2'000),
                     "400"},
        RefusedBytes{"EndlessTrailer",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "2\r\n{}\r\n0\r\nX: " +
                         std::string(40'000, 'y'),
                     "400"},
        RefusedBytes{"MoreAboutTheChunksThanInThem",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                         Repeat("1;a=" + std::string(1000, 'b') + "\r\n \r\n", 40),
                     "400"},
        RefusedBytes{"OnlyEmptyLines", Repeat("\r\n", 1'000), "400"},
        RefusedBytes{"CompressedBody",
                     std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Encoding: "
                                 "gzip\r\nContent-Length: 2\r\n\r\n{}") +
                         kNext,
                     "415"},
        RefusedBytes{"BadChunkSize",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "zz\r\n{}\r\n0\r\n\r\n",
                     "400"},
        RefusedBytes{"NoHost", "GET /live HTTP/1.1\r\n\r\n", "400"},
        RefusedBytes{"TwoHosts", "GET /live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
        RefusedBytes{"SpaceBeforeColon", "GET /live HTTP/1.1\r\nHost : a\r\n\r\n", "400"},
        RefusedBytes{"NulInHeader", std::string("GET /live HTTP/1.1\r\nHost: a\0b\r\n\r\n", 33),
                     "400"},
        RefusedBytes{"NotHttp", "\x16\x03\x01 hello hello\r\n\r\n", "400"},
        RefusedBytes{"GiantHeader",
                     "GET /live HTTP/1.1\r\nHost: x\r\nA: " + std::string(20000, 'a') + "\r\n\r\n",
                     "431"},
        RefusedBytes{"BodyTooLongByItsLength",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n",
                     "413"},
        RefusedBytes{"OddExpectation",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: "
                     "wonders\r\n\r\n",
                     "417"}),
    [](const auto& test) { return test.param.name; });

TEST_F(HttpLimits, ABodyTooLongInChunksIsRefused) {
  options_.max_body_bytes = 100'000;
  Start();
  Client client(server_->port());
  client.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 20; ++i) {
    client.Send("2710\r\n" + std::string(10'000, 'x') + "\r\n");
  }
  EXPECT_TRUE(client.ReadAll().starts_with("HTTP/1.1 413"));
}

TEST_F(HttpLimits, AChunkedBodyIsRead) {
  Start();
  const std::string answer =
      Ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
          "chunked\r\n\r\n5\r\n{\"pro\r\na\r\nmpt\":\"ab\"}\r\n0\r\n\r\n");
  EXPECT_NE(answer.find("[256,97,98]"), std::string::npos) << answer;
}

TEST_F(HttpLimits, ChunkExtensionsAndTrailersAreLeftOut) {
  Start();
  const std::string answer =
      Ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
          "chunked\r\n\r\nf;signature=\"abc\";x\r\n{\"prompt\":\"ab\"}\r\n0;y=z\r\nHost: two\r\n"
          "Origin: http://evil.example\r\n\r\n");
  EXPECT_NE(answer.find("[256,97,98]"), std::string::npos) << answer;
}

TEST_F(HttpLimits, EmptyLinesBeforeARequestAreSkipped) {
  Start();
  const std::string answers =
      Ask("\r\n\r\n" + Post("/tokenize", R"({"prompt":"a"})") +
          "\r\nGET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answers.find("[256,97]"), std::string::npos) << answers;
  EXPECT_NE(answers.find("1.2.3"), std::string::npos) << answers;
}

TEST_F(HttpLimits, AnUncodedBodyMayBeNamedSo) {
  Start();
  EXPECT_TRUE(Ask(Post("/tokenize", R"({"prompt":"a"})",
                       "Content-Encoding: Identity\r\nConnection: close\r\n"))
                  .starts_with("HTTP/1.1 200"));
}

TEST_F(HttpLimits, AClientThatExpectsIsToldToContinue) {
  Start();
  Client client(server_->port());
  client.Send(
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\nConnection: close\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_TRUE(client.ReadUntil("\r\n\r\n").starts_with("HTTP/1.1 100 Continue"));
  client.Send(R"({"prompt":"ab"})");
  EXPECT_NE(client.ReadAll().find("[256,97,98]"), std::string::npos);
}

TEST_F(HttpLimits, ASlowHeaderAndASlowBodyTimeOut) {
  options_.header_timeout = milliseconds(150);
  options_.body_timeout = milliseconds(150);
  Start();
  EXPECT_TRUE(Ask("GET /live HT").starts_with("HTTP/1.1 408"));
  EXPECT_TRUE(Ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{")
                  .starts_with("HTTP/1.1 408"));
}

TEST_F(HttpLimits, AnIdleConnectionIsClosed) {
  options_.idle_timeout = milliseconds(100);
  Start();
  EXPECT_EQ(Ask(""), "");
  EXPECT_TRUE(Ask("GET /live HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("{\"status\":\"live\"}"));
}

// Two connections are taken; once one of them is closed, another one is.
class ConnectionCaps : public HttpLimits {
 protected:
  void TakeTwo() {
    first_.emplace(server_->port());
    second_.emplace(server_->port());
    first_->Send(kNext);
    second_->Send(kNext);
    first_->ReadUntil("\"live\"");
    second_->ReadUntil("\"live\"");
  }
  void ExpectRoomOnceOneIsClosed() {
    first_->Close();
    EXPECT_TRUE(Eventually([this] {
      return Ask("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").find("200 OK") !=
             std::string::npos;
    }));
  }

 private:
  std::optional<Client> first_;
  std::optional<Client> second_;
};

TEST_F(ConnectionCaps, ConnectionsBeyondTheCapGet503) {
  options_.max_connections = 2;
  Start();
  TakeTwo();
  const std::string refused = Ask("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 503")) << refused;
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  ExpectRoomOnceOneIsClosed();
}

TEST_F(HttpLimits, AllLargeBodiesTogetherAreBoundedAndSmallOnesAreTaken) {
  options_.max_total_body_bytes = 50'000;
  Start();
  std::optional<Client> holder;
  // Again until the one that holds was read before the one that asks.
  EXPECT_TRUE(Eventually([&] {
    holder.emplace(server_->port());
    holder->Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" +
                 std::string(115'000, ' '));
    return Ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
               "Content-Length: 70000\r\n\r\n" +
               std::string(70'000, ' '))
        .starts_with("HTTP/1.1 503");
  }));
  EXPECT_TRUE(Ask(Post("/tokenize", R"({"prompt":"a"})", "Connection: close\r\n"))
                  .starts_with("HTTP/1.1 200"));
  holder->Send(std::string(10'000, ' '));
  EXPECT_TRUE(holder->ReadAll().starts_with("HTTP/1.1 503"));
  EXPECT_TRUE(Eventually([this] {  // given back
    return Ask(Post("/tokenize", std::string(66'000, ' ') + R"({"prompt":"a"})",
                    "Connection: close\r\n"))
        .starts_with("HTTP/1.1 200");
  }));
}

TEST_F(ConnectionCaps, OneAddressCannotTakeAllConnections) {
  options_.max_connections = 10;
  options_.max_connections_per_address = 2;
  Start();
  TakeTwo();
  EXPECT_TRUE(Ask("GET /live HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 429"));
  ExpectRoomOnceOneIsClosed();
}

TEST(AddressKey, OneHostIsOneAddress) {
  const auto key = [](const char* address) {
    return AddressKey(boost::asio::ip::make_address(address));
  };
  EXPECT_EQ(key("::ffff:10.0.0.1"), key("10.0.0.1"));
  EXPECT_NE(key("10.0.0.2"), key("10.0.0.1"));
  EXPECT_EQ(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::2"));
  EXPECT_NE(key("2001:db8:1:3::1"), key("2001:db8:1:2::1"));
}

TEST_F(HttpLimits, AClientThatGoesIsCancelledStreamingOrNot) {
  service_.mode = FakeMode::kHold;
  Start();
  for (const std::string body : {R"({"prompt":"a"})", R"({"prompt":"a","stream":true})"}) {
    const int cancelled = service_.num_cancelled;
    const size_t submitted = service_.requests().size();
    Client client(server_->port());
    client.Send(Post("/v1/completions", body));
    ASSERT_TRUE(Eventually([&] { return service_.requests().size() > submitted; }));
    client.Close();
    EXPECT_TRUE(Eventually([&] { return service_.num_cancelled == cancelled + 1; })) << body;
  }
}

TEST_F(HttpLimits, AHalfClosedClientStillGetsAShortAnswer) {
  Start();
  Client client(server_->port());
  client.Send("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  client.HalfClose();
  EXPECT_NE(client.ReadAll().find("\"live\""), std::string::npos);
}

TEST_F(HttpLimits, AReaderThatIsTooSlowIsCancelledAndCut) {
  options_.max_stream_backlog_bytes = 64 << 10;
  service_.mode = FakeMode::kFlood;
  Start();
  Client client(server_->port(), 4096);
  client.Send(Post("/v1/completions", R"({"prompt":"a","stream":true})"));
  EXPECT_TRUE(Eventually([this] { return service_.num_cancelled == 1; }));
  EXPECT_EQ(client.ReadAll().find("[DONE]"), std::string::npos);
}

TEST_F(HttpLimits, ALargeAnswerIsWholeOverOneConnection) {
  Start();
  Client client(server_->port());
  const std::string prompt(300'000, 'a');
  client.Send(Post("/tokenize", R"({"return_token_strs":true,"prompt":")" + prompt + "\"}") +
              "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answers = client.ReadAll();
  EXPECT_NE(answers.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_NE(answers.find("\"count\":300001,"), std::string::npos);
  EXPECT_NE(answers.find("\"a\"]}"), std::string::npos);
  EXPECT_NE(answers.find("1.2.3"), std::string::npos);
}

TEST_F(HttpLimits, AnswersThatNobodyReadsAreBoundedTogether) {
  options_.max_total_body_bytes = 12'000'000;
  Start();
  const std::string body =
      R"({"return_token_strs":true,"prompt":")" + std::string(1'500'000, 'a') + "\"}";
  Client first(server_->port(), 4096);  // its tokens are kept until it reads
  first.Send(Post("/tokenize", body));
  EXPECT_TRUE(first.ReadUntil("\r\n\r\n").starts_with("HTTP/1.1 200"));
  const std::string refused = Ask(Post("/tokenize", body, "Connection: close\r\n"));
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 503")) << refused.substr(0, 300);
  first.Close();
  EXPECT_TRUE(Eventually([&] {
    return Ask(Post("/tokenize", body, "Connection: close\r\n")).starts_with("HTTP/1.1 200");
  }));
}

TEST_F(HttpLimits, AReaderThatStopsIsCutByTheWriteTimeout) {
  options_.write_timeout = milliseconds(200);
  options_.max_stream_backlog_bytes = size_t{1} << 30;
  Start();
  const std::string prompt(1'000'000, 'a');
  Client client(server_->port(), 4096);
  // Seven bytes of answer for each of the prompt: more than the sockets hold.
  client.Send(Post("/tokenize", R"({"return_token_strs":true,"prompt":")" + prompt + "\"}"));
  EXPECT_TRUE(client.ReadUntil("200 OK").starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(Eventually([this] { return server_->num_connections() == 0; }));
  EXPECT_LT(client.ReadAll().size(), prompt.size() * 7);  // it was cut
}

TEST_F(HttpLimits, DrainingFinishesWhatRunsAndSaysSoWhenIdle) {
  service_.mode = FakeMode::kHold;
  Start();
  Client client(server_->port());
  client.Send(Post("/v1/completions", R"({"prompt":"a"})"));
  ASSERT_TRUE(Eventually([this] { return service_.requests().size() == 1; }));
  std::atomic<bool> idle = false;
  api_.StopAccepting();
  server_->Drain([&idle] { idle = true; });
  EXPECT_TRUE(Ask("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 503"));
  EXPECT_TRUE(Ask(Post("/v1/completions", R"({"prompt":"a"})")).starts_with("HTTP/1.1 503"));
  EXPECT_FALSE(idle);
  api_.CancelAll();
  EXPECT_TRUE(client.ReadAll().starts_with("HTTP/1.1 503"));
  EXPECT_TRUE(Eventually([&idle] { return idle.load(); }));
}

TEST_F(HttpLimits, APortThatIsTakenIsNamed) {
  Start();
  HttpOptions taken;
  taken.port = server_->port();
  const auto second = HttpServer::Create(taken);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("is taken"), std::string::npos);
  EXPECT_NE(second.status().message().find("--port"), std::string::npos);
}

}  // namespace
}  // namespace thermocline
