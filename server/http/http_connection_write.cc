// The answering half of HttpConnection.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/status.hpp>
#include <chrono>
#include <ctime>
#include <optional>
#include <utility>

#include "kernels/base/check.h"
#include "server/http/http_connection.h"

namespace thermocline {
namespace {

constexpr size_t kMaxBuffersPerWrite = 16;
constexpr size_t kPieceBytes = size_t{64} << 10;    // a large answer is sent in such pieces
constexpr size_t kMinPaceBytes = size_t{16} << 10;  // within a write timeout
constexpr std::chrono::milliseconds kLingerTimeout{2000};

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 40> text{};
  const size_t size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), size};
}

std::string ReasonPhrase(int status) {
  const auto reason = boost::beast::http::obsolete_reason(
      static_cast<boost::beast::http::status>(static_cast<unsigned>(status)));
  return {reason.data(), reason.size()};
}

}  // namespace

// Without `body_bytes` the body's length is not known: chunks, or until the connection closes.
std::string HttpConnection::Head(const HttpResponse& response,
                                 std::optional<size_t> body_bytes) const {
  std::string head =
      fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nConnection: {}\r\n", response.status,
                  ReasonPhrase(response.status), HttpDate(), keep_alive_ ? "keep-alive" : "close");
  if (!response.content_type.empty()) {
    head += fmt::format("Content-Type: {}\r\n", response.content_type);
  }
  if (!body_bytes && !http_1_0_) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (body_bytes && response.status != 204 && response.status != 304) {
    head += fmt::format("Content-Length: {}\r\n", *body_bytes);
  }
  for (const HttpHeaders* headers : {&response.headers, &extra_headers_}) {
    for (const auto& [name, value] : *headers) {
      CHECK(value.find_first_of("\r\n") == std::string::npos);
      head += fmt::format("{}: {}\r\n", name, value);
    }
  }
  return head + "\r\n";
}

void HttpConnection::AddHeader(uint64_t answer, std::string name, std::string value) {
  if (answer == answer_ && state_ == State::kAnswering) {
    extra_headers_.emplace_back(std::move(name), std::move(value));
  }
}

void HttpConnection::Respond(uint64_t answer, HttpResponse response) {
  if (answer != answer_ || state_ != State::kAnswering || started_) {
    return;
  }
  const size_t held_bytes = response.body.size() + response.held_bytes;
  if (held_bytes > options_.max_stream_backlog_bytes &&
      !answer_hold_.Grow(table_.held_bytes(), held_bytes)) {
    ApiError error;
    error.http_status = 503;
    error.message = "too many large answers are under way";
    error.retry_after_seconds = 1;
    response = ErrorResponse(error);
  }
  started_ = true;
  keep_alive_ = keep_alive_ && !table_.draining();
  if (response.next_piece || response.body.size() > kPieceBytes) {
    RespondInPieces(std::move(response));
    return;
  }
  complete_ = true;
  std::string bytes = Head(response, response.body.size());
  if (!head_only_) {
    bytes += response.body;
  }
  Enqueue(std::move(bytes));
}

// However slowly it is read, what waits to be sent is one piece.
void HttpConnection::RespondInPieces(HttpResponse response) {
  const bool known_length = !response.next_piece;
  keep_alive_ = keep_alive_ && (known_length || !http_1_0_);
  chunked_ = !known_length && !http_1_0_;
  std::string head =
      Head(response, known_length ? std::optional(response.body.size()) : std::nullopt);
  if (head_only_) {
    complete_ = true;
  } else if (known_length) {
    next_piece_ = [body = std::move(response.body), at = size_t{0}]() mutable {
      std::string piece = body.substr(at, kPieceBytes);
      at += piece.size();
      return piece;
    };
  } else {
    next_piece_ = std::move(response.next_piece);
  }
  Enqueue(std::move(head));
}

void HttpConnection::EnqueuePiece() {
  std::string piece = next_piece_();
  if (!piece.empty()) {
    Enqueue(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::move(piece));
    return;
  }
  next_piece_ = nullptr;
  complete_ = true;
  if (chunked_) {
    Enqueue("0\r\n\r\n");
  }
}

void HttpConnection::StartStream(uint64_t answer, const HttpResponse& head) {
  if (answer != answer_ || state_ != State::kAnswering || started_) {
    return;
  }
  started_ = true;
  keep_alive_ = keep_alive_ && !table_.draining() && !http_1_0_;
  Enqueue(Head(head, std::nullopt));
}

void HttpConnection::WriteStream(uint64_t answer, std::string bytes) {
  if (answer != answer_ || state_ != State::kAnswering || !started_ || bytes.empty()) {
    return;
  }
  if (out_bytes_ + bytes.size() > options_.max_stream_backlog_bytes) {
    spdlog::warn("a client reads too slowly: {} bytes of its stream are unsent; disconnecting it",
                 out_bytes_);
    Close();
    return;
  }
  Enqueue(http_1_0_ ? std::move(bytes) : fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes));
}

