#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/status.h"
#include "server/http/connection_table.h"
#include "server/http/http_connection.h"
#include "server/http/http_options.h"
#include "server/http/http_types.h"
#include "server/http/origin_gate.h"

namespace thermocline {

// Listens on one address and runs the I/O threads. Create binds, so that a port that is taken is
// known before a model is loaded; Start listens. The handler is called on the I/O threads and must
// outlive Stop.
class HttpServer {
 public:
  // kFailedPrecondition with advice when the address cannot be had.
  static Result<std::unique_ptr<HttpServer>> Create(const HttpOptions& options);
  ~HttpServer();  // stops
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Once.
  Status Start(HttpHandler handler);
  uint16_t port() const { return port_; }
  boost::asio::io_context& io_context() { return io_context_; }
  size_t num_connections() const { return table_.size(); }

  // Connections that answer go on, new ones are still answered, all close after their answer.
  // `on_idle` is called once, on any thread, when no answer is under way.
  void Drain(std::function<void()> on_idle);
  // Closes all connections and joins the threads. Not from an I/O thread.
  void Stop();

 private:
  explicit HttpServer(const HttpOptions& options);
  Status Bind();
  void Accept();
  void OnAccept(const boost::system::error_code& error, HttpConnection::Socket socket);
  void Admit(HttpConnection::Socket socket);

  void RunThread() noexcept;
  void TrimMemory();

  const HttpOptions options_;
  HttpHandler handler_;
  std::optional<OriginGate> gate_;  // once the address is known
  ConnectionTable table_;  // outlives the context, whose destruction ends the last connections
  boost::asio::io_context io_context_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer retry_timer_;
  boost::asio::steady_timer trim_timer_;
  uint64_t num_trimmed_answers_ = 0;
  uint16_t port_ = 0;
  std::vector<std::jthread> threads_;
};

}  // namespace thermocline
