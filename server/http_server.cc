#include "server/http_server.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/asio/socket_base.hpp>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

// Beyond the cap a connection is still told so, but only so many at a time.
constexpr size_t kMaxRefusals = 64;

std::string Endpoint(const HttpOptions& options) {
  return options.host.find(':') == std::string::npos
             ? fmt::format("{}:{}", options.host, options.port)
             : fmt::format("[{}]:{}", options.host, options.port);
}

Status BindError(const HttpOptions& options, const error_code& error) {
  if (error == boost::asio::error::address_in_use) {
    return FailedPrecondition(
        "{} is taken by another process: stop that one, or choose another port with --port (0 "
        "picks "
        "a free one)",
        Endpoint(options));
  }
  if (error == boost::asio::error::access_denied) {
    return FailedPrecondition(
        "no permission to listen on {}: ports below 1024 are for root, choose another with --port",
        Endpoint(options));
  }
  return FailedPrecondition("cannot listen on {}: {}; see --host and --port", Endpoint(options),
                            error.message());
}

}  // namespace

HttpServer::HttpServer(const HttpOptions& options)
    : options_(options),
      work_(boost::asio::make_work_guard(io_context_)),
      acceptor_(io_context_),
      retry_timer_(io_context_) {}

HttpServer::~HttpServer() { Stop(); }

Result<std::unique_ptr<HttpServer>> HttpServer::Create(const HttpOptions& options) {
  std::unique_ptr<HttpServer> server(new HttpServer(options));  // NOLINT: private constructor
  RETURN_IF_ERROR(server->Bind());
  return server;
}

Status HttpServer::Bind() {
  error_code error;
  tcp::resolver resolver(io_context_);
  const auto found =
      resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    return BindError(options_, error);
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), error);
  if (!error) {
    acceptor_.set_option(boost::asio::socket_base::reuse_address(true), error);
  }
  if (!error) {
    acceptor_.bind(endpoint, error);
  }
  if (error) {
    return BindError(options_, error);
  }
  port_ = acceptor_.local_endpoint(error).port();
  return {};
}

Status HttpServer::Start(HttpHandler handler) {
  CHECK(threads_.empty());
  handler_ = std::move(handler);
  error_code error;
  acceptor_.listen(boost::asio::socket_base::max_listen_connections, error);
  if (error) {
    return BindError(options_, error);
  }
  Accept();
  for (int i = 0; i < options_.num_threads; ++i) {
    threads_.emplace_back([this] { io_context_.run(); });
  }
  return {};
}

void HttpServer::Accept() {
  acceptor_.async_accept(boost::asio::make_strand(io_context_.get_executor()),
                         [this](const error_code& error, HttpSession::Socket socket) {
                           OnAccept(error, std::move(socket));
                         });
}

void HttpServer::OnAccept(const error_code& error, HttpSession::Socket socket) {
  if (error == boost::asio::error::operation_aborted || table_.stopped()) {
    return;
  }
  if (error) {  // out of descriptors or memory: wait, do not spin
    spdlog::warn("cannot accept a connection: {}", error.message());
    retry_timer_.expires_after(std::chrono::milliseconds(100));
    retry_timer_.async_wait([this](const error_code& failed) {
      if (!failed) {
        Accept();
      }
    });
    return;
  }
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const size_t num_connections = table_.size();
  if (num_connections < static_cast<size_t>(options_.max_connections)) {
    std::make_shared<HttpSession>(std::move(socket), options_, handler_, table_)->Start();
  } else if (num_connections < static_cast<size_t>(options_.max_connections) + kMaxRefusals) {
    std::make_shared<HttpSession>(std::move(socket), options_, handler_, table_)->Refuse();
  }
  Accept();
}

void HttpServer::Drain(std::function<void()> on_idle) {
  table_.Drain(std::move(on_idle));
  for (const auto& session : table_.Sessions()) {
    session->CloseIfIdle();
  }
}

void HttpServer::Stop() {
  table_.Stop();
  io_context_.stop();
  threads_.clear();  // joins
  error_code ignored;
  acceptor_.close(ignored);
}

}  // namespace thermocline
