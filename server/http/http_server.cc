#include "server/http/http_server.h"

#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/asio/socket_base.hpp>
#include <exception>
#include <utility>

#include "kernels/base/check.h"

namespace thermocline {
namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

// Beyond the cap a connection is still told so, but only so many at a time.
constexpr size_t kMaxRefusals = 64;

constexpr std::chrono::seconds kTrimInterval{5};

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
      table_(options.max_total_body_bytes),
      work_(boost::asio::make_work_guard(io_context_)),
      acceptor_(io_context_),
      retry_timer_(io_context_),
      trim_timer_(io_context_) {}

HttpServer::~HttpServer() { Stop(); }

Result<std::unique_ptr<HttpServer>> HttpServer::Create(const HttpOptions& options) {
  if (options.host.find_first_not_of(" \t") == std::string::npos) {
    return InvalidArgument(
        "--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 every address");
  }
  RETURN_IF_ERROR(CheckOriginRules(options.origins));
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
  OriginRules rules = options_.origins;
  rules.allowed_hosts.push_back(options_.host);
  gate_.emplace(rules, endpoint.address().is_loopback());
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
  TrimMemory();
  for (int i = 0; i < options_.num_threads; ++i) {
    threads_.emplace_back([this] { RunThread(); });
  }
  return {};
}

// Connections catch what their own work throws; what is left is Asio's, for want of memory.
void HttpServer::RunThread() noexcept {
  while (!io_context_.stopped()) {
    try {
      io_context_.run();
    } catch (const std::exception& error) {
      spdlog::error("a connection was lost: {}", error.what());
    }
  }
}

// The allocator keeps what a burst of requests has freed, in every thread's heap, for ever.
void HttpServer::TrimMemory() {
  trim_timer_.expires_after(kTrimInterval);
  trim_timer_.async_wait([this](const error_code& error) {
    if (error) {
      return;
    }
    const uint64_t num_answers = table_.num_answers();
    if (table_.idle() && num_answers != std::exchange(num_trimmed_answers_, num_answers)) {
      malloc_trim(0);
    }
    TrimMemory();
  });
}

void HttpServer::Accept() {
  acceptor_.async_accept(boost::asio::make_strand(io_context_.get_executor()),
                         [this](const error_code& error, HttpConnection::Socket socket) {
                           OnAccept(error, std::move(socket));
                         });
}

void HttpServer::OnAccept(const error_code& error, HttpConnection::Socket socket) {
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
  try {
    Admit(std::move(socket));
  } catch (const std::exception& failure) {  // there must be a next one
    spdlog::warn("cannot serve a connection: {}", failure.what());
  }
  Accept();
}

void HttpServer::Admit(HttpConnection::Socket socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const std::string address = AddressKey(socket.remote_endpoint(ignored).address());
  std::optional<ApiError> refusal;
  const auto bound = [&](size_t count, int max, StatusCode code, const char* message) {
    if (max > 0 && count >= static_cast<size_t>(max) && !refusal) {
      refusal = FromStatus({code, message});
      refusal->code.clear();  // it is about no request
    }
    return max <= 0 || count < static_cast<size_t>(max) + kMaxRefusals;
  };
  if (!bound(table_.size(), options_.max_connections, StatusCode::kResourceExhausted,
             "the server has too many open connections") ||
      !bound(table_.num_from(address), options_.max_connections_per_address,
             StatusCode::kQuotaExceeded, "your address has too many open connections")) {
    return;
  }
  const ConnectionContext context{
      .options = options_, .handler = handler_, .table = table_, .gate = *gate_};
  const auto connection = std::make_shared<HttpConnection>(std::move(socket), address, context);
  if (refusal) {
    connection->Refuse(*std::move(refusal));
  } else {
    connection->Start();
  }
}

void HttpServer::Drain(std::function<void()> on_idle) {
  table_.Drain(std::move(on_idle));
  for (const auto& connection : table_.Connections()) {
    connection->CloseIfIdle();
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
