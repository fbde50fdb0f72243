#include "server/http_session.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <cctype>
#include <utility>

#include "server/session_writer.h"
#include "server/url.h"

namespace thermocline {
namespace {

namespace http = boost::beast::http;

constexpr size_t kMaxPipelinedBytes = size_t{64} << 10;  // read ahead of a running answer
constexpr size_t kMaxHeaderFields = 100;
constexpr size_t kMaxLingerBytes = size_t{32} << 20;

std::string_view View(boost::beast::string_view view) { return {view.data(), view.size()}; }

ApiError HttpError(int status, std::string message) {
  ApiError error;
  error.http_status = status;
  error.message = std::move(message);
  return error;
}

bool IsChunked(std::string_view transfer_encoding) {
  std::string lower;
  for (const char c : transfer_encoding) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return lower == "chunked";
}

}  // namespace

HttpSession::HttpSession(Socket socket, const HttpOptions& options, const HttpHandler& handler,
                         ConnectionTable& table)
    : socket_(std::move(socket)),
      options_(options),
      handler_(handler),
      table_(table),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {
  // Extensions carry nothing that we could use and have been a way around limits.
  on_chunk_header_ = [](uint64_t /*size*/, boost::beast::string_view extensions, ErrorCode& error) {
    if (!extensions.empty()) {
      error = http::error::bad_chunk_extension;
    }
  };
}

HttpSession::~HttpSession() {
  table_.ReleaseBody(reserved_body_bytes_);
  table_.Remove(this);
}

void HttpSession::Start() {
  table_.Add(shared_from_this());
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->NextRequest(); });
}

void HttpSession::Refuse() {
  table_.Add(shared_from_this());
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
    ApiError error = HttpError(503, "the server has too many open connections");
    error.retry_after_seconds = 1;
    self->RefuseRequest(std::move(error));
  });
}

void HttpSession::CloseIfIdle() {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->state_ == State::kIdle && self->input_.empty()) {
      self->Close();
    }
  });
}

void HttpSession::Abort() {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->Close(); });
}

void HttpSession::NextRequest() {
  if (state_ == State::kClosed) {
    return;
  }
  state_ = State::kIdle;
  table_.ReleaseBody(std::exchange(reserved_body_bytes_, 0));
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(options_.max_header_bytes);
  parser_->body_limit(options_.max_body_bytes);
  parser_->on_chunk_header(on_chunk_header_);
  extra_headers_.clear();
  started_ = complete_ = head_only_ = http_1_0_ = false;
  keep_alive_ = true;
  StartTimer(options_.idle_timeout);
  Parse();
}

void HttpSession::StartTimer(std::chrono::milliseconds timeout) {
  read_timer_.expires_after(timeout);
  read_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (!error && self->read_timer_.expiry() <= std::chrono::steady_clock::now()) {
      self->OnReadTimeout();
    }
  });
}

void HttpSession::OnReadTimeout() {
  if (state_ == State::kHeader || state_ == State::kBody) {
    RefuseRequest(HttpError(408, "the request did not arrive in time"));
  } else if (state_ == State::kIdle || state_ == State::kLingering) {
    Close();
  }
}

void HttpSession::Read() {
  if (reading_ || input_closed_ || state_ == State::kClosed ||
      (state_ == State::kAnswering && input_.size() >= kMaxPipelinedBytes)) {
    return;
  }
  reading_ = true;
  socket_.async_read_some(boost::asio::buffer(chunk_),
                          [self = shared_from_this()](const ErrorCode& error, size_t num_bytes) {
                            self->OnRead(error, num_bytes);
                          });
}

void HttpSession::OnRead(const ErrorCode& error, size_t num_bytes) {
  reading_ = false;
  if (state_ == State::kClosed) {
    return;
  }
  if (error) {
    OnInputClosed(error);
    return;
  }
  if (state_ == State::kLingering) {
    lingered_bytes_ += num_bytes;
    if (lingered_bytes_ > kMaxLingerBytes) {
      Close();
      return;
    }
  } else {
    input_.append(chunk_.data(), num_bytes);
  }
  if (state_ == State::kAnswering || state_ == State::kLingering) {
    Read();
  } else {
    Parse();
  }
}

void HttpSession::OnInputClosed(const ErrorCode& error) {
  input_closed_ = true;
  const bool half_closed = error == boost::asio::error::eof;
  // An answer that nothing can cancel is short: it is still sent to a client that half-closed.
  if (state_ == State::kAnswering && half_closed && !on_disconnect_) {
    return;
  }
  Close();
}

