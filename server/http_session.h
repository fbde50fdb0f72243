#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/string_type.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/connection_table.h"
#include "server/http_options.h"
#include "server/http_types.h"

namespace thermocline {

// One HTTP/1.1 connection: reads requests one after the other, hands each to the handler, writes
// the answer. Owned by its pending operations (shared_ptr). Everything runs on the socket's strand.
//
// A read stays pending while an answer is under way, so that a client that goes is noticed within
// the same step. A half-closed connection counts as gone once its answer can be cancelled: closing
// a socket looks the same from here.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket =
      boost::asio::basic_stream_socket<boost::asio::ip::tcp,
                                       boost::asio::strand<boost::asio::io_context::executor_type>>;

  // The rest is borrowed from the server, which outlives its sessions.
  HttpSession(Socket socket, const HttpOptions& options, const HttpHandler& handler,
              ConnectionTable& table);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  void Start();
  // Answers 503 to whatever comes and closes: there are too many connections.
  void Refuse();
  void CloseIfIdle();  // any thread
  void Abort();        // any thread

 private:
  friend class SessionWriter;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;
  enum class State { kIdle, kHeader, kBody, kAnswering, kLingering, kClosed };

  // Reading.
  void Read();
  void OnRead(const ErrorCode& error, size_t num_bytes);
  void OnInputClosed(const ErrorCode& error);
  void OnReadTimeout();
  void Parse();
  bool AcceptHeader();               // false: the request was refused
  bool ReserveBody(uint64_t bytes);  // false: likewise
  void Dispatch();
  void NextRequest();
  void RefuseRequest(ApiError error);
  void RefuseMalformed(const ErrorCode& error);
  void StartTimer(std::chrono::milliseconds timeout);

  void BeginAnswer();

  // Answering; `answer` tells a late call for an earlier answer from one for this.
  void AddHeader(uint64_t answer, std::string name, std::string value);
  void Respond(uint64_t answer, const HttpResponse& response);
  void StartStream(uint64_t answer, const HttpResponse& head);
  void WriteStream(uint64_t answer, std::string bytes);
  void EndStream(uint64_t answer);
  void SetDisconnect(uint64_t answer, std::function<void()> callback);
  void AnswerNothing(uint64_t answer);  // its writer is gone
  std::string Head(const HttpResponse& response, std::optional<size_t> body_bytes) const;

  // Writing.
  void Enqueue(std::string bytes);
  void WriteSome();
  void OnWrite(const ErrorCode& error, size_t num_bytes);
  void FinishAnswer();  // all is sent
  void EndAnswer();
  void Linger();
  void Close();

  Socket socket_;
  const HttpOptions& options_;
  const HttpHandler& handler_;
  ConnectionTable& table_;

  State state_ = State::kIdle;
  std::array<char, 16384> chunk_;  // the pending read's
  std::string input_;              // read, not yet parsed
  std::optional<Parser> parser_;
  std::function<void(uint64_t, boost::beast::string_view, ErrorCode&)> on_chunk_header_;
  bool reading_ = false;
  bool input_closed_ = false;
  uint64_t reserved_body_bytes_ = 0;
  size_t lingered_bytes_ = 0;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;

  uint64_t answer_ = 0;     // counts requests
  bool head_only_ = false;  // HEAD
  bool http_1_0_ = false;   // no chunks
  bool keep_alive_ = true;
  bool started_ = false;   // the answer's head is queued
  bool complete_ = false;  // the answer's last byte is queued
  HttpHeaders extra_headers_;
  std::function<void()> on_disconnect_;

  std::deque<std::string> out_;
  size_t out_bytes_ = 0;   // unsent
  size_t out_offset_ = 0;  // sent bytes of the first
  bool writing_ = false;
};

}  // namespace thermocline
