#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "server/http_server.h"
#include "server/openai_api.h"
#include "server/router.h"
#include "tests/server/fake_service.h"

namespace thermocline {
namespace {

using boost::asio::ip::tcp;
using std::chrono::milliseconds;

// A client that sends bytes as they are.
class Client {
 public:
  explicit Client(uint16_t port, int receive_bytes = 0) : socket_(io_context_) {
    const tcp::endpoint endpoint(boost::asio::ip::address_v4::loopback(), port);
    socket_.open(endpoint.protocol());
    if (receive_bytes > 0) {
      socket_.set_option(boost::asio::socket_base::receive_buffer_size(receive_bytes));
    }
    socket_.connect(endpoint);
  }
  // Errors show in what is read: the server may have closed already.
  void Send(const std::string& bytes) {
    boost::system::error_code ignored;
    size_t sent = 0;
    while (sent < bytes.size() && !ignored) {
      sent += socket_.write_some(boost::asio::buffer(bytes.data() + sent, bytes.size() - sent),
                                 ignored);
    }
  }
  // Until `marker` has come or the server has closed.
  std::string ReadUntil(const std::string& marker) {
    std::string text;
    std::array<char, 4096> chunk;
    boost::system::error_code error;
    while (marker.empty() || text.find(marker) == std::string::npos) {
      const size_t size = socket_.read_some(boost::asio::buffer(chunk), error);
      if (error) {
        break;
      }
      text.append(chunk.data(), size);
    }
    return text;
  }
  std::string ReadAll() { return ReadUntil(""); }
  void HalfClose() { socket_.shutdown(tcp::socket::shutdown_send); }
  void Close() { socket_.close(); }

 private:
  boost::asio::io_context io_context_;
  tcp::socket socket_;
};

std::string Post(const std::string& path, const std::string& body, const std::string& more = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", path,
                     body.size(), more, body);
}

class HttpLimits : public testing::Test {
 protected:
  HttpLimits() {
    options_.port = 0;
    options_.header_timeout = milliseconds(5000);
    options_.idle_timeout = milliseconds(5000);
  }
  ~HttpLimits() override {
    if (server_) {
      server_->Stop();
    }
  }
  void Start() {
    api_.AddRoutes(router_);
    auto server = HttpServer::Create(options_);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
    ASSERT_TRUE(server_
                    ->Start([this](const RequestPtr& request, const WriterPtr& writer) {
                      router_.Handle(request, writer);
                    })
                    .ok());
  }
  std::string Ask(const std::string& bytes) {
    Client client(server_->port());
    client.Send(bytes);
    return client.ReadAll();
  }
  // Waits on the server's own clock, not for a fixed time.
  bool Eventually(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) {
        return false;
      }
      Client client(server_->port());  // a round trip passes time
      client.Send("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
      client.ReadAll();
    }
    return true;
  }

  HttpOptions options_;
  std::unique_ptr<HttpServer> server_;  // outlives the service, whose sinks hold connections
  FakeService service_;
  const ApiContext context_ = FakeContext(service_);
  OpenAiApi api_{context_, "1.2.3", 2};
  Router router_{{.allowed_origins = {}, .new_request_id = [] { return std::string("id"); }}};
};

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

class RefusedRequests : public HttpLimits, public testing::WithParamInterface<RefusedBytes> {};

TEST_P(RefusedRequests, GetAnErrorAndAClosedConnection) {
  Start();
  // A second request behind it must not be answered: that would be smuggling.
  const std::string answer = Ask(GetParam().bytes);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + GetParam().status)) << answer;
  EXPECT_NE(answer.find("Connection: close"), std::string::npos);
  EXPECT_NE(answer.find("\"error\""), std::string::npos);
  EXPECT_EQ(answer.find("\"live\""), std::string::npos);
}

constexpr char kNext[] = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";

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
        RefusedBytes{"ChunkExtension",
                     "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "2;a=b\r\n{}\r\n0\r\n\r\n",
                     "400"},
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

TEST_F(HttpLimits, ConnectionsBeyondTheCapGet503) {
  options_.max_connections = 2;
  Start();
  Client first(server_->port());
  Client second(server_->port());
  first.Send("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  second.Send("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  first.ReadUntil("\"live\"");
  second.ReadUntil("\"live\"");
  const std::string refused = Ask("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 503")) << refused;
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  first.Close();
  EXPECT_TRUE(Eventually([this] {
    return Ask("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").find("200 OK") !=
           std::string::npos;
  }));
}

TEST_F(HttpLimits, AllBodiesTogetherAreBounded) {
  options_.max_total_body_bytes = 50'000;
  Start();
  Client holder(server_->port());
  holder.Send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" +
              std::string(60'000, ' '));
  EXPECT_TRUE(holder.ReadAll().starts_with("HTTP/1.1 503"));
  EXPECT_TRUE(Eventually([this] {  // given back
    return Ask(Post("/tokenize", R"({"prompt":"a"})", "Connection: close\r\n")).find("200 OK") !=
           std::string::npos;
  }));
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