void HttpConnection::EndStream(uint64_t answer) {
  if (answer != answer_ || state_ != State::kAnswering || !started_ || complete_) {
    return;
  }
  complete_ = true;
  if (!http_1_0_) {
    Enqueue("0\r\n\r\n");
  } else if (!writing_) {
    FinishAnswer();
  }
}

void HttpConnection::SetDisconnect(uint64_t answer, std::function<void()> callback) {
  if (answer != answer_ || state_ != State::kAnswering) {
    callback();  // the connection is closed
    return;
  }
  on_disconnect_ = std::move(callback);
  if (input_closed_) {
    Close();
  }
}

void HttpConnection::AnswerNothing(uint64_t answer) {
  if (answer != answer_ || state_ != State::kAnswering || complete_) {
    return;
  }
  if (started_) {
    Close();  // a stream without its end must not look whole
    return;
  }
  ApiError error;
  error.http_status = 500;
  error.message = "the server gave no answer";
  Respond(answer, ErrorResponse(error));
}

void HttpConnection::Enqueue(std::string bytes) {
  out_bytes_ += bytes.size();
  out_.push_back(std::move(bytes));
  if (!writing_) {
    WriteSome();
  }
}

void HttpConnection::WriteSome() {
  std::array<boost::asio::const_buffer, kMaxBuffersPerWrite> buffers;
  size_t num_buffers = 0;
  for (const std::string& bytes : out_) {
    if (num_buffers == buffers.size()) {
      break;
    }
    buffers[num_buffers] = boost::asio::buffer(bytes);
    if (num_buffers == 0) {
      buffers[0] += out_offset_;
    }
    ++num_buffers;
  }
  if (!std::exchange(writing_, true) && paced_bytes_ == 0) {
    StartWriteTimer();
  }
  socket_.async_write_some(buffers, [self = shared_from_this()](
                                        const boost::system::error_code& error, size_t num_bytes) {
    self->Guarded([&] { self->OnWrite(error, num_bytes); });
  });
}

// One byte now and then is not reading: it would hold the answer for ever.
void HttpConnection::StartWriteTimer() {
  write_timer_.expires_after(options_.write_timeout);
  write_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (!error && self->writing_ &&
        self->write_timer_.expiry() <= std::chrono::steady_clock::now()) {
      spdlog::warn("a client has stopped reading; disconnecting it");
      self->Close();
    }
  });
}

void HttpConnection::OnWrite(const boost::system::error_code& error, size_t num_bytes) {
  writing_ = false;
  if (state_ == State::kClosed) {
    return;
  }
  if (error) {
    Close();
    return;
  }
  out_bytes_ -= num_bytes;
  out_offset_ += num_bytes;
  paced_bytes_ += num_bytes;
  if (paced_bytes_ >= kMinPaceBytes) {
    paced_bytes_ = 0;  // the next write starts the timer anew
  }
  while (!out_.empty() && out_offset_ >= out_.front().size()) {
    out_offset_ -= out_.front().size();
    out_.pop_front();
  }
  if (!out_.empty()) {
    WriteSome();
    return;
  }
  if (state_ == State::kAnswering && next_piece_) {
    EnqueuePiece();
    if (!out_.empty()) {
      return;
    }
  }
  write_timer_.cancel();
  paced_bytes_ = 0;
  if (state_ == State::kAnswering && complete_) {
    FinishAnswer();
  }
}

void HttpConnection::FinishAnswer() {
  EndAnswer();
  if (!keep_alive_ || input_closed_ || table_.draining()) {
    Linger();
  } else {
    NextRequest();
  }
}

void HttpConnection::EndAnswer() {
  on_disconnect_ = nullptr;
  next_piece_ = nullptr;
  state_ = State::kIdle;
  table_.EndAnswer();
}

// Closing a socket with unread input resets the connection, and the client may lose the answer: so
// the input is read for a while longer.
void HttpConnection::Linger() {
  boost::system::error_code ignored;
  socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
  if (input_closed_) {
    Close();
    return;
  }
  state_ = State::kLingering;
  request_.reset();
  answer_hold_.Release();
  input_ = {};
  StartTimer(kLingerTimeout);
  Read();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) {
    return;
  }
  const bool answering = state_ == State::kAnswering;
  std::function<void()> on_disconnect = std::exchange(on_disconnect_, nullptr);
  if (answering) {
    EndAnswer();
  }
  state_ = State::kClosed;
  closed_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  read_timer_.cancel();
  write_timer_.cancel();
  request_.reset();
  input_ = {};
  out_.clear();
  answer_hold_.Release();
  if (answering && on_disconnect) {
    on_disconnect();
  }
}

}  // namespace thermocline