void HttpSession::Parse() {
  while (!input_.empty() && state_ != State::kAnswering && !parser_->is_done()) {
    if (state_ == State::kIdle) {
      state_ = State::kHeader;
      StartTimer(options_.header_timeout);
    }
    ErrorCode error;
    const size_t used = parser_->put(boost::asio::buffer(input_), error);
    input_.erase(0, used);
    if (error && error != http::error::need_more) {
      RefuseMalformed(error);
      return;
    }
    if (state_ == State::kHeader && parser_->is_header_done()) {
      if (!AcceptHeader()) {
        return;
      }
      state_ = State::kBody;
      StartTimer(options_.body_timeout);
    }
    if (state_ == State::kBody && !ReserveBody(used)) {
      return;
    }
    if (error == http::error::need_more || used == 0) {
      break;
    }
  }
  if (state_ == State::kBody && parser_->is_done()) {
    Dispatch();
  }
  Read();
}

// What Beast lets pass, and a server that others may stand in front of must not.
bool HttpSession::AcceptHeader() {
  const auto& header = parser_->get();
  const auto refuse = [this](int status, std::string message) {
    RefuseRequest(HttpError(status, std::move(message)));
    return false;
  };
  if (header.version() != 11 && header.version() != 10) {
    return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  }
  size_t num_fields = 0;
  size_t num_hosts = 0;
  size_t num_lengths = 0;
  for (const auto& field : header) {
    ++num_fields;
    num_hosts += field.name() == http::field::host ? 1 : 0;
    num_lengths += field.name() == http::field::content_length ? 1 : 0;
  }
  if (num_fields > kMaxHeaderFields) {
    return refuse(431, fmt::format("more than {} header fields", kMaxHeaderFields));
  }
  if (num_hosts > 1 || (num_hosts == 0 && header.version() == 11)) {
    return refuse(400, "there must be one Host header");
  }
  const bool has_encoding = header.count(http::field::transfer_encoding) > 0;
  if (num_lengths > 1 || (num_lengths > 0 && has_encoding)) {
    return refuse(400, "the length of the body is given twice");
  }
  if (has_encoding &&
      (header.version() == 10 || !IsChunked(View(header.at(http::field::transfer_encoding))))) {
    return refuse(501, "the only Transfer-Encoding understood is `chunked`");
  }
  if (header.count(http::field::expect) > 0) {
    if (!boost::beast::iequals(header.at(http::field::expect), "100-continue")) {
      return refuse(417, "the only expectation understood is `100-continue`");
    }
    if (header.version() == 11 && !parser_->is_done()) {
      Enqueue("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
  return true;
}

bool HttpSession::ReserveBody(uint64_t bytes) {
  if (!table_.ReserveBody(bytes, options_.max_total_body_bytes)) {
    ApiError error = HttpError(503, "too many large requests are under way");
    error.retry_after_seconds = 1;
    RefuseRequest(std::move(error));
    return false;
  }
  reserved_body_bytes_ += bytes;
  return true;
}

void HttpSession::Dispatch() {
  http::request<http::string_body> message = parser_->release();
  auto request = std::make_shared<HttpRequest>();
  request->method = View(message.method_string());
  request->target = View(message.target());
  request->path = UrlPath(request->target);
  for (const auto& field : message) {
    std::string name(View(field.name_string()));
    for (char& c : name) {
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    request->headers.emplace_back(std::move(name), View(field.value()));
  }
  request->body = std::move(message.body());
  head_only_ = message.method() == http::verb::head;
  http_1_0_ = message.version() == 10;
  keep_alive_ = message.keep_alive();
  read_timer_.cancel();
  BeginAnswer();
  handler_(request, std::make_shared<SessionWriter>(shared_from_this(), answer_));
}

void HttpSession::BeginAnswer() {
  state_ = State::kAnswering;
  ++answer_;
  table_.BeginAnswer();
}

// The rest of the input cannot be trusted to start a request, so the connection ends here.
void HttpSession::RefuseRequest(ApiError error) {
  if (state_ == State::kClosed) {
    return;
  }
  spdlog::debug("refused a request: {} {}", error.http_status, error.message);
  read_timer_.cancel();
  keep_alive_ = false;
  BeginAnswer();
  Respond(answer_, ErrorResponse(error));
  Read();
}

void HttpSession::RefuseMalformed(const ErrorCode& error) {
  if (error == http::error::header_limit) {
    RefuseRequest(HttpError(
        431, fmt::format("the header is longer than {} bytes", options_.max_header_bytes)));
  } else if (error == http::error::body_limit || error == http::error::buffer_overflow) {
    RefuseRequest(
        HttpError(413, fmt::format("the body is longer than {} bytes", options_.max_body_bytes)));
  } else {
    RefuseRequest(HttpError(400, fmt::format("malformed HTTP: {}", error.message())));
  }
}

}  // namespace thermocline
