#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "server/api/openai_api.h"
#include "server/http/http_server.h"
#include "server/http/router.h"
#include "tests/server/api/fake_service.h"

namespace thermocline {

// A client that sends bytes as they are.
class Client {
 public:
  explicit Client(uint16_t port, int receive_bytes = 0) : socket_(io_context_) {
    const boost::asio::ip::tcp::endpoint endpoint(boost::asio::ip::address_v4::loopback(), port);
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
  void HalfClose() { socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send); }
  void Close() { socket_.close(); }

 private:
  boost::asio::io_context io_context_;
  boost::asio::ip::tcp::socket socket_;
};

inline std::string Post(const std::string& path, const std::string& body,
                        const std::string& more = "") {
  return fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n{}", path,
                     body.size(), more, body);
}

// A server on a free port over a fake engine.
class HttpRig : public testing::Test {
 protected:
  HttpRig() {
    options_.port = 0;
    options_.header_timeout = std::chrono::milliseconds(5000);
    options_.idle_timeout = std::chrono::milliseconds(5000);
  }
  ~HttpRig() override {
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
  Router router_{[] { return std::string("id"); }};
};

}  // namespace thermocline
