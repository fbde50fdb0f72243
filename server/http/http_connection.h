#pragma once

#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/connection_table.h"
#include "server/http/http_options.h"
#include "server/http/http_types.h"
#include "server/http/origin_gate.h"

namespace thermocline {

// What the connections of one server share. The server outlives them.
struct ConnectionContext {
  const HttpOptions& options;
  const HttpHandler& handler;
  ConnectionTable& table;
  const OriginGate& gate;
};

// One HTTP/1.1 connection: reads requests one after the other, hands each to the handler, writes
// the answer. Owned by its pending operations (shared_ptr). Everything runs on the socket's strand.
//
// What a client can make it keep is bounded before it is kept: input that the parser has not used
// by the header's limit, bodies and whole answers by the table's budget, unsent output by the
// backlog's. An exception of a library (memory has run out) ends this connection and no other.
//
// A read stays pending while an answer is under way, so that a client that goes is noticed within
// the same step. A half-closed connection counts as gone once its answer can be cancelled: closing
// a socket looks the same from here.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket =
      boost::asio::basic_stream_socket<boost::asio::ip::tcp,
                                       boost::asio::strand<boost::asio::io_context::executor_type>>;

  // `address`: the client's, as AddressKey has it.
  HttpConnection(Socket socket, std::string address, const ConnectionContext& context);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  void Start();
  // Answers with this error whatever comes and closes: there are too many connections.
  void Refuse(ApiError error);
  void CloseIfIdle();                      // any thread
  bool closed() const { return closed_; }  // any thread

 private:
  friend class ConnectionWriter;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;
  enum class State { kIdle, kHeader, kBody, kAnswering, kLingering, kClosed };

  // Runs `task` on the strand; what it throws costs this connection alone.
  template <typename Task>
  void Guarded(Task&& task) noexcept;
  void OnException(const char* what);

  // Reading.
  void Read();
  void OnRead(const ErrorCode& error, size_t num_bytes);
  void OnInputClosed(const ErrorCode& error);
  void OnReadTimeout();
  void Parse();
  bool SkipBlankLines();  // false: the request was refused; so the next ones
  bool AcceptHeader();
  bool CheckFraming();
  bool CheckContent();
  bool AcceptBody(size_t used);
  void NoteOrigin();  // where a request could not be parsed
  void Dispatch();
  void NextRequest();
  void RefuseRequest(ApiError error);
  void RefuseMalformed(const ErrorCode& error);
  void StartTimer(std::chrono::milliseconds timeout);

  void BeginAnswer();

  // Answering; `answer` tells a late call for an earlier answer from one for this.
  void AddHeader(uint64_t answer, std::string name, std::string value);
  void Respond(uint64_t answer, HttpResponse response);
  void RespondInPieces(HttpResponse response);
  void StartStream(uint64_t answer, const HttpResponse& head);
  void WriteStream(uint64_t answer, std::string bytes);
  void EndStream(uint64_t answer);
  void SetDisconnect(uint64_t answer, std::function<void()> callback);
  void AnswerNothing(uint64_t answer);  // its writer is gone
  std::string Head(const HttpResponse& response, std::optional<size_t> body_bytes) const;

  // Writing.
  void Enqueue(std::string bytes);
  void EnqueuePiece();  // the next one, where an answer is made piece by piece
  void WriteSome();
  void StartWriteTimer();
  void OnWrite(const ErrorCode& error, size_t num_bytes);
  void FinishAnswer();  // all is sent
  void EndAnswer();
  void Linger();
  void Close();

  Socket socket_;
  const std::string address_;
  const HttpOptions& options_;
  const HttpHandler& handler_;
  ConnectionTable& table_;
  const OriginGate& gate_;

  State state_ = State::kIdle;
  std::array<char, 16384> chunk_;  // the pending read's
  std::string input_;              // read, not yet parsed
  std::optional<Parser> parser_;
  std::shared_ptr<HttpRequest> request_;  // from its header on, until it is handled
  size_t num_blank_bytes_ = 0;            // before the request
  uint64_t num_wire_bytes_ = 0;           // that its body has taken, with what frames it
  uint64_t num_held_bytes_ = 0;           // that its body holds of the table's budget
  bool reading_ = false;
  bool input_closed_ = false;
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
  std::function<std::string()> next_piece_;
  ByteHold answer_hold_;
  bool chunked_ = false;  // the pieces need framing
  bool writing_ = false;
  size_t paced_bytes_ = 0;  // sent since the write timer was started

  std::atomic<bool> closed_{false};
  std::atomic<bool> broken_{false};  // part of the answer is lost: it must not look whole
};

template <typename Task>
void HttpConnection::Guarded(Task&& task) noexcept {
  try {
    if (broken_ && state_ == State::kAnswering) {
      Close();
      return;
    }
    task();
  } catch (const std::exception& error) {
    OnException(error.what());
  }
}

}  // namespace thermocline
